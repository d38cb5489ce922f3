// A score among those of the calibration images, on a line from 0 to 1.

import { element, shape } from "./elements.js";
import { count } from "./words.js";

const WIDTH = 440, LEFT = 18, RIGHT = WIDTH - 18, AXIS = 44;

const place = value => LEFT + value * (RIGHT - LEFT);

/** Draw into `box` where `score` lies; `held` are the calibration scores, if they are known. */
export function drawScale(box, { score, threshold, isDefective, held }) {
  const x = place(score), limit = place(threshold), names = { class: "label", "text-anchor": "middle" };
  const svg = shape("svg", { viewBox: `0 0 ${WIDTH} 82`, role: "img" },
    shape("title", {}, `On a line from 0 to 1: score ${score.toFixed(4)}, threshold ${threshold.toFixed(4)}` +
      (held.length ? `, good parts kept aside ${held[0].toFixed(4)} to ${held[held.length - 1].toFixed(4)}` : "")),
    shape("rect", { class: "above", x: limit, y: AXIS - 16, width: RIGHT - limit, height: 16 }),
    shape("path", { class: "axis", d: `M${LEFT} ${AXIS}H${RIGHT}` }),
    shape("path", { class: "held", d: ticks(held) }),
    shape("path", { class: "limit", d: `M${limit} 18V${AXIS + 6}` }),
    shape("text", { ...names, ...inside(threshold), x: limit, y: 12 }, "threshold"),
    shape("path", { class: isDefective ? "part wrong" : "part", d: `M${x} ${AXIS + 2}l8 14h-16z` }),
    shape("text", { ...names, ...inside(score), class: "label ink", x, y: AXIS + 32 }, "this part"),
    shape("text", { class: "label", x: 0, y: AXIS + 5 }, "0"),
    shape("text", { class: "label", x: WIDTH, y: AXIS + 5, "text-anchor": "end" }, "1"));
  box.replaceChildren(svg);
  if (held.length) {
    const key = shape("svg", { viewBox: "0 0 8 14", "aria-hidden": "true" }, shape("path", { class: "held", d: "M4 0V14" }));
    box.append(element("p", { class: "note" }, key, ` ${count(held.length, "good part")} kept aside from training`));
  }
}

/** One path for all: of scores on the same spot, one is drawn. */
function ticks(scores) {
  const spots = new Set(scores.map(score => place(score).toFixed(1)));
  return [...spots].map(x => `M${x} ${AXIS - 13}V${AXIS}`).join("");
}

/** Names near an end grow inwards. */
function inside(value) {
  if (value < 0.06) return { "text-anchor": "start" };
  return value > 0.94 ? { "text-anchor": "end" } : {};
}
