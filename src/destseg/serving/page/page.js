// The page: images come in, are inspected, and are shown with what was said of them.

import { inspect, models, onToken, Refused } from "./api.js";
import { startCamera } from "./camera.js";
import { byId, element } from "./elements.js";
import { mapFile } from "./heat.js";
import { History } from "./history.js";
import { Queue } from "./queue.js";
import { KEPT, Session } from "./session.js";
import { smallCopy, smallMap } from "./thumbnail.js";
import { VERDICTS, verdictOf } from "./verdicts.js";
import { show, startView } from "./view.js";
import { count, explains, pText } from "./words.js";

let served = []; // models
let limits = {};
let stopped = new AbortController();
let tally = { defective: 0, good: 0, failed: 0 };

const session = new Session(entry => history.forget(entry));
const history = new History(session, select);
const queue = new Queue(work, showProgress);

// Images come in

/** Take image files; the first of them is shown. */
function take(files) {
  if (!files.length) return;
  if (queue.idle) tally = { defective: 0, good: 0, failed: 0 };
  const model = byId("model").value;
  queue.add([...files].map((file, i) => ({ file, model, isFirst: i === 0 })));
}

function select(entry) {
  show(entry);
  history.setCurrent(entry);
  byId("empty").hidden = Boolean(entry);
}

async function work({ file, model, isFirst, entry = null }) {
  if (entry) entry.state = "running";
  else entry = session.add(file, file.name || "image");
  const { signal } = stopped;
  entry.model = model;
  entry.reason = entry.delay = null;
  refresh(entry);
  if (isFirst) select(entry);
  const copy = entry.thumb ?? smallCopy(file);
  const tell = text => {
    announce(text);
    entry.delay = text;
    refresh(entry);
  };
  try {
    const result = await inspect(file, { model, maxBytes: limits.max_bytes, signal, tell });
    if (result.heatmap) entry.heat = mapFile(result.heatmap);
    delete result.heatmap;
    entry.calibration = await calibrationOf(result);
    entry.result = result;
    entry.state = "done";
  } catch (error) {
    entry.reason = error instanceof Refused ? error.message : `This page failed: ${error.message}`;
    entry.state = "failed";
    entry.mayHelp = ![413, 422].includes(error.status); // to try again
    if (error.status === 401) queue.stop(); // each would ask for the token again
  }
  entry.thumb = await copy ?? (entry.heat ? await smallMap(entry.heat) : null);
  if (signal.aborted) { // cleared meanwhile
    if (entry.thumb) URL.revokeObjectURL(entry.thumb);
    return;
  }
  tally[verdictOf(entry)] += 1;
  session.finish(entry, history.current);
  refresh(entry);
  if (queue.asked === 1) announce(inWords(entry));
}

function refresh(entry) {
  history.update(entry);
  if (history.current === entry) show(entry);
}

function inWords(entry) {
  const { word } = VERDICTS[verdictOf(entry)];
  const told = entry.result
    ? `score ${entry.result.score.toFixed(4)}, p-value ${pText(entry.result.p_value)}`
    : entry.reason;
  return `${entry.name}: ${word}, ${told}`;
}

function again(entry) {
  if (queue.idle) tally = { defective: 0, good: 0, failed: 0 };
  queue.add([{ file: entry.file, model: byId("model").value, isFirst: false, entry }]);
}

function announce(text) {
  byId("said").textContent = text;
}

function showProgress() {
  const { asked, done, idle } = queue;
  byId("progress").hidden = asked < 2 || session.given === 0;
  byId("stop").hidden = queue.waiting.length === 0;
  byId("progress-bar").hidden = idle;
  byId("progress-bar").max = asked;
  byId("progress-bar").value = done;
  const told = `${tally.defective} defective, ${tally.good} good` +
    (tally.failed ? `, ${tally.failed} without a verdict` : "");
  byId("progress-text").textContent = idle
    ? `${count(asked, "image")} inspected: ${told}` : `${done} of ${asked} inspected: ${told}`;
  if (idle && asked > 1) announce(byId("progress-text").textContent);
}

