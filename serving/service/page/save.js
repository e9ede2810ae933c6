// Takes results out of the page: into a file with the service's exact bytes, or into the clipboard as PNG.

import { ApiError } from "./api.js";

// A browser reads the file some time after the click.
const SECONDS_TO_SAVE = 60;

export const canCopy = Boolean(navigator.clipboard?.write && window.ClipboardItem);

// "IMG_1.jpg" becomes "IMG_1-enhanced.jpg".
export function enhancedName(name) {
  const dot = name.lastIndexOf(".");
  return dot > 0 ? `${name.slice(0, dot)}-enhanced${name.slice(dot)}` : `${name}-enhanced`;
}

export async function download(photo, job) {
  const { blob } = await photo.answerToSave(job);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = enhancedName(photo.file.name);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000 * SECONDS_TO_SAVE);
}

// Safari allows the clipboard only within the click, so it gets a promise at once.
export async function copy(photo, job) {
  const png = photo.answerToCopy(job).then(({ blob }) => (blob.type === "image/png" ? blob : toPng(blob)));
  png.catch(() => {}); // reported below
  try {
    await navigator.clipboard.write([new ClipboardItem({ "image/png": png })]);
  } catch (error) {
    await png; // its own error says more
    throw new ApiError({ reason: "no_clipboard", detail: error.message });
  }
}

async function toPng(blob) {
  const bitmap = await createImageBitmap(blob);
  try {
    const canvas = document.createElement("canvas");
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
    const png = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    canvas.width = canvas.height = 0; // Safari keeps the pixels otherwise
    if (!png) throw new ApiError({ reason: "no_clipboard" });
    return png;
  } finally {
    bitmap.close();
  }
}
