// One image large: its verdict, its map, its regions, and what they mean.

import { byId, element, shape } from "./elements.js";
import { drawLegend, drawMap } from "./heat.js";
import { drawScale } from "./scale.js";
import { KEPT } from "./session.js";
import { VERDICTS, verdictOf } from "./verdicts.js";
import { apart, count, pSentences, pText, sentence, thresholdSentences, whole } from "./words.js";

const MOST_BOXES = 200, MOST_ROWS = 20;
const UNSHOWN = "This browser cannot show this kind of image";
const LET_GO = "The whole image and its heatmap were let go to save memory: the last " +
  `${KEPT.images} are kept. This is the small copy.`;

let current = null;
let shown = null; // the file or the small copy's address that the image is drawn from
let address = null; // of that file, to be revoked
let isUnreadable = false; // to the browser: a TIFF, or no image at all

/** Show an entry as it is now; null shows nothing. */
export function show(entry) {
  current = entry;
  byId("result").hidden = !entry;
  if (!entry) return drawImage(null);
  const verdict = verdictOf(entry);
  drawVerdict(entry, verdict);
  byId("failure").hidden = verdict !== "failed";
  byId("reason").textContent = sentence(entry.reason ?? "");
  byId("again").hidden = !entry.file || !entry.mayHelp;
  byId("meaning").hidden = verdict !== "good" && verdict !== "defective";
  drawImage(entry);
  drawRegions(entry.result);
  if (entry.result) drawMeaning(entry);
}

function drawVerdict(entry, verdict) {
  const { word, ground, path } = VERDICTS[verdict];
  byId("result").classList.remove(...Object.keys(VERDICTS));
  byId("result").classList.add(verdict);
  byId("verdict-word").textContent = word;
  byId("verdict-name").textContent = entry.name;
  byId("verdict-note").textContent = verdict === "running" ? entry.delay ?? "" : "";
  byId("verdict-ground").setAttribute("d", ground);
  byId("verdict-sign").setAttribute("d", path);
}

function drawImage(entry) {
  const source = entry ? entry.file ?? entry.thumb ?? null : null;
  const image = byId("image");
  if (source !== shown) {
    if (address) URL.revokeObjectURL(address);
    address = source instanceof Blob ? URL.createObjectURL(source) : null;
    shown = source;
    isUnreadable = false;
    image.hidden = true;
    showFrame(Boolean(source));
    if (source) image.src = address ?? source;
    else image.removeAttribute("src");
  }
  if (!entry) return;
  image.alt = entry.name;
  byId("image-controls").hidden = !entry.result || !entry.heat;
  note(entry.result && !entry.file ? LET_GO : "");
  fit(entry.result);
  if (isUnreadable) showMapAlone();
  else drawHeat(entry, false);
}

// The server's width and height rule where they are known: they are upright, as browsers show it.
function fit(size) {
  const { naturalWidth: width, naturalHeight: height } = byId("image");
  const ratio = size ? size.width / size.height : width ? width / height : 1;
  byId("frame").style.aspectRatio = ratio;
  byId("frame").style.width = `min(100%, 72vh * ${ratio})`;
}

async function drawHeat(entry, alone) {
  const heat = byId("heat"), file = entry.heat;
  heat.hidden = true;
  byId("frame").classList.toggle("alone", alone);
  byId("opacity").disabled = alone;
  if (!file) return;
  const fresh = document.createElement("canvas");
  await drawMap(fresh, file, alone);
  if (current !== entry) return; // another one was chosen meanwhile
  heat.width = fresh.width;
  heat.height = fresh.height;
  heat.getContext("2d").drawImage(fresh, 0, 0);
  heat.hidden = false;
}

function imageLoaded() {
  byId("image").hidden = false;
  showFrame(true);
  if (!current?.result) fit(null);
}

function imageFailed() {
  if (!current) return;
  isUnreadable = true;
  showMapAlone();
}

function showMapAlone() {
  showFrame(Boolean(current.heat));
  note(current.heat ? `${UNSHOWN}; here is its heatmap alone.` : "");
  drawHeat(current, true);
}

function showFrame(is) {
  byId("shown").hidden = !is;
  byId("result").classList.toggle("imageless", !is);
}

