
// The page itself: what was decided, at which threshold, and the images that it concerns.

const report = JSON.parse(document.getElementById("report").textContent);
const entries = report.entries;
const goodOnes = entries.filter(entry => !entry.defective);
const badOnes = entries.filter(entry => entry.defective);
const scores = [...new Set(entries.map(entry => entry.score))].sort((a, b) => a - b);
const names = new Intl.Collator("en", { numeric: true });
const hasMasks = entries.some(entry => entry.mask);

const SIGNS = { found: "✓", passed: "✓", missed: "✕", "false alarm": "✕" };
const SHOWN = {
  All: () => true,
  Wrong: outcome => outcome === "missed" || outcome === "false alarm",
  Missed: outcome => outcome === "missed",
  "False alarms": outcome => outcome === "false alarm",
  Right: outcome => outcome === "found" || outcome === "passed",
};

let threshold = report.threshold; // exact; the fields show it rounded
const chosen = { outcome: "All", defectType: "", order: "falling" };

function outcomeOf(entry, limit = threshold) {
  const flagged = entry.score > limit;
  if (entry.defective) return flagged ? "found" : "missed";
  return flagged ? "false alarm" : "passed";
}

function countsAt(limit) {
  const found = badOnes.filter(entry => entry.score > limit).length;
  const alarms = goodOnes.filter(entry => entry.score > limit).length;
  return { found, missed: badOnes.length - found, alarms, passed: goodOnes.length - alarms };
}

/** The 95 % interval of a count of good or of defective images, as text. */
function interval(count, truth) {
  const [low, high] = report.intervals[truth][count].map(bound => (100 * bound).toFixed(1));
  return `${low}–${high} %`;
}

const counted = (count, what) => `${count} ${what} image${count === 1 ? "" : "s"}`;

// Summary

function showSummary() {
  byId("title").textContent = report.title;
  const { found, missed, alarms } = countsAt(report.threshold);
  const told = [];
  if (badOnes.length) told.push(`${found} of ${counted(badOnes.length, "defective")} found, ${missed} missed`);
  if (goodOnes.length) told.push(`${alarms} of ${counted(goodOnes.length, "good")} called defective`);
  byId("verdict").textContent = told.length
    ? `At the calibrated threshold of ${report.threshold.toFixed(4)}: ${told.join("; ")}.`
    : "There are no images in this report.";
  for (const [name, value, reason] of report.metrics) {
    const told = value === null
      ? [element("em", {}, "not defined"), element("em", {}, reason)]
      : [element("b", {}, (100 * value).toFixed(1), element("small", {}, " %"))];
    byId("metrics").append(element("li", {}, element("span", {}, name), ...told));
  }
  for (const [name, value] of report.facts) byId("facts").append(definition(name, value));
  const { columns, rows } = report.defectTypes;
  byId("defect-types").hidden = !rows.length;
  byId("defect-types").append(table(columns, rows,
    "By defect type; metrics in per cent, each type together with all good images"));
}

function definition(name, value) {
  return element("div", {}, element("dt", {}, name), element("dd", {}, value));
}

function table(columns, rows, caption) {
  return element("table", {},
    ...(caption ? [element("caption", {}, caption)] : []),
    ...(columns ? [element("thead", {}, element("tr", {},
      ...columns.map(name => element("th", { scope: "col" }, name))))] : []),
    element("tbody", {}, ...rows.map(row => element("tr", {},
      ...row.map((cell, i) => element(i ? "td" : "th", i ? {} : { scope: "row" }, cell))))));
}

function showSettings() {
  const groups = new Map();
  for (const [group, name, value] of report.settings) {
    if (!groups.has(group)) groups.set(group, []);
    groups.get(group).push([name, value]);
  }
  for (const [group, rows] of groups) byId("settings-list").append(table(null, rows, group || "general"));
  byId("settings").hidden = !groups.size;
}

// Curves

const AXES = {
  ROC: { xName: "false-positive rate", yName: "true-positive rate", area: "AUROC" },
  PR: { xName: "recall", yName: "precision", area: "AP" },
  PRO: { xName: "false-positive rate", yName: "mean overlap per region", area: "AUPRO", limit: 0.3 },
};
const imageCharts = {};

