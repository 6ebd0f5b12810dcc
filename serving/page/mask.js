// The mask brush: a canvas over the part that is stylized. The style shows where it is opaque.
import { $, clamp, setStatus, showError } from "./dom.js";
import { place } from "./crop.js";
import { post } from "./server.js";
import { emit, on, part, state } from "./state.js";

const SIZE = 256; // pixels of the canvas's shorter side
const MOST = 4 * SIZE; // of its longer side
const COLOUR = [240, 135, 90];
const regions = [...document.querySelectorAll("#regions [data-region]")];
const canvas = $("mask"), context = canvas.getContext("2d", { willReadFrequently: true });
const brush = { x: SIZE / 2, y: SIZE / 2 };
let tool = null;

function choose(name) {
  tool = tool === name ? null : name;
  for (const id of ["pick", "paint", "erase"]) $(id).setAttribute("aria-pressed", String(tool === id));
  canvas.hidden = !tool;
  $("cursor").hidden = true;
}

function stamp() {
  context.globalCompositeOperation = tool === "erase" ? "destination-out" : "source-over";
  context.fillStyle = `rgb(${COLOUR})`;
  context.beginPath();
  context.arc(brush.x, brush.y, Number($("brush").value) / 2, 0, 7);
  context.fill();
  state.painted = pixels().data.some((v, i) => i % 4 === 3 && v > 0);
}

// Paint the mask that the server finds in the photo; the brush then corrects it.
// prompt: points on the subject, as shares of the photo's width and height, or a text.
async function propose(region, prompt = {}) {
  const { photo } = state;
  setStatus("Finding the mask …");
  await photo.located;
  const answer = await post("v1/masks", { encodings: [await photo.stored], region, ...prompt });
  const found = await createImageBitmap(await answer.blob());
  const at = part(), { width, height } = canvas;
  if (state.photo !== photo || !at) return;
  const copy = document.createElement("canvas").getContext("2d");
  Object.assign(copy.canvas, { width, height });
  copy.drawImage(found, at.x, at.y, at.width, at.height, 0, 0, width, height);
  const painted = copy.getImageData(0, 0, width, height);
  for (let i = 0; i < painted.data.length; i += 4) {
    painted.data.set([...COLOUR, painted.data[i]], i);
  }
  restorePixels(painted);
  if (tool !== "paint") choose("paint");
  setStatus("");
}

// Find what is under the pointer.
function pick() {
  const at = part(), { photo } = state;
  const x = (at.x + brush.x / canvas.width * at.width) / photo.width;
  const y = (at.y + brush.y / canvas.height * at.height) / photo.height;
  propose("subject", { points: [[clamp(x, 0, 1), clamp(y, 0, 1)]] }).catch(showError);
}

function movePointer(e) {
  const box = canvas.getBoundingClientRect();
  brush.x = (e.clientX - box.left) / box.width * canvas.width;
  brush.y = (e.clientY - box.top) / box.height * canvas.height;
  if (e.buttons & 1 && tool !== "pick") stamp();
}

function onKey(e) {
  const steps = { ArrowLeft: [-8, 0], ArrowRight: [8, 0], ArrowUp: [0, -8], ArrowDown: [0, 8] };
  const step = steps[e.key];
  if (step) {
    brush.x = clamp(brush.x + step[0], 0, canvas.width);
    brush.y = clamp(brush.y + step[1], 0, canvas.height);
  } else if (e.key === " " && tool === "pick") pick();
  else if (e.key === " ") {
    stamp();
    emit("mix");
  } else return;
  e.preventDefault();
  showCursor();
}

// The brush of the keyboard, in the place of the canvas.
function showCursor() {
  const { x, y, width } = part(), scale = width / canvas.width;
  place($("cursor"), { x: x + brush.x * scale, y: y + brush.y * scale,
    side: Number($("brush").value) * scale });
  $("cursor").hidden = false;
}

function grey() {
  const out = document.createElement("canvas"), from = pixels();
  Object.assign(out, { width: from.width, height: from.height });
  for (let i = 0; i < from.data.length; i += 4) {
    from.data.fill(from.data[i + 3], i, i + 3);
    from.data[i + 3] = 255;
  }
  out.getContext("2d").putImageData(from, 0, 0);
  return out;
}

// The mask as a grey PNG, white where the style shows, in base64; and as a blob.
export const toBase64 = () => grey().toDataURL("image/png").split(",")[1];
export const toPng = () => new Promise((resolve) => grey().toBlob(resolve));

// The pixels of the canvas, and the mask that they were taken of.
export const pixels = () => context.getImageData(0, 0, canvas.width, canvas.height);
export function restorePixels(saved) {
  context.putImageData(saved, 0, 0);
  state.painted = true;
  emit("mix");
}

function clear() {
  context.clearRect(0, 0, SIZE, SIZE);
  state.painted = false;
  choose(null);
}

// Give the canvas a part's shape, which clears it where it had another.
function shape({ width, height }) {
  const scale = SIZE / Math.min(width, height);
  const [w, h] = [width, height].map((side) => Math.min(MOST, Math.round(side * scale)));
  if (w === canvas.width && h === canvas.height) return;
  clear();
  Object.assign(canvas, { width: w, height: h });
  Object.assign(brush, { x: w / 2, y: h / 2 });
}

// The mask belongs to a part of a photo: with faces there is none.
function follow() {
  const at = state.photo?.width ? part() : null;
  for (const id of ["pick", "paint", "erase", "clear"]) $(id).disabled = !at;
  for (const button of [...regions, $("find")]) button.disabled = !at;
  if (at) { shape(at); place(canvas, at); }
  else if (state.painted || tool) clear();
}

export function start() {
  for (const id of ["pick", "paint", "erase"]) $(id).addEventListener("click", () => choose(id));
  $("clear").addEventListener("click", () => { clear(); emit("mix"); });
  for (const button of regions) {
    button.addEventListener("click", () => propose(button.dataset.region).catch(showError));
  }
  $("naming").addEventListener("submit", (e) => {
    e.preventDefault();
    const text = $("named").value.trim();
    if (text) propose("subject", { text }).catch(showError);
  });
  on("info", () => { $("naming").hidden = !state.info.names_masks; });
  canvas.addEventListener("pointerdown", (e) => {
    canvas.setPointerCapture(e.pointerId);
    movePointer(e);
    if (tool === "pick") pick();
  });
  canvas.addEventListener("pointermove", movePointer);
  canvas.addEventListener("pointerup", () => { if (tool !== "pick") emit("mix"); });
  canvas.addEventListener("keydown", onKey);
  on("photo", () => { clear(); follow(); });
  on("restored", clear);
  on("square", follow);
}