function note(text) {
  byId("image-note").hidden = !text;
  byId("image-note").textContent = text;
}

function drawRegions(result) {
  const regions = result?.regions ?? [];
  byId("boxes").replaceChildren(...(result ? boxes(result) : []));
  if (!result) return byId("regions").replaceChildren();
  const limit = result.pixel_threshold.toFixed(4);
  if (!regions.length) {
    byId("regions").replaceChildren(element("p", { class: "note" },
      `There is no region: nowhere is the heatmap above ${limit}.`));
    return;
  }
  const rows = regions.slice(0, MOST_ROWS).map((each, i) => [i + 1, `${each.x}, ${each.y}`,
    `${each.width} × ${each.height}`, whole.format(each.area), each.peak.toFixed(4)]);
  const rest = regions.length > rows.length ? `; the ${rows.length} with the highest peaks` : "";
  byId("regions").replaceChildren(table(["", "left, top", "width × height", "area", "peak"], rows,
    `${count(regions.length, "region")} where the heatmap is above ${limit}, in pixels${rest}`));
}

function table(names, rows, caption) {
  return element("table", {}, element("caption", {}, caption),
    element("thead", {}, element("tr", {}, ...names.map(name => element("th", { scope: "col" }, name)))),
    element("tbody", {}, ...rows.map(row => element("tr", {},
      ...row.map((cell, i) => element(i ? "td" : "th", i ? {} : { scope: "row" }, String(cell)))))));
}

/** A paragraph each; flags of the command line are not broken at their hyphens. */
function lines(texts) {
  return texts.map(text => element("p", {}, ...text.split(/(--[a-z][a-z-]+)/).map((part, i) =>
    (i % 2 ? element("code", {}, part) : part))));
}

/** Each region as a box, dark and light so that it shows on any ground, with its number in the table. */
function* boxes({ width, height, regions }) {
  const longest = Math.max(width, height), least = longest / 50, size = longest / 26;
  byId("boxes").setAttribute("viewBox", `0 0 ${width} ${height}`);
  const drawn = regions.slice(0, MOST_BOXES);
  for (const style of ["halo", "line"]) {
    for (const each of drawn) {
      const w = Math.max(each.width, least), h = Math.max(each.height, least); // a speck still shows
      const x = each.x + (each.width - w) / 2, y = each.y + (each.height - h) / 2;
      yield shape("rect", { class: style, x, y, width: w, height: h, rx: size / 8 });
    }
  }
  for (const [i, each] of drawn.slice(0, MOST_ROWS).entries()) {
    const above = each.y > 1.2 * size ? each.y - 0.25 * size : each.y + each.height + size;
    const x = Math.min(Math.max(each.x, 0.1 * size), width - size);
    yield shape("text", { x, y: Math.min(above, height - 0.2 * size), "font-size": size }, String(i + 1));
  }
}

function drawMeaning({ result, calibration }) {
  const [score, threshold] = apart(result.score, result.threshold);
  const figures = { score, threshold, "p-value": pText(result.p_value) };
  byId("figures").replaceChildren(...Object.entries(figures).map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value))));
  drawScale(byId("scale"), { score: result.score, threshold: result.threshold,
    isDefective: result.is_defective, held: calibration?.calibration.scores ?? [] });
  byId("p-text").replaceChildren(...lines(pSentences(result, calibration)));
  byId("threshold-text").replaceChildren(...lines(calibration ? thresholdSentences(calibration)
    : [`A part is called defective when its score is above ${threshold}. The model has been reloaded ` +
       "since then, so what that threshold guaranteed is not known here."]));
  drawLegend(byId("legend"), result.pixel_threshold);
}

function showOpacity() {
  const percent = byId("opacity").value;
  byId("heat").style.opacity = percent / 100;
  byId("opacity-text").textContent = `${percent}\u00a0%`;
}

/** Begin; `again(entry)` is called where a failed one is to be tried again. */
export function startView(again) {
  byId("image").addEventListener("load", imageLoaded);
  byId("image").addEventListener("error", imageFailed);
  byId("opacity").addEventListener("input", showOpacity);
  byId("boxes-shown").addEventListener("change", event => {
    byId("boxes").classList.toggle("off", !event.target.checked);
  });
  byId("again").addEventListener("click", () => again(current));
  showOpacity();
}
