// Stylizing: one request at a time, and the newest values win.
import { $, ask, report, say, state } from "./core.js";
import * as gallery from "./gallery.js";
import * as mask from "./mask.js";
import * as sliders from "./mix.js";
import * as picture from "./picture.js";
import * as program from "./program.js";

const PAUSE = 120; // ms after the last movement
let timer = 0, busy = false, again = false;

state.changed = (wait = PAUSE) => {
  program.write();
  clearTimeout(timer);
  timer = setTimeout(stylize, wait);
  settle();
};

// Busy is from the movement until its picture is there.
function settle() {
  document.body.classList.toggle("busy", busy || again || timer !== 0);
}

async function stylize() {
  timer = 0;
  if (!state.photo || !state.chosen.length) {
    say(state.photo ? "Choose a style." : state.chosen.length ? "Choose a photo." : "Choose a photo and a style.");
    settle();
    return;
  }
  if (busy) { again = true; return; }
  busy = true;
  const started = performance.now(), photo = state.photo;
  try {
    if (!state.encoding) await send(photo);
    const body = { encodings: [state.encoding], mix: sliders.mix() };
    if (state.painted) body.masks = { painted: mask.data() };
    const answer = await ask("/v1/stylize", { method: "POST", body: JSON.stringify(body),
      headers: { "Content-Type": "application/json", Accept: "image/png" } });
    const image = await answer.blob();
    if (state.photo !== photo) { again = true; return; }
    picture.show(image);
    tell(answer.headers, (performance.now() - started) / 1000);
  } catch (e) {
    if (e.status === 404 && state.encoding) { state.encoding = null; again = true; }
    else if (e.after) { say(`${e.message}; trying again in ${e.after} s`, true); state.changed(e.after * 1000); }
    else report(e);
  } finally {
    busy = false;
    if (again) { again = false; state.changed(); }
    settle();
  }
}

async function send(photo) {
  say("Sending the photo …");
  const form = new FormData();
  form.append("image", photo, "photo");
  const answer = await ask("/v1/encodings", { method: "POST", body: form });
  const { encodings } = await answer.json();
  if (state.photo === photo) state.encoding = encodings[0].id;
  say("Working …");
}

function tell(headers, seconds) {
  const part = (name) => Number(headers.get(`X-${name}-Seconds`) || 0).toFixed(2);
  say(`${headers.get("X-Style-Version").replaceAll(",", " + ")} in ${seconds.toFixed(2)} s`);
  $("timing").textContent =
    `queue ${part("Queue")} s · encode ${part("Encode")} s · decode ${part("Decode")} s`;
}

async function begin() {
  try {
    state.info = await (await ask("/v1/info")).json();
    sliders.build();
    await gallery.list(true);
    program.write();
    state.changed();
  } catch (e) { report(e); }
}

for (const part of [gallery, mask, sliders, picture, program]) part.start();
$("key").addEventListener("change", begin);
begin();
