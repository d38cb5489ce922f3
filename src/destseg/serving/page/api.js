// What is asked of the server, and how it refuses.

const TOKEN = "destseg-token";
const TRIES = 6;
const LONGEST_WAIT = 10; // seconds, whatever Retry-After says
const LONGEST_REQUEST = 120; // seconds

/** There is no result; the message says what was expected, what came and what to do. */
export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status; // of HTTP; 0 without an answer
  }
}

let token = remembered();
let asking = null;
let askForToken = async () => null;

/** `ask(refused)` gives a token or null; `refused` is whether one was tried in vain. */
export function onToken(ask) {
  askForToken = ask;
}

/** The served models and the server's limits. */
export function models() {
  return call("v1/models", {});
}

/** The result for a file. `signal` ends it; `tell(text)` hears why it takes longer. */
export async function inspect(file, { model, maxBytes, signal, tell }) {
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw new Refused(0, "expected a file that can be read, got a folder or a file that was moved " +
      "or changed; drop the images themselves");
  }
  if (maxBytes && file.size > maxBytes) {
    throw new Refused(413, `expected a file of at most ${maxBytes} bytes, got ${file.size}; give a ` +
      "smaller image or start the server with a larger --max-bytes");
  }
  const which = model ? `&model=${encodeURIComponent(model)}` : "";
  const headers = { "Content-Type": "application/octet-stream" };
  return call(`v1/inspect?heatmap=true${which}`, { method: "POST", body: file, headers }, signal, tell);
}

async function call(path, options, signal, tell = () => {}) {
  for (let tries = 1; ; ) {
    const used = token;
    const { response, body } = await ask(path, options, used, signal);
    if (response.ok) return body;
    if (response.status === 401 && (token !== used || await newToken(used))) continue;
    if (response.status === 503 && tries < TRIES) {
      tries += 1;
      tell("The server is busy; trying again…");
      await pause(response.headers.get("Retry-After"), signal);
      continue;
    }
    throw new Refused(response.status,
      body?.detail || `expected a result, got HTTP status ${response.status} from the server`);
  }
}

async function ask(path, options, bearer, signal) {
  const headers = { ...options.headers, ...(bearer ? { Authorization: `Bearer ${bearer}` } : {}) };
  const both = new AbortController();
  const end = () => both.abort();
  const timer = setTimeout(end, 1000 * LONGEST_REQUEST);
  signal?.addEventListener("abort", end);
  try {
    const response = await fetch(path, { ...options, headers, signal: both.signal });
    const body = await response.json().catch(error => {
      if (response.ok) throw error;
      return null;
    });
    return { response, body };
  } catch {
    throw new Refused(0, signal?.aborted ? "stopped" : "expected an answer from the server, got none; " +
      "see whether it runs and whether this machine reaches it, then try again");
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", end);
  }
}

/** One question for all calls that wait for a token; whether there is a new one. */
function newToken(refused) {
  asking ??= askForToken(Boolean(refused)).then(given => {
    asking = null;
    if (given) remember(given);
    return Boolean(given);
  });
  return asking;
}

function pause(retryAfter, signal) {
  const seconds = Math.min(LONGEST_WAIT, Math.max(0, Number(retryAfter ?? 1) || 0));
  return new Promise(resolve => {
    setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", resolve);
  });
}

// A browser may forbid storage; then the token lives as long as the page.

function remembered() {
  try { return sessionStorage.getItem(TOKEN); } catch { return null; }
}

function remember(given) {
  token = given;
  try { sessionStorage.setItem(TOKEN, given); } catch { /* kept in memory */ }
}