function showCurves() {
  const metrics = new Map(report.metrics.map(([name, value]) => [name, value]));
  let drawn = 0;
  for (const name of ["image ROC", "image PR", "pixel ROC", "pixel PR", "pixel PRO"]) {
    const points = report.curves[name];
    if (!points || !points.length) continue;
    const [level, curve] = name.split(" ");
    const axes = AXES[curve], area = metrics.get(`${level} ${axes.area}`);
    const chart = lineChart({
      title: name, ...axes, yMax: 1, xMax: axes.limit || 1,
      points: axes.limit ? cutAt(points, axes.limit) : points,
      aside: typeof area === "number" ? `${axes.area} ${percent(area)}` : "",
    });
    if (level === "image") imageCharts[curve] = chart;
    byId("curve-list").append(chart.figure);
    drawn += 1;
  }
  const missing = drawn ? [] : ["No ROC or PR curves: they need both good and defective images."];
  drawn = 0;
  for (const [phase, points] of Object.entries(report.training)) {
    if (!points.length) continue;
    const [lastStep, lastLoss] = points[points.length - 1];
    byId("curve-list").append(lineChart({
      title: `training, ${phase}`, xName: "step", yName: "loss", points,
      xMax: Math.max(1, lastStep),
      yMax: points.reduce((most, [, loss]) => Math.max(most, loss), 1e-9) * 1.05,
      aside: `last ${lastLoss.toPrecision(3)}`,
    }).figure);
    drawn += 1;
  }
  if (!drawn) missing.push("No log of the training was found.");
  byId("curves-missing").textContent = missing.join(" ");
}

/** The points of a rising curve up to a limit, the last one in between where it must be. */
function cutAt(points, limit) {
  const inside = points.filter(([x]) => x <= limit);
  const next = points.find(([x]) => x > limit), last = inside[inside.length - 1];
  if (next && last) {
    const way = (limit - last[0]) / (next[0] - last[0]);
    inside.push([limit, last[1] + way * (next[1] - last[1])]);
  }
  return inside;
}

// Threshold

function showMeaning() {
  const n = report.calibrationScores.length, groups = report.calibrationGroups;
  const pValue = groups
    ? `(1 + for each group the fraction of its calibration scores at most ${report.tolerance} below its own) / ` +
      `${groups + 1}, or of its highest scores alone where a confidence was asked for`
    : `(1 + the number of calibration scores at most ${report.tolerance} below its own) / ${n + 1}`;
  const fitted = n
    ? `It was fitted to ${n} calibration images, good ones that were not trained on; no test image and ` +
      `no label took part. As long as good parts stay as they were, ` +
      `${groups ? `a new one of a new group (there were ${groups})` : "one"} is flagged with a probability ` +
      `of at most ${percent(report.guaranteed)}. An image's p‑value is ${pValue}: scores that close count as ties.`
    : "The scores of the calibration images that it was fitted on were not kept.";
  byId("meaning").append(
    element("p", {}, `An image is called defective when its image score is above the threshold. ${fitted}`),
    element("p", {}, "Moving the threshold shows what another one would have made of these test " +
      "images. One chosen here, by looking at them, carries no such guarantee."));
  byId("calibrated").textContent = report.threshold.toFixed(4);
}

const drawHistogram = histogram(byId("histogram"), {
  good: goodOnes.map(entry => entry.score), defective: badOnes.map(entry => entry.score),
  calibrationScores: report.calibrationScores, calibrated: report.threshold,
});

function showCounts() {
  const counts = countsAt(threshold);
  const tell = (id, name, count, truth) => {
    const total = report.intervals[truth].length - 1;
    byId(`count-${id}`).textContent = `${count} ${name}`;
    byId(`rate-${id}`).replaceChildren(...(total > 0
      ? [`of ${total}, ${percent(count / total)}`,
         element("span", { class: "interval", title: "95 % Wilson interval" }, ` (${interval(count, truth)})`)]
      : ["of 0"]));
    byId(`count-${id}`).parentElement.classList.toggle("some", count > 0 && id in { missed: 1, alarms: 1 });
  };
  tell("found", "found", counts.found, "defective");
  tell("missed", "missed", counts.missed, "defective");
  tell("passed", "passed", counts.passed, "good");
  tell("alarms", counts.alarms === 1 ? "false alarm" : "false alarms", counts.alarms, "good");
  const recall = counts.found / badOnes.length;
  imageCharts.ROC?.mark(counts.alarms / goodOnes.length, recall);
  imageCharts.PR?.mark(recall, counts.found / (counts.found + counts.alarms));
}