// Models

async function loadModels() {
  const told = await models();
  const chosen = byId("model").value;
  ({ models: served, limits } = told);
  byId("model").replaceChildren(...served.map(each => element("option", { value: each.name }, each.name)));
  byId("model").value = served.some(each => each.name === chosen)
    ? chosen : (served.find(each => each.default) ?? served[0])?.name ?? "";
  byId("model-choice").hidden = served.length < 2;
  byId("only-model").textContent = served.length === 1 ? ` · model ${served[0].name}` : "";
}

/** The model that gave a result as it then was, or null; it may have been loaded anew. */
async function calibrationOf(result) {
  const known = () => served.find(each => each.name === result.model && explains(each, result)) ?? null;
  if (!known()) await loadModels().catch(() => {}); // the result stands without it
  return known();
}

async function start() {
  byId("notice").hidden = true;
  try {
    await loadModels();
  } catch (error) {
    byId("notice-text").textContent = error.message;
    byId("notice").hidden = false;
  }
}

// Ways in: button, drop, paste

byId("choose").addEventListener("click", () => byId("files").click());
byId("files").addEventListener("change", event => {
  take([...event.target.files]);
  event.target.value = ""; // the same file may be chosen again
});

const hasFiles = event => [...(event.dataTransfer?.types ?? [])].includes("Files");
const dropping = is => document.body.classList.toggle("dropping", is);

addEventListener("dragover", event => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  dropping(true);
});
addEventListener("dragleave", event => { if (!event.relatedTarget) dropping(false); });
addEventListener("drop", event => {
  dropping(false);
  if (!hasFiles(event)) return;
  event.preventDefault();
  take(event.dataTransfer.files);
});
addEventListener("paste", event => take(event.clipboardData?.files ?? []));

// Keys: what an element does with a key itself comes first.

document.addEventListener("keydown", event => {
  const steps = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!steps || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (event.target.closest("input, select, dialog, video")) return;
  event.preventDefault();
  history.go(steps);
});

// The session

function save(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60000);
}

const fileName = ending => `destseg-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}.${ending}`;
byId("save-lines").addEventListener("click", () =>
  save(fileName("jsonl"), "application/jsonl", session.asLines()));
byId("save-table").addEventListener("click", () =>
  save(fileName("csv"), "text/csv;charset=utf-8", session.asTable()));
byId("clear").addEventListener("click", () => {
  if (!confirm("Clear the list of this session? Its results are not saved anywhere else.")) return;
  stopped.abort();
  stopped = new AbortController();
  tally = { defective: 0, good: 0, failed: 0 };
  session.clear();
  queue.stop();
  select(null);
  history.update();
  byId("choose").focus();
});
byId("stop").addEventListener("click", () => queue.stop());

// Dialogs

byId("help-open").addEventListener("click", () => byId("help").showModal());
byId("help-close").addEventListener("click", () => byId("help").close());
byId("help-kept").textContent = `The last ${KEPT.entries} images are listed, the last ` +
  `${KEPT.images} of them kept whole.`;

onToken(refused => new Promise(resolve => {
  const dialog = byId("token"), field = byId("token-field");
  let given = null;
  field.value = "";
  byId("token-text").textContent = refused
    ? "The token was refused. Whoever started the server has the right one."
    : "Whoever started the server has it. It is kept until this tab is closed.";
  byId("token-form").onsubmit = event => {
    event.preventDefault();
    given = field.value;
    dialog.close();
  };
  byId("token-cancel").onclick = () => dialog.close();
  dialog.onclose = () => resolve(given);
  dialog.showModal();
}));

startView(again);
startCamera(file => take([file]));
byId("notice-again").addEventListener("click", start);
start();
