// The mask brush: a canvas over the picture; its alpha is where the style shows.
import { $, state } from "./core.js";

const SIZE = 256;
const canvas = $("mask"), pen = canvas.getContext("2d", { willReadFrequently: true });
const spot = { x: SIZE / 2, y: SIZE / 2 };
let kind = null;

function choose(wanted) {
  kind = kind === wanted ? null : wanted;
  for (const name of ["paint", "erase"]) $(name).setAttribute("aria-pressed", String(kind === name));
  canvas.hidden = !kind;
  $("cursor").hidden = true;
}

function dab() {
  pen.globalCompositeOperation = kind === "erase" ? "destination-out" : "source-over";
  pen.fillStyle = "#f0875a";
  pen.beginPath();
  pen.arc(spot.x, spot.y, Number($("brush").value) / 2, 0, 7);
  pen.fill();
  state.painted = pen.getImageData(0, 0, SIZE, SIZE).data.some((v, i) => i % 4 === 3 && v > 0);
}

function follow(e) {
  const box = canvas.getBoundingClientRect();
  spot.x = (e.clientX - box.left) / box.width * SIZE;
  spot.y = (e.clientY - box.top) / box.height * SIZE;
  if (e.buttons & 1) dab();
}

function keys(e) {
  const step = { ArrowLeft: [-8, 0], ArrowRight: [8, 0], ArrowUp: [0, -8], ArrowDown: [0, 8] }[e.key];
  if (step) {
    spot.x = Math.min(SIZE, Math.max(0, spot.x + step[0]));
    spot.y = Math.min(SIZE, Math.max(0, spot.y + step[1]));
  } else if (e.key === " ") {
    dab();
    state.changed();
  } else return;
  e.preventDefault();
  const share = (v) => (v / SIZE) * 100 + "%";
  Object.assign($("cursor").style, { left: share(spot.x), top: share(spot.y),
    width: share(Number($("brush").value)), height: share(Number($("brush").value)) });
  $("cursor").hidden = false;
}

// A grey PNG, white where the style shows, as base64.
export function data() {
  const out = document.createElement("canvas");
  out.width = out.height = SIZE;
  const from = pen.getImageData(0, 0, SIZE, SIZE);
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
    pen.clearRect(0, 0, SIZE, SIZE);
    state.painted = false;
    choose(null);
    state.changed();
  });
  canvas.addEventListener("pointerdown", (e) => { canvas.setPointerCapture(e.pointerId); follow(e); });
  canvas.addEventListener("pointermove", follow);
  canvas.addEventListener("pointerup", () => state.changed());
  canvas.addEventListener("keydown", keys);
}
