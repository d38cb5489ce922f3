// The anomaly map: from the server's grey PNG to colours, on the one scale from 0 to 1.

import { element } from "./elements.js";

// Turbo, as in data/drawing.py, at every 15th of 256 levels; between them it is as good as straight.
const STOPS = ("30123b 3f3e9c 4666dd 458cfd 2fb2f4 1ad4d0 22ebaa 52fa7a 8bff4b b7f735 dbe236 f5c53a " +
  "fea130 f9751d e84b0c ce2d04 a91601 7a0403").split(" ");
const STEP = 255 / (STOPS.length - 1);
const COLOURS = Uint8ClampedArray.from({ length: 3 * 256 }, (_, i) => colourAt(Math.floor(i / 3), i % 3));
const LONGEST = 1024; // pixels a side; a map of tiles is as large as its image

function colourAt(level, channel) {
  const stop = Math.min(Math.floor(level / STEP), STOPS.length - 2), fraction = level / STEP - stop;
  const part = i => parseInt(STOPS[i].slice(2 * channel, 2 * channel + 2), 16);
  return (1 - fraction) * part(stop) + fraction * part(stop + 1);
}

/** The PNG in a result as a file of its own, which takes less memory than its text. */
export function mapFile(base64) {
  return new Blob([Uint8Array.from(atob(base64), letter => letter.charCodeAt(0))], { type: "image/png" });
}

/**
 * Draw a map on a canvas, which takes the map's size.
 *
 * How opaque a pixel is grows with the map: where that is 0, the image stays as it is.
 * `alone` is for a map without an image below it.
 */
export async function drawMap(canvas, file, alone) {
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const bitmap = await createImageBitmap(file, options);
  const shrink = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
  canvas.width = Math.max(1, Math.round(bitmap.width * shrink));
  canvas.height = Math.max(1, Math.round(bitmap.height * shrink));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height), data = pixels.data;
  for (let i = 0; i < data.length; i += 4) {
    const level = data[i];
    data[i] = COLOURS[3 * level];
    data[i + 1] = COLOURS[3 * level + 1];
    data[i + 2] = COLOURS[3 * level + 2];
    data[i + 3] = alone ? 255 : level;
  }
  context.putImageData(pixels, 0, 0);
}

/** Fill the legend: the colours from 0 to 1, and where regions begin. */
export function drawLegend(legend, threshold) {
  const bar = element("i"), mark = element("b"), text = element("span", { class: "mark" },
    `regions above ${threshold.toFixed(2)}`);
  bar.style.background = `linear-gradient(90deg, ${STOPS.map(stop => `#${stop}`).join(", ")})`;
  for (const part of [mark, text]) part.style.left = `${100 * threshold}%`;
  text.style.transform = `translateX(-${100 * threshold}%)`;
  bar.append(mark, text);
  legend.setAttribute("role", "img");
  legend.setAttribute("aria-label", "Colours of the heatmap, from 0 (dark blue) through green to 1 (dark " +
    `red); regions lie where it is above ${threshold.toFixed(2)}`);
  legend.replaceChildren(element("span", {}, "0"), bar, element("span", {}, "1"));
}
