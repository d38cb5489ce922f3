// Inline SVG charts.

// The histogram's margins; page.css places the slider by the same numbers.
const LEFT = 78, RIGHT = 12;

const percent = fraction => `${(100 * fraction).toFixed(1)}\u00a0%`;

/** A line chart with axes, as a figure; `chart.mark(x, y)` places a point on it. */
function lineChart({ title, aside = "", xName, yName, xMax, yMax, points }) {
  const width = 300, height = 236, left = 46, right = 12, top = 10, bottom = 42;
  const x = value => left + (width - left - right) * value / xMax;
  const y = value => height - bottom - (height - top - bottom) * value / yMax;
  const grid = [];
  for (const value of ticks(xMax)) {
    grid.push(
      shape("line", { class: "grid", x1: x(value), x2: x(value), y1: y(0), y2: y(yMax) }),
      shape("text", { x: x(value), y: y(0) + 16, "text-anchor": "middle" }, String(value)));
  }
  for (const value of ticks(yMax)) {
    grid.push(
      shape("line", { class: "grid", x1: x(0), x2: x(xMax), y1: y(value), y2: y(value) }),
      shape("text", { x: left - 7, y: y(value) + 4, "text-anchor": "end" }, String(value)));
  }
  const point = shape("circle", { class: "point", r: 4.5, visibility: "hidden" });
  const figure = element("figure", {},
    element("figcaption", {}, element("b", {}, title), element("span", {}, aside)),
    shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img",
                   "aria-label": `${title}: ${yName} over ${xName}. ${aside}` },
      ...grid,
      shape("line", { class: "axis", x1: x(0), x2: x(xMax), y1: y(0), y2: y(0) }),
      shape("line", { class: "axis", x1: x(0), x2: x(0), y1: y(0), y2: y(yMax) }),
      shape("text", { x: (x(0) + x(xMax)) / 2, y: height - 6, "text-anchor": "middle" }, xName),
      shape("text", { transform: `translate(12 ${(y(0) + y(yMax)) / 2}) rotate(-90)`,
                      "text-anchor": "middle" }, yName),
      shape("polyline", { class: "curve",
        points: points.map(([a, b]) => `${x(a).toFixed(2)},${y(b).toFixed(2)}`).join(" ") }),
      point));
  return {
    figure,
    mark(a, b) {
      const known = Number.isFinite(a) && Number.isFinite(b);
      point.setAttribute("visibility", known ? "visible" : "hidden");
      if (known) filled(point, { cx: x(a), cy: y(b) }, []);
    },
  };
}

/** About four round numbers from 0 to at most `most`. */
function ticks(most) {
  const power = 10 ** Math.floor(Math.log10(most / 4));
  const step = power * [1, 2, 2.5, 5, 10].find(factor => most / (power * factor) <= 5);
  const count = Math.floor(most / step + 1e-9);
  return Array.from({ length: count + 1 }, (_, i) => Number((i * step).toPrecision(6)));
}

/**
 * Scores on the fixed scale 0 to 1: a row of bars for defective images (hatched), one for good
 * ones (plain), one of ticks for calibration images; `draw(threshold)` draws it anew.
 */
function histogram(holder, { good, defective, calibrationScores, calibrated }) {
  const bins = 40, rowHeight = 74, top = 24, tickRow = 26;
  const counts = scores => {
    const bars = new Array(bins).fill(0);
    for (const score of scores) bars[Math.min(bins - 1, Math.floor(score * bins))] += 1;
    return bars;
  };
  const rows = [["defective", counts(defective), "bad-bar", defective.length],
                ["good", counts(good), "good-bar", good.length]];
  const hatch = () => shape("defs", {}, shape("pattern",
    { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse",
      patternTransform: "rotate(45)" },
    shape("rect", { class: "hatch-ground", width: 6, height: 6 }),
    shape("line", { class: "hatch-line", x1: 0, x2: 0, y1: 0, y2: 6 })));

  function draw(threshold) {
    const width = Math.max(240, holder.clientWidth);
    const x = score => LEFT + (width - LEFT - RIGHT) * score;
    const parts = [hatch()];
    let base = top;
    for (const [name, bars, style, total] of rows) {
      const highest = Math.max(1, ...bars);
      base += rowHeight;
      parts.push(
        shape("text", { class: "row-name", x: 0, y: base - 18 }, name),
        shape("text", { x: 0, y: base - 3 }, `n = ${total}`),
        shape("text", { x: LEFT - 6, y: base - rowHeight + 22, "text-anchor": "end" },
          total ? String(highest) : ""),
        shape("line", { class: "axis", x1: x(0), x2: x(1), y1: base, y2: base }));
      bars.forEach((count, i) => {
        if (!count) return;
        // Of the square root, for one image on the wrong side matters beside fifty in one bar.
        const size = (rowHeight - 14) * Math.sqrt(count / highest);
        const range = `${(i / bins).toFixed(3)} to ${((i + 1) / bins).toFixed(3)}`;
        parts.push(shape("rect", { class: style, x: x(i / bins) + 0.5, y: base - size,
                                   width: Math.max(1, x(1 / bins) - x(0) - 1), height: size },
          shape("title", {}, `${count} ${name}, score ${range}`)));
      });
    }
    if (calibrationScores.length) {
      parts.push(shape("text", { class: "row-name", x: 0, y: base + tickRow - 6 }, "calibration"));
      for (const score of calibrationScores) {
        parts.push(shape("line", { class: "tick", x1: x(score), x2: x(score),
                                   y1: base + 9, y2: base + tickRow - 3 }));
      }
      base += tickRow;
    }
    for (let i = 0; i <= 10; i += width < 500 ? 5 : 1) {
      parts.push(shape("text", { x: x(i / 10), y: base + 16, "text-anchor": "middle" },
        (i / 10).toFixed(1)));
    }
    parts.push(shape("text", { x: (x(0) + x(1)) / 2, y: base + 33, "text-anchor": "middle" },
      `image score${width < 500 ? "" : " (height of the bars: square root of the count)"}`));
    const end = threshold > 0.85 ? "end" : threshold < 0.15 ? "start" : "middle";
    parts.push(
      shape("line", { class: "calibrated", x1: x(calibrated), x2: x(calibrated), y1: top - 6,
                      y2: base + 3 }),
      shape("line", { class: "threshold", x1: x(threshold), x2: x(threshold), y1: top - 6,
                      y2: base + 3 }),
      shape("text", { class: "threshold-name", x: x(threshold), y: 12, "text-anchor": end },
        `threshold ${threshold.toFixed(4)}`));
    const described = `Image scores of ${defective.length} defective and ${good.length} good ` +
      `images and of ${calibrationScores.length} calibration images, threshold ${threshold.toFixed(4)}`;
    holder.replaceChildren(shape("svg", { width, height: base + 40, role: "img",
                                          "aria-label": described }, ...parts));
  }
  return draw;
}
