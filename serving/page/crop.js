// What part of the photo is stylized: each face, a square that can be moved, or the whole photo.
import { $, clamp, element } from "./dom.js";
import { emit, on, square, state, wholeFit } from "./state.js";

const LEAST = 16; // pixels of the photo; as the server's CropBox
const KEY_STEPS = 40; // key presses from one border to the other
let drag = null;

const percent = (part, whole) => (part / whole) * 100 + "%";

// Lay an element over a square, or a part of another shape, of the photo.
export function place(target, { x, y, side, width = side, height = side }) {
  const { photo } = state;
  Object.assign(target.style, { left: percent(x, photo.width), top: percent(y, photo.height),
    width: percent(width, photo.width), height: percent(height, photo.height) });
}

function setBox({ x, y, side }) {
  const { width, height } = state.photo;
  const whole = Math.min(width, height);
  side = Math.round(clamp(side, Math.min(LEAST, whole), whole));
  state.options.crop = { side, x: Math.round(clamp(x, 0, width - side)),
    y: Math.round(clamp(y, 0, height - side)) };
  state.options.fit = "crop";
  emit("square");
  emit("mix");
}

function chooseFit(fit) {
  state.options.fit = fit;
  if (fit !== "crop") state.options.crop = null;
  setEditing(false);
  emit("square");
  emit("mix");
}

function setEditing(editing) {
  $("crop").setAttribute("aria-pressed", String(editing));
  document.body.classList.toggle("cropping", editing);
  $("box").hidden = !editing;
}

function show() {
  const { photo, options } = state;
  const known = Boolean(photo?.width);
  $("part").hidden = !known;
  if (!known) return;
  for (const input of document.querySelectorAll("#part input[name=fit]")) {
    input.checked = input.value === options.fit;
    if (input.value === "align") input.disabled = !photo.faces?.length;
  }
  $("detail").checked = options.detail;
  $("crop").hidden = options.fit !== "crop" || photo.width === photo.height;
  const at = square();
  if (at) place($("box"), at);
  $("faces").replaceChildren(...(photo.faces ?? []).map(outline));
}

// The outline of a face that was found; its label moves the square to it.
function outline(face, index) {
  const button = element("button", { type: "button", textContent: index + 1,
    aria: { label: `Move the square to face ${index + 1}` } });
  button.addEventListener("click", () => setBox(face));
  const box = element("div", { className: "face layer" }, button);
  place(box, face);
  return box;
}

function startDrag(e) {
  e.preventDefault();
  $("box").focus();
  $("box").setPointerCapture(e.pointerId);
  const resize = e.target.classList.contains("handle");
  drag = { resize, from: { ...square() }, x: e.clientX, y: e.clientY };
}

function moveDrag(e) {
  if (!drag) return;
  const scale = state.photo.width / $("compare").getBoundingClientRect().width;
  const dx = (e.clientX - drag.x) * scale, dy = (e.clientY - drag.y) * scale;
  const { x, y, side } = drag.from;
  setBox(drag.resize ? { x, y, side: Math.min(side + Math.max(dx, dy), state.photo.width - x,
    state.photo.height - y) } : { x: x + dx, y: y + dy, side });
}

function onKey(e) {
  const { x, y, side } = square();
  const step = Math.max(1, Math.min(state.photo.width, state.photo.height) / KEY_STEPS);
  const moved = { ArrowLeft: { x: x - step, y, side }, ArrowRight: { x: x + step, y, side },
    ArrowUp: { x, y: y - step, side }, ArrowDown: { x, y: y + step, side },
    "+": { x: x - step / 2, y: y - step / 2, side: side + step },
    "-": { x: x + step / 2, y: y + step / 2, side: side - step } }[e.key];
  if (!moved) return;
  e.preventDefault();
  setBox(moved);
}

export function start() {
  on("info", () => { $("whole").value = wholeFit(); });
  on("photo square", show);
  on("photo", () => setEditing(false));
  for (const input of document.querySelectorAll("#part input[name=fit]"))
    input.addEventListener("change", () => chooseFit(input.value));
  $("detail").addEventListener("change", (e) => {
    state.options.detail = e.target.checked;
    emit("mix");
  });
  $("crop").addEventListener("click", () => {
    setEditing($("crop").getAttribute("aria-pressed") !== "true");
    if (!$("box").hidden) $("box").focus();
  });
  $("box").addEventListener("pointerdown", startDrag);
  $("box").addEventListener("pointermove", moveDrag);
  for (const name of ["pointerup", "pointercancel"])
    $("box").addEventListener(name, () => { drag = null; });
  $("box").addEventListener("keydown", onKey);
}
