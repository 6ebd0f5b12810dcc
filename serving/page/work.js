// Sends the current settings to the server: one request at a time, with the newest values.
import { $, setStatus, showError } from "./dom.js";
import { toBase64 } from "./mask.js";
import { stylize, toBlob } from "./server.js";
import { changedOptions, emit, mix, on, settings, state } from "./state.js";

const DELAY_MS = 120; // from the last change to the request
const STALE_MS = 2000; // a request that has run longer is cancelled by a change
let timer = 0, running = null, pending = false;

// The body of /v1/stylize for the current settings.
export async function body() {
  const found = { encodings: [await state.photo.stored], mix: mix(), ...changedOptions() };
  if (state.painted) found.masks = { painted: toBase64() };
  return found;
}

// Send the settings after a moment. A photo that the server has dropped is sent again.
function request(wait = DELAY_MS) {
  if (running && !running.sent) return; // it will send the newest values
  clearTimeout(timer);
  timer = setTimeout(run, wait);
  if (running && performance.now() - running.started > STALE_MS) running.abort.abort();
  showBusy();
}

// The page is busy from a change until its image is shown.
const showBusy = () => document.body.classList.toggle("busy", Boolean(running || pending || timer));

async function run() {
  timer = 0;
  if (running) { pending = true; return; }
  const { photo } = state;
  if (photo && state.styles.length) {
    running = { started: performance.now(), abort: new AbortController(), sent: null };
    const failed = await send(photo).then(() => null, (e) => e);
    running = null;
    if (failed) retry(failed, photo);
  } else {
    const missing = [photo ? "" : "a photo", state.styles.length ? "" : "a style"];
    setStatus(`Choose ${missing.filter(Boolean).join(" and ")}.`);
  }
  $("progress").hidden = true;
  if (pending) { pending = false; request(); }
  showBusy();
}

async function send(photo) {
  const { abort, started } = running;
  if (!photo.faces) setStatus("Sending the photo …");
  await photo.located; // which chooses the part that is stylized
  if (state.photo !== photo) { pending = true; return; }
  const sent = running.sent = settings(), content = await body();
  setStatus("Working …");
  const answer = await stylize(content, abort.signal, showProgress);
  if (state.photo !== photo) { pending = true; return; }
  photo.resent = false;
  const [{ image, media_type: type }] = answer.images;
  const blob = toBlob(image, type);
  state.result = { blob, answer, settings: sent, photo, painted: Boolean(content.masks) };
  emit("result");
  const seconds = (performance.now() - started) / 1000;
  setStatus(`${answer.styles.join(" + ")} in ${seconds.toFixed(1)} s`);
}

function retry(e, photo) {
  if (e.name === "AbortError") {
    if (!pending && !timer) setStatus("Cancelled.");
  } else if (e.status === 404 && !photo.resent) {
    photo.resent = true;
    photo.store();
    pending = true;
  } else if (e.retryAfter) {
    setStatus(`${e.message}; trying again in ${e.retryAfter} s`, true);
    photo.stored.catch(() => photo.store());
    request(e.retryAfter * 1000);
  } else showError(e);
}

const STAGES = { load: "Loading the style", queue: "In the queue", encode: "Reading the photo",
  decode: "Painting" };

function showProgress({ stage, place, step, steps, seconds_left: left }) {
  const at = stage === "queue" ? `place ${place + 1}` : steps ? `step ${step} of ${steps}` : "";
  const time = left >= 1 ? `about ${duration(left)} left` : "";
  $("progress-text").textContent = [STAGES[stage], at, time].filter(Boolean).join(" · ");
  // Encoding and decoding each fill one half.
  const half = steps ? step / steps / 2 : 0;
  $("progress-bar").value = { load: 0, queue: 0, encode: half, decode: 0.5 + half }[stage];
  $("progress").hidden = false;
}

export function duration(seconds) {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  return `${Math.round(seconds / 60)} min`;
}

function cancel() {
  pending = false;
  clearTimeout(timer);
  timer = 0;
  running?.abort.abort();
  showBusy();
}

export function start() {
  on("photo mix", () => request());
  $("cancel").addEventListener("click", cancel);
}
