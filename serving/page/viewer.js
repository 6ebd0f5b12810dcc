// The picture: the photo, its stylization, and the divider between them.
import { $, clamp, showBlob } from "./dom.js";
import { on, state } from "./state.js";

function setWipe(percent) {
  $("wipe").value = percent;
  $("compare").style.setProperty("--wipe", percent + "%");
  $("compare").classList.toggle("wiped", percent > 0);
}

let dragging = false;
function drag(e) {
  if (!dragging) return;
  const box = $("compare").getBoundingClientRect();
  setWipe(Math.round(clamp((e.clientX - box.left) / box.width, 0, 1) * 100));
}

const size = ([width, height]) => `${width} × ${height}`;

function showSizes() {
  const { photo, result } = state;
  if (!photo) return;
  const parts = [];
  if (photo.width) parts.push(`Photo ${size([photo.width, photo.height])}`);
  if (photo.faces)
    parts.push(["no face", "1 face"][photo.faces.length] ?? `${photo.faces.length} faces`);
  if (result) parts.push(`result ${size([$("after").naturalWidth, $("after").naturalHeight])}`);
  $("sizes").textContent = parts.join(" · ");
  if (photo.width)
    $("drop").style.setProperty("--aspect", photo.width / photo.height);
}

function showPhoto() {
  $("after").hidden = true;
  setWipe(0);
  $("compare").hidden = false;
  $("hint").hidden = true;
  document.body.classList.add("full");
  document.body.classList.remove("done");
  showSizes();
}

async function showResult() {
  showBlob($("after"), state.result.blob);
  await $("after").decode().catch(() => {});
  $("after").hidden = false;
  document.body.classList.add("done");
  showSizes();
}

export function start() {
  const compare = $("compare");
  compare.addEventListener("pointerdown", (e) => {
    if (!state.result || e.target.closest(".layer")) return;
    compare.setPointerCapture(e.pointerId);
    dragging = true;
    drag(e);
  });
  compare.addEventListener("pointermove", drag);
  for (const name of ["pointerup", "pointercancel"])
    compare.addEventListener(name, () => { dragging = false; });
  $("wipe").addEventListener("input", (e) => setWipe(Number(e.target.value)));
  on("photo", showPhoto);
  on("square", showSizes);
  on("result", showResult);
}
