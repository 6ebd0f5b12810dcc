// The mask brush: a canvas over the image. The style shows where the canvas is opaque.
import { $, state } from "./core.js";

const SIZE = 256;
const canvas = $("mask"), context = canvas.getContext("2d", { willReadFrequently: true });
const brush = { x: SIZE / 2, y: SIZE / 2 };
let tool = null;

function choose(name) {
  tool = tool === name ? null : name;
  for (const id of ["paint", "erase"]) $(id).setAttribute("aria-pressed", String(tool === id));
  canvas.hidden = !tool;
  $("cursor").hidden = true;
}

function stamp() {
  context.globalCompositeOperation = tool === "erase" ? "destination-out" : "source-over";
  context.fillStyle = "#f0875a";
  context.beginPath();
  context.arc(brush.x, brush.y, Number($("brush").value) / 2, 0, 7);
  context.fill();
  state.painted = context.getImageData(0, 0, SIZE, SIZE).data.some((v, i) => i % 4 === 3 && v > 0);
}

function movePointer(e) {
  const box = canvas.getBoundingClientRect();
  brush.x = (e.clientX - box.left) / box.width * SIZE;
  brush.y = (e.clientY - box.top) / box.height * SIZE;
  if (e.buttons & 1) stamp();
}

function onKey(e) {
  const steps = { ArrowLeft: [-8, 0], ArrowRight: [8, 0], ArrowUp: [0, -8], ArrowDown: [0, 8] };
  const step = steps[e.key];
  if (step) {
    brush.x = Math.min(SIZE, Math.max(0, brush.x + step[0]));
    brush.y = Math.min(SIZE, Math.max(0, brush.y + step[1]));
  } else if (e.key === " ") {
    stamp();
    state.update();
  } else return;
  e.preventDefault();
  const percent = (v) => (v / SIZE) * 100 + "%";
  Object.assign($("cursor").style, { left: percent(brush.x), top: percent(brush.y),
    width: percent(Number($("brush").value)), height: percent(Number($("brush").value)) });
  $("cursor").hidden = false;
}

// The mask as a grey PNG, white where the style shows, in base64.
export function toBase64() {
  const out = document.createElement("canvas");
  out.width = out.height = SIZE;
  const from = context.getImageData(0, 0, SIZE, SIZE);
  for (let i = 0; i < from.data.length; i += 4) {
    from.data.fill(from.data[i + 3], i, i + 3);
    from.data[i + 3] = 255;
  }
  out.getContext("2d").putImageData(from, 0, 0);
  return out.toDataURL("image/png").split(",")[1];
}

export function start() {
  $("paint").addEventListener("click", () => choose("paint"));
  $("erase").addEventListener("click", () => choose("erase"));
  $("clear").addEventListener("click", () => {
    context.clearRect(0, 0, SIZE, SIZE);
    state.painted = false;
    choose(null);
    state.update();
  });
  canvas.addEventListener("pointerdown", (e) => {
    canvas.setPointerCapture(e.pointerId);
    movePointer(e);
  });
  canvas.addEventListener("pointermove", movePointer);
  canvas.addEventListener("pointerup", () => state.update());
  canvas.addEventListener("keydown", onKey);
}
