// The session as a list of small images: one is selected, the arrow keys go on from it.

import { byId, element } from "./elements.js";
import { VERDICTS, verdictOf } from "./verdicts.js";
import { count } from "./words.js";
import { KEPT } from "./session.js";

export class History {
  /** `select(entry)` is called when one is chosen here. */
  constructor(session, select) {
    this.session = session;
    this.select = select;
    this.buttons = new Map();
    this.current = null;
    byId("previous").addEventListener("click", () => this.go(-1));
    byId("next").addEventListener("click", () => this.go(1));
    byId("only-defective").addEventListener("change", () => this.update());
    byId("entries").addEventListener("keydown", event => this.#atKey(event));
  }

  /** Show an entry as it is now, and count all anew. */
  update(entry) {
    if (entry && this.session.entries.includes(entry)) this.#draw(entry);
    const { entries, defective, given } = this.session;
    byId("history").hidden = entries.length === 0;
    byId("history-count").textContent = `${count(entries.length, "image")}, ${defective} defective`;
    const only = byId("only-defective").checked;
    for (const [each, button] of this.buttons) {
      button.parentElement.hidden = only && !each.result?.is_defective;
    }
    this.#mark();
    const told = [];
    if (only && !defective) told.push("None of them is defective.");
    if (given > entries.length) {
      told.push(`The last ${KEPT.entries} are listed; what is saved has the last ` +
        `${Math.min(given, KEPT.lines)}.`);
    }
    byId("history-note").hidden = told.length === 0;
    byId("history-note").textContent = told.join(" ");
  }

  forget(entry) {
    this.buttons.get(entry)?.parentElement.remove();
    this.buttons.delete(entry);
    if (entry.thumb) URL.revokeObjectURL(entry.thumb);
  }

  setCurrent(entry) {
    this.current = entry;
    this.#mark();
    const list = byId("entries"), item = this.buttons.get(entry)?.parentElement;
    if (!item || item.hidden) return;
    // Not scrollIntoView: that moves the page too.
    const top = item.offsetTop - list.offsetTop, bottom = top + item.offsetHeight;
    if (top < list.scrollTop || bottom > list.scrollTop + list.clientHeight) list.scrollTop = top;
  }

  /** Select the one that is some steps on among those that are listed. */
  go(steps) {
    const listed = this.#listed(), place = listed.indexOf(this.current);
    const from = place >= 0 ? place
      : listed.filter(each => each.number < (this.current?.number ?? 0)).length - (steps > 0 ? 1 : 0);
    const next = listed[Math.min(listed.length - 1, Math.max(0, from + steps))];
    if (next) this.#choose(next);
  }

  #choose(entry) {
    const inList = byId("entries").contains(document.activeElement);
    this.select(entry);
    if (inList) this.buttons.get(entry).focus({ preventScroll: true });
  }

  #listed() {
    return this.session.entries.filter(each => !this.buttons.get(each)?.parentElement.hidden);
  }

  #mark() {
    const listed = this.#listed();
    const stop = listed.includes(this.current) ? this.current : listed[0]; // one tab stop for the list
    for (const [each, button] of this.buttons) {
      button.tabIndex = each === stop ? 0 : -1;
      if (each === this.current) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }

  #draw(entry) {
    let button = this.buttons.get(entry);
    if (!button) {
      button = element("button", { type: "button" });
      button.addEventListener("click", () => this.#choose(entry));
      this.buttons.set(entry, button);
      byId("entries").append(element("li", {}, button));
    }
    const verdict = verdictOf(entry), { sign, word } = VERDICTS[verdict];
    const small = entry.thumb ? [element("img", { alt: "", src: entry.thumb })] : [];
    button.className = verdict;
    button.replaceChildren(
      element("span", { class: "thumb" }, ...small),
      element("span", { class: "outcome" }, `${sign} ${word}`),
      element("span", { class: "name", title: entry.name }, entry.name),
      element("span", { class: "soft" }, entry.result ? `score ${entry.result.score.toFixed(4)}` : "\u00a0"));
  }

  #atKey(event) {
    const listed = this.#listed();
    const target = { Home: listed[0], End: listed[listed.length - 1] }[event.key];
    if (!target) return;
    event.preventDefault();
    this.#choose(target);
  }
}
