// Small copies of images for the list.

import { drawMap } from "./heat.js";

const SIDE = 192; // pixels

/** The address of a small copy of an image file, or null where the browser cannot read it. */
export async function smallCopy(file) {
  try {
    return await shrunk(await createImageBitmap(file));
  } catch {
    return null;
  }
}

/** The same of a map. */
export async function smallMap(file) {
  const canvas = document.createElement("canvas");
  await drawMap(canvas, file, true);
  return shrunk(canvas);
}

async function shrunk(image) {
  const scale = Math.min(1, SIDE / Math.max(image.width, image.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(image.width * scale));
  canvas.height = Math.max(1, Math.round(image.height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  image.close?.();
  const blob = await new Promise(resolve => canvas.toBlob(resolve, "image/webp", 0.8));
  return blob && URL.createObjectURL(blob);
}
