"use strict";
const $ = (id) => document.getElementById(id);
const state = { photo: null, encoding: null, chosen: [], image: null, info: null, offset: 0,
  values: {}, painted: false, brush: null, language: "curl", busy: null, again: false };

// Every parameter of the mix that is a number: name, label, low, high, step, start (null: the
// style's own).
const SLIDERS = [
  ["strength", "Strength", 0, 2, 0.05, 1],
  ["structure", "Structure", 0, 1, 0.02, null],
  ["content_cutoff", "Content cutoff (px)", 0, 6, 1, null],
  ["t0", "Noise (t0)", 0.1, 0.9, 0.1, null],
  ["decode_steps", "Decode steps", 0, 4, 1, null],
  ["encode_steps", "Encode steps", 0, 4, 1, null],
  ["text_amount", "Text amount", -3, 3, 0.1, 1],
  ["seed", "Seed", 0, 99, 1, 0],
];
const STEPS = [10, 20, 50, 100, 200];

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

function headers(more = {}) {
  const key = $("key").value.trim();
  return key ? { ...more, Authorization: "Bearer " + key } : more;
}

async function ask(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: headers(options.headers) });
  if (answer.ok) return answer;
  let text = answer.statusText;
  try {
    const { error } = await answer.json();
    text = error.message + (error.allowed ? ` (allowed: ${error.allowed})` : "");
  } catch { /* no JSON: the status says it */ }
  if (answer.status === 401) $("access").open = true;
  const failure = new Error(text);
  failure.status = answer.status;
  failure.after = Number(answer.headers.get("Retry-After") || 0);
  throw failure;
}

// --- styles ---
async function list(fresh) {
  if (fresh) { state.offset = 0; $("styles").replaceChildren(); }
  const q = encodeURIComponent($("search").value);
  const page = await (await ask(`/v1/styles?limit=60&offset=${state.offset}&q=${q}`)).json();
  for (const style of page.styles) $("styles").append(card(style));
  state.offset = page.next_offset ?? 0;
  $("more").hidden = page.next_offset === null;
  if (!page.total) $("styles").textContent = "No style matches.";
  mark();
}

function card(style) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "card";
  button.dataset.style = style.id;
  button.disabled = !style.usable;
  button.title = style.problem || [style.reference, ...style.tags, style.licence].filter(Boolean).join(" · ");
  const image = document.createElement("img");
  image.src = style.preview;
  image.alt = "";
  image.loading = "lazy";
  const name = document.createElement("span");
  name.textContent = style.id;
  button.append(image, name);
  button.addEventListener("click", () => choose(style.id));
  return button;
}

function choose(id) {
  const at = state.chosen.indexOf(id);
  if (at >= 0) state.chosen.splice(at, 1);
  else state.chosen = [...state.chosen, id].slice(-2);
  mark();
  changed();
}

function mark() {
  for (const b of document.querySelectorAll(".card")) {
    b.setAttribute("aria-pressed", String(state.chosen.includes(b.dataset.style)));
  }
  const two = state.chosen.length === 2;
  $("fade-row").hidden = !two;
  if (two) [$("fade-a").textContent, $("fade-b").textContent] = state.chosen;
}

// --- sliders ---
function value(name, raw) {
  if (name === "content_cutoff") return state.info.image_size >> (6 - raw) || 1;
  if (name.endsWith("_steps")) return STEPS[raw];
  return raw;
}

function sliders() {
  const box = $("sliders");
  box.replaceChildren();
  const add = (name, label, low, high, step, start) => {
    const row = document.createElement("label");
    row.className = "slider";
    const text = document.createElement("span");
    text.textContent = label;
    const shown = document.createElement("output");
    shown.textContent = start === null ? "as trained" : start;
    const input = document.createElement("input");
    Object.assign(input, { type: "range", min: low, max: high, step, id: "mix-" + name });
    input.value = start ?? (low + high) / 2;
    input.addEventListener("input", () => {
      state.values[name] = value(name, Number(input.value));
      shown.textContent = state.values[name];
      changed();
    });
    row.append(text, shown, input);
    box.append(row);
  };
  for (const s of SLIDERS) if (s[0] !== "text_amount" || state.info.text_edits.length) add(...s);
  const select = (name, label, options) => {
    const row = document.createElement("label");
    row.className = "slider";
    row.append(label);
    const menu = document.createElement("select");
    menu.id = "mix-" + name;
    for (const [v, t] of options) menu.append(new Option(t, v));
    menu.addEventListener("change", () => {
      if (menu.value) state.values[name] = menu.value; else delete state.values[name];
      changed();
    });
    row.append(menu);
    box.append(row);
  };
  select("blend", "Two styles blend", [["", "in one network"], ["noise", "as noise (slower)"]]);
  const edits = state.info.text_edits;
  if (edits.length) select("text_edit", "Text edit", [["", "none"], ...edits.map((e) => [e, e])]);
  const levels = document.createElement("details");
  levels.innerHTML = "<summary>Style by level</summary>";
  for (let i = 0; i < state.info.levels; i++) {
    const row = document.createElement("label");
    row.className = "row";
    const input = document.createElement("input");
    Object.assign(input, { type: "range", min: 0, max: 1, step: 0.05, value: 1, className: "level" });
    input.addEventListener("input", () => {
      state.values.level_weights = [...document.querySelectorAll(".level")].map((e) => Number(e.value));
      changed();
    });
    row.append(`${state.info.image_size >> i} px`, input);
    levels.append(row);
  }
  box.append(levels);
}