/** Take a threshold and tell everything that depends on it; `source` is the field being typed in. */
function moveTo(value, source) {
  threshold = Math.min(1, Math.max(0, value));
  byId("slider").value = threshold;
  byId("slider").setAttribute("aria-valuetext", threshold.toFixed(4));
  if (source !== byId("number")) byId("number").value = threshold.toFixed(4);
  byId("reset").disabled = threshold === report.threshold;
  byId("lower").disabled = !scores.some(score => score < threshold);
  byId("higher").disabled = !scores.some(score => score > threshold);
  drawHistogram(threshold);
  showCounts();
  cards.forEach(judge);
  filter();
}

// Gallery

const images = new IntersectionObserver(seen => {
  for (const { isIntersecting, target } of seen) {
    if (!isIntersecting) continue;
    images.unobserve(target);
    for (const frame of target.querySelectorAll("img")) frame.src = entries[target.dataset.entry][frame.dataset.part];
  }
}, { rootMargin: "600px" });

function card(entry, index) {
  const what = part => entry[part]
    ? framed(entry, part, element("img", { alt: "", "data-part": part }))
    : element("span", { class: "none" }, entry.defective ? "no mask" : "good part");
  const parts = hasMasks ? ["image", "heatmap", "mask"] : ["image", "heatmap"];
  const outcome = element("span", { class: "outcome" });
  const button = element("button", { class: "card", type: "button" },
    element("span", { class: "thumbs" }, ...parts.map(part => element("span", { class: "thumb" }, what(part)))),
    element("span", { class: "line" }, element("span", { class: "name", title: entry.name }, entry.name), outcome),
    element("span", { class: "line figures" },
      element("span", {}, "score ", element("b", {}, entry.score.toFixed(4))),
      element("span", {}, `p = ${entry.p.toPrecision(3)}`),
      element("span", {}, entry.found === 1 ? "1 region" : `${entry.found} regions`)));
  button.addEventListener("click", () => view(index));
  const item = element("li", { "data-entry": index }, button);
  images.observe(item);
  return { entry, item, button, outcome, told: "" };
}

/** An image in its own proportions, inside a square; regions are drawn over the image. */
function framed(entry, part, image) {
  const frame = element("span", { class: "frame" }, image);
  const longest = Math.max(entry.width, entry.height);
  frame.style.width = `${100 * entry.width / longest}%`;
  frame.style.aspectRatio = `${entry.width} / ${entry.height}`;
  if (part === "image" && entry.regions.length) {
    const least = longest / 40; // so that a speck of a few pixels still shows
    const boxes = ["halo", "box"].flatMap(style => entry.regions.map(([x, y, w, h]) => {
      const width = Math.max(w, least), height = Math.max(h, least);
      return shape("rect", { class: style, x: x + (w - width) / 2, y: y + (h - height) / 2, width, height });
    }));
    frame.append(shape("svg", { viewBox: `0 0 ${entry.width} ${entry.height}`,
                                preserveAspectRatio: "none", "aria-hidden": "true" }, ...boxes));
  }
  return frame;
}

function judge(each) {
  const outcome = outcomeOf(each.entry);
  if (outcome === each.told) return;
  each.told = outcome;
  each.outcome.textContent = `${SIGNS[outcome]} ${outcome}`;
  each.item.classList.toggle("wrong", SHOWN.Wrong(outcome));
}

function filter() {
  const ofType = cards.filter(each => !chosen.defectType || each.entry.defectType === chosen.defectType);
  for (const [name, admits] of Object.entries(SHOWN)) {
    byId("outcomes").querySelector(`[data-count="${name}"]`).textContent =
      ofType.filter(each => admits(each.told)).length;
  }
  const visible = new Set(ofType.filter(each => SHOWN[chosen.outcome](each.told)));
  for (const each of cards) each.item.hidden = !visible.has(each);
  byId("shown").textContent = `${visible.size} of ${counted(cards.length, "").replace("  ", " ")} shown`;
}

function sort() {
  const byName = (a, b) => names.compare(a.entry.name, b.entry.name);
  const by = {
    falling: (a, b) => b.entry.score - a.entry.score || byName(a, b),
    rising: (a, b) => a.entry.score - b.entry.score || byName(a, b),
    name: byName,
  };
  byId("gallery").append(...cards.sort(by[chosen.order]).map(each => each.item));
}

