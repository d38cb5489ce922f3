// The camera: a live image, and stills of it as files.

import { byId, element } from "./elements.js";

const WANTED = { width: { ideal: 1920 }, height: { ideal: 1080 } };
const INSECURE = "Browsers allow the camera only on pages from https:// or from this machine itself. Start " +
  "the server with --certificate and --key, or open this page as http://localhost.";
const REASONS = {
  NotAllowedError: "The camera is not allowed for this page. Allow it in the browser’s site settings, " +
    "then press “Use the camera” again.",
  NotFoundError: "There is no camera on this machine. Connect one, or choose images instead.",
  NotReadableError: "The camera cannot be read: another program may be using it. Close that program, then try again.",
};

let stream = null;
let taken = 0;
let opening = 0; // counts, so that a camera that comes after it was closed is let go

/** Begin; `give(file)` receives the stills. */
export function startCamera(give) {
  byId("camera-open").addEventListener("click", () => (isOpen() ? close() : open()));
  byId("camera-close").addEventListener("click", close);
  byId("camera-take").addEventListener("click", () => take(give));
  byId("camera-which").addEventListener("change", event => open(event.target.value));
  document.addEventListener("keydown", event => {
    if (!isOpen() || event.defaultPrevented || event.target.closest("dialog")) return;
    if (event.key === "Escape") close();
    if (event.key === " " && !event.repeat && !event.target.closest("button, input, select, a, summary")) {
      event.preventDefault(); // it would scroll
      take(give);
    }
  });
}

const isOpen = () => !byId("camera").hidden;

async function open(which) {
  const turn = ++opening;
  stop();
  byId("camera").hidden = false;
  byId("camera-open").setAttribute("aria-expanded", "true");
  tell("");
  byId("camera-take").disabled = true;
  if (!navigator.mediaDevices) return tell(INSECURE);
  const chosen = which ? { deviceId: { exact: which } } : { facingMode: "environment" };
  try {
    const found = await navigator.mediaDevices.getUserMedia({ video: { ...WANTED, ...chosen } });
    if (turn !== opening) return end(found);
    stream = found;
    found.getVideoTracks()[0].addEventListener("ended", () => tell("The camera was disconnected."));
    byId("camera-video").srcObject = found;
    await byId("camera-video").play();
    await listCameras();
  } catch (error) {
    if (turn === opening) tell(REASONS[error.name] ?? `The camera does not start: ${error.message}`);
    return;
  }
  byId("camera-take").disabled = false;
  if (!which) byId("camera-take").focus();
}

/** Offer a choice where there are several. */
async function listCameras() {
  const all = (await navigator.mediaDevices.enumerateDevices()).filter(each => each.kind === "videoinput");
  const used = stream?.getVideoTracks()[0].getSettings().deviceId;
  byId("camera-choice").hidden = all.length < 2;
  byId("camera-which").replaceChildren(...all.map((each, i) =>
    element("option", { value: each.deviceId, ...(each.deviceId === used ? { selected: "" } : {}) },
      each.label || `camera ${i + 1}`)));
}

async function take(give) {
  const video = byId("camera-video");
  if (!stream || !video.videoWidth) return;
  const canvas = element("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  // Without loss: traces of JPEG are nothing that a model of clean images has seen.
  const still = await new Promise(resolve => canvas.toBlob(resolve, "image/png"));
  taken += 1;
  if (still) give(new File([still], `camera-${taken}.png`, { type: "image/png" }));
}

function close() {
  opening += 1;
  stop();
  byId("camera").hidden = true;
  byId("camera-open").setAttribute("aria-expanded", "false");
  byId("camera-open").focus();
}

function stop() {
  if (stream) end(stream);
  stream = null;
  byId("camera-video").srcObject = null;
}

const end = media => media.getTracks().forEach(track => track.stop());

function tell(problem) {
  byId("camera-error").hidden = !problem;
  byId("camera-error").textContent = problem;
  byId("camera-video").hidden = Boolean(problem);
  if (problem) byId("camera-take").disabled = true;
}