function mix() {
  const fade = Number($("fade").value) / 100;
  const weights = state.chosen.length === 2 ? [Math.max(1 - fade, 0.001), Math.max(fade, 0.001)] : [1];
  const styles = state.chosen.map((style, i) =>
    ({ style, weight: weights[i], ...(state.painted ? { mask: "painted" } : {}) }));
  return { styles, ...state.values };
}

// --- stylizing: one request at a time; the newest values win ---
let timer = 0;
function changed() {
  code();
  clearTimeout(timer);
  timer = setTimeout(stylize, 120);
}

async function stylize() {
  if (!state.photo || !state.chosen.length) {
    say(state.photo ? "Choose a style." : "Choose a photo.");
    return;
  }
  if (state.busy) { state.again = true; return; }
  state.busy = true;
  document.body.classList.add("busy");
  const started = performance.now();
  try {
    if (!state.encoding) {
      say("Sending the photo …");
      const form = new FormData();
      form.append("image", state.photo, "photo");
      state.encoding = (await (await ask("/v1/encodings", { method: "POST", body: form })).json()).encodings[0].id;
      code();
    }
    say("Working …");
    const body = { encodings: [state.encoding], mix: mix() };
    if (state.painted) body.masks = { painted: maskData() };
    const answer = await ask("/v1/stylize", { method: "POST", body: JSON.stringify(body),
      headers: { "Content-Type": "application/json", Accept: "image/png" } });
    state.image = await answer.blob();
    const old = $("after").src;
    $("after").src = URL.createObjectURL(state.image);
    if (old.startsWith("blob:")) URL.revokeObjectURL(old);
    $("after").hidden = false;
    $("wipe-row").hidden = false;
    $("download").disabled = false;
    const h = (n) => Number(answer.headers.get(n) || 0).toFixed(2);
    say(`${answer.headers.get("X-Style-Version")} in ${((performance.now() - started) / 1000).toFixed(2)} s`);
    $("timing").textContent = `queue ${h("X-Queue-Seconds")} s · encode ${h("X-Encode-Seconds")} s · decode ${h("X-Decode-Seconds")} s`;
  } catch (e) {
    if (e.status === 404 && state.encoding) { state.encoding = null; state.again = true; }
    else if (e.status === 503 && e.after) { say(`${e.message}; trying again in ${e.after} s`, true); setTimeout(changed, e.after * 1000); }
    else say(e.message, true);
  } finally {
    state.busy = false;
    document.body.classList.remove("busy");
    if (state.again) { state.again = false; changed(); }
  }
}

// --- photo ---
function take(file) {
  if (!file) return;
  state.photo = file;
  state.encoding = null;
  $("before").src = URL.createObjectURL(file);
  $("after").hidden = true;
  $("compare").hidden = false;
  $("hint").hidden = true;
  $("drop").classList.add("full");
  changed();
}

async function camera() {
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" } });
    $("video").srcObject = stream;
    await $("video").play();
    $("shoot").hidden = false;
  } catch (e) { say("No camera: " + (e.message || e.name), true); }
}

function snap() {
  const video = $("video"), canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  for (const track of video.srcObject.getTracks()) track.stop();
  $("shoot").hidden = true;
  canvas.toBlob(take, "image/png");
}

