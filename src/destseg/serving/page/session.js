// What was inspected since the page was opened, in bounded memory, and as files to save.

/** Whole images with their maps; entries with a small image; lines of what is saved. */
export const KEPT = { images: 50, entries: 200, lines: 10000 };

const COLUMNS = ["path", "model", "time", "is_defective", "score", "threshold", "p_value",
  "pixel_threshold", "width", "height", "regions", "error"];

export class Session {
  /** `forget(entry)` is told of each entry that is not kept any more. */
  constructor(forget) {
    this.forget = forget;
    this.clear();
  }

  clear() {
    for (const entry of this.entries ?? []) this.forget(entry);
    this.entries = []; // in the order they were given
    this.lines = new Map(); // number -> what is saved of it
    this.given = 0;
  }

  add(file, name) {
    this.given += 1;
    const entry = { number: this.given, name, file, time: new Date(), state: "running" };
    this.entries.push(entry);
    return entry;
  }

  /** Take down an entry that has a result or a reason; let go of what is too much, but not of `shown`. */
  finish(entry, shown) {
    this.lines.set(entry.number, line(entry));
    if (this.lines.size > KEPT.lines) this.lines.delete(this.lines.keys().next().value);
    const ended = this.entries.filter(each => each.state !== "running" && each !== shown);
    const whole = ended.filter(each => each.file);
    for (const old of whole.slice(0, Math.max(0, whole.length - KEPT.images))) {
      old.file = old.heat = null;
    }
    for (const old of ended.slice(0, Math.max(0, this.entries.length - KEPT.entries))) {
      this.entries.splice(this.entries.indexOf(old), 1);
      this.forget(old);
    }
  }

  get defective() {
    return this.entries.filter(entry => entry.result?.is_defective).length;
  }

  /** One JSON object a line, as `destseg predict` writes them. */
  asLines() {
    return this.#sorted().map(each => `${JSON.stringify(each)}\n`).join("");
  }

  /** A table with the number of regions. */
  asTable() {
    const rows = this.#sorted().map(each => ({ ...each, regions: each.regions?.length }));
    return [COLUMNS, ...rows.map(row => COLUMNS.map(name => row[name]))]
      .map(cells => `${cells.map(cell).join(",")}\r\n`).join("");
  }

  #sorted() {
    return [...this.lines].sort(([a], [b]) => a - b).map(([, each]) => each);
  }
}

function line({ name, time, result, reason, model }) {
  const said = result ? { ...result } : { error: reason };
  return { ...said, path: name, model: result?.model ?? model ?? null, time: time.toISOString() };
}

/** A field of a table; text that a spreadsheet would run as a formula stays text. */
function cell(value) {
  if (value === undefined || value === null) return "";
  const text = typeof value === "string" ? value.replace(/^(?=[=+\-@\t\r])/, "'") : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
