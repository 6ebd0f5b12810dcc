// Sends stylization requests: one at a time, with the newest values.
import { $, request, showError, setStatus, state } from "./core.js";
import * as gallery from "./gallery.js";
import * as mask from "./mask.js";
import * as sliders from "./mix.js";
import * as picture from "./picture.js";
import * as program from "./program.js";

const DELAY_MS = 120; // from the last slider movement to the request
let timer = 0, busy = false, pending = false;

state.update = (wait = DELAY_MS) => {
  program.show();
  clearTimeout(timer);
  timer = setTimeout(stylize, wait);
  showBusy();
};

// The page is busy from a slider movement until its image is shown.
function showBusy() {
  document.body.classList.toggle("busy", busy || pending || timer !== 0);
}

async function stylize() {
  timer = 0;
  if (!state.photo || !state.chosen.length) {
    setStatus(state.photo ? "Choose a style."
      : state.chosen.length ? "Choose a photo." : "Choose a photo and a style.");
    showBusy();
    return;
  }
  if (busy) { pending = true; return; }
  busy = true;
  const started = performance.now(), photo = state.photo;
  try {
    if (!state.encoding) await sendPhoto(photo);
    const body = { encodings: [state.encoding], mix: sliders.mix() };
    if (state.painted) body.masks = { painted: mask.toBase64() };
    const answer = await request("/v1/stylize", { method: "POST", body: JSON.stringify(body),
      headers: { "Content-Type": "application/json", Accept: "image/png" } });
    const image = await answer.blob();
    if (state.photo !== photo) { pending = true; return; }
    picture.show(image);
    showTiming(answer.headers, (performance.now() - started) / 1000);
  } catch (e) {
    if (e.status === 404 && state.encoding) { state.encoding = null; pending = true; }
    else if (e.retryAfter) {
      setStatus(`${e.message}; trying again in ${e.retryAfter} s`, true);
      state.update(e.retryAfter * 1000);
    } else showError(e);
  } finally {
    busy = false;
    if (pending) { pending = false; state.update(); }
    showBusy();
  }
}

async function sendPhoto(photo) {
  setStatus("Sending the photo …");
  const form = new FormData();
  form.append("image", photo, "photo");
  const answer = await request("/v1/encodings", { method: "POST", body: form });
  const { encodings } = await answer.json();
  if (state.photo === photo) state.encoding = encodings[0].id;
  setStatus("Working …");
}

function showTiming(headers, seconds) {
  const part = (name) => Number(headers.get(`X-${name}-Seconds`) || 0).toFixed(2);
  setStatus(`${headers.get("X-Style-Version").replaceAll(",", " + ")} in ${seconds.toFixed(2)} s`);
  $("timing").textContent =
    `queue ${part("Queue")} s · encode ${part("Encode")} s · decode ${part("Decode")} s`;
}

async function load() {
  try {
    state.info = await (await request("/v1/info")).json();
    sliders.build();
    await gallery.list(true);
    program.show();
    state.update();
  } catch (e) { showError(e); }
}

for (const module of [gallery, mask, sliders, picture, program]) module.start();
$("key").addEventListener("change", load);
load();