// --- mask ---
const canvas = $("mask"), pen = canvas.getContext("2d");
function brush(kind) {
  state.brush = state.brush === kind ? null : kind;
  $("paint").setAttribute("aria-pressed", String(state.brush === "paint"));
  $("erase").setAttribute("aria-pressed", String(state.brush === "erase"));
  canvas.hidden = !state.brush;
}
function dab(e) {
  if (!state.brush || !(e.buttons & 1)) return;
  const box = canvas.getBoundingClientRect();
  pen.globalCompositeOperation = state.brush === "erase" ? "destination-out" : "source-over";
  pen.fillStyle = "#f0875a";
  pen.beginPath();
  pen.arc((e.clientX - box.left) / box.width * 256, (e.clientY - box.top) / box.height * 256,
    Number($("brush").value) / 2, 0, 7);
  pen.fill();
  state.painted = true;
}
function maskData() {
  const out = document.createElement("canvas");
  out.width = out.height = 256;
  const to = out.getContext("2d"), from = pen.getImageData(0, 0, 256, 256);
  for (let i = 0; i < from.data.length; i += 4) {
    from.data.fill(from.data[i + 3], i, i + 3);
    from.data[i + 3] = 255;
  }
  to.putImageData(from, 0, 0);
  return out.toDataURL("image/png").split(",")[1];
}

// --- the request as a program ---
function code() {
  const body = { encodings: [state.encoding || "ENCODING_ID"], mix: mix() };
  const masked = state.painted ? { ...body, masks: { painted: "BASE64_PNG" } } : body;
  const text = JSON.stringify(masked, null, 2);
  const auth = $("key").value ? " -H 'Authorization: Bearer KEY'" : "";
  $("code").textContent = state.language === "curl"
    ? `curl${auth} -F image=@photo.jpg ${location.origin}/v1/encodings\n\ncurl${auth} ${location.origin}/v1/stylize \\\n  -H 'Content-Type: application/json' -o out.png \\\n  -d '${text}'`
    : `from serving.client import Client\n\nclient = Client("${location.origin}")\nphoto = client.encode("photo.jpg")\nmix = ${python(masked.mix)}\nimage = client.stylize(photo, mix${state.painted ? ', masks={"painted": "mask.png"}' : ""})\nimage.save("out.png")`;
}
function python(data) {
  return JSON.stringify(data, null, 4).replace(/\btrue\b/g, "True").replace(/\bnull\b/g, "None");
}
function language(name) {
  state.language = name;
  for (const n of ["curl", "python"]) $("as-" + n).setAttribute("aria-selected", String(n === name));
  code();
}

function download() {
  const a = document.createElement("a");
  a.href = $("after").src;
  a.download = `stylized-${state.chosen.join("-")}.png`;
  a.click();
}

async function start() {
  try {
    state.info = await (await ask("/v1/info")).json();
    sliders();
    await list(true);
    code();
  } catch (e) { say(e.message, true); }
}

const press = () => { if (!state.photo) $("file").click(); };
$("drop").addEventListener("click", press);
$("drop").addEventListener("keydown", (e) => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); $("file").click(); } });
$("drop").addEventListener("dragover", (e) => { e.preventDefault(); $("drop").classList.add("over"); });
$("drop").addEventListener("dragleave", () => $("drop").classList.remove("over"));
$("drop").addEventListener("drop", (e) => { e.preventDefault(); $("drop").classList.remove("over"); take(e.dataTransfer.files[0]); });
$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", (e) => take(e.target.files[0]));
$("camera").addEventListener("click", camera);
$("snap").addEventListener("click", snap);
$("download").addEventListener("click", download);
$("wipe").addEventListener("input", (e) => $("compare").style.setProperty("--wipe", e.target.value + "%"));
$("fade").addEventListener("input", changed);
$("more").addEventListener("click", () => list(false).catch((e) => say(e.message, true)));
let typing = 0;
$("search").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(() => list(true).catch((e) => say(e.message, true)), 200); });
$("reset").addEventListener("click", () => { state.values = {}; sliders(); changed(); });
$("paint").addEventListener("click", () => brush("paint"));
$("erase").addEventListener("click", () => brush("erase"));
$("clear").addEventListener("click", () => { pen.clearRect(0, 0, 256, 256); state.painted = false; brush(null); changed(); });
canvas.addEventListener("pointerdown", (e) => { canvas.setPointerCapture(e.pointerId); dab(e); });
canvas.addEventListener("pointermove", dab);
canvas.addEventListener("pointerup", () => state.painted && changed());
$("as-curl").addEventListener("click", () => language("curl"));
$("as-python").addEventListener("click", () => language("python"));
$("key").addEventListener("change", start);
start();