function fillToolbar() {
  for (const name of Object.keys(SHOWN)) {
    const radio = element("input", { type: "radio", name: "outcome", value: name });
    radio.checked = name === chosen.outcome;
    byId("outcomes").append(element("label", {}, radio,
      element("span", {}, `${name} `, element("b", { "data-count": name }))));
  }
  const types = new Map();
  for (const { defectType } of entries) types.set(defectType, (types.get(defectType) || 0) + 1);
  byId("defect-type").append(element("option", { value: "" }, "all"));
  for (const [type, count] of types) {
    byId("defect-type").append(element("option", { value: type }, `${type} (${count})`));
  }
  byId("gallery").classList.toggle("no-masks", !hasMasks);
}

// Larger view

let current = 0;

function view(index) {
  current = index;
  const entry = entries[index], outcome = outcomeOf(entry), shown = visibleEntries();
  const place = shown.indexOf(index);
  byId("viewer-name").textContent = entry.name;
  byId("viewer-place").textContent = `${place + 1} of ${shown.length}`;
  byId("previous").disabled = place <= 0;
  byId("next").disabled = place >= shown.length - 1;
  const large = ["image", "heatmap", "mask"].filter(part => entry[part]).map(part => {
    const told = { image: "image with regions", heatmap: "heatmap, scale 0 to 1", mask: "true defect" }[part];
    const image = element("img", { alt: told, src: entry[part] });
    return element("figure", {}, element("div", { class: "thumb" }, framed(entry, part, image)),
      element("figcaption", {}, told));
  });
  const rows = entry.regions.map(([x, y, w, h, area, peak], i) =>
    [String(i + 1), String(x), String(y), String(w), String(h), String(area), peak.toFixed(4)]);
  const more = entry.found > rows.length ? `; the ${rows.length} highest of ${entry.found}` : "";
  const verdict = definition("decision", `${SIGNS[outcome]} ${outcome}`);
  verdict.querySelector("dd").className = SHOWN.Wrong(outcome) ? "outcome wrong" : "outcome";
  byId("viewer-content").replaceChildren(
    element("div", { class: "large" }, ...large),
    element("dl", {}, verdict, definition("truth", entry.defectType),
      definition("image score", entry.score.toFixed(4)), definition("threshold", threshold.toFixed(4)),
      definition("p-value", entry.p.toPrecision(4)), definition("size", `${entry.width} × ${entry.height}`)),
    rows.length
      ? element("div", { class: "wide" }, table(["region", "x", "y", "width", "height", "area", "peak"], rows,
          `Regions, in pixels of the image${more}`))
      : element("p", { class: "note" }, "No region is above the pixel threshold."));
  if (!byId("viewer").open) byId("viewer").showModal();
}

const visibleEntries = () => cards.filter(each => !each.item.hidden).map(each => Number(each.item.dataset.entry));

function go(steps) {
  const shown = visibleEntries(), place = shown.indexOf(current) + steps;
  if (shown[place] !== undefined) view(shown[place]);
}

// Start

showSummary();
showCurves();
showSettings();
showMeaning();
fillToolbar();
const cards = entries.map(card);
sort();
moveTo(threshold);

byId("slider").addEventListener("input", event => moveTo(Number(event.target.value)));
byId("number").addEventListener("input", event => {
  if (event.target.value !== "") moveTo(Number(event.target.value), event.target);
});
byId("number").addEventListener("change", () => moveTo(threshold));
byId("reset").addEventListener("click", () => {
  moveTo(report.threshold);
  byId("slider").focus();
});
byId("lower").addEventListener("click", () => moveTo(Math.max(...scores.filter(score => score < threshold))));
byId("higher").addEventListener("click", () => moveTo(Math.min(...scores.filter(score => score > threshold))));
byId("defect-type").addEventListener("change", event => { chosen.defectType = event.target.value; filter(); });
byId("order").addEventListener("change", event => { chosen.order = event.target.value; sort(); });
byId("outcomes").addEventListener("change", event => { chosen.outcome = event.target.value; filter(); });
byId("boxes").addEventListener("change", event =>
  document.body.classList.toggle("without-boxes", !event.target.checked));
byId("previous").addEventListener("click", () => go(-1));
byId("next").addEventListener("click", () => go(1));
byId("close").addEventListener("click", () => byId("viewer").close());
byId("viewer").addEventListener("click", event => { if (event.target === byId("viewer")) byId("viewer").close(); });
byId("viewer").addEventListener("close", () =>
  cards.find(each => Number(each.item.dataset.entry) === current).button.focus());
byId("viewer").addEventListener("keydown", event => {
  if (event.key === "ArrowLeft") go(-1);
  if (event.key === "ArrowRight") go(1);
});
new ResizeObserver(() => drawHistogram(threshold)).observe(byId("histogram"));
