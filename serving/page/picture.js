// The picture: photo in, before/after, camera, download.
import { $, say, state } from "./core.js";

export function take(file) {
  if (!file) return;
  if (!file.type.startsWith("image/")) { say("This file is no picture.", true); return; }
  state.photo = file;
  state.encoding = null;
  swap($("before"), file);
  $("after").hidden = true;
  $("wipe-row").hidden = true;
  wipe(0);
  $("compare").hidden = false;
  $("compare").classList.remove("both");
  $("hint").hidden = true;
  $("download").disabled = true;
  document.querySelector(".stage").classList.add("full");
  state.changed();
}

export function show(blob) {
  state.image = blob;
  swap($("after"), blob);
  $("after").hidden = false;
  $("compare").classList.add("both");
  $("wipe-row").hidden = false;
  $("download").disabled = false;
}

function swap(image, blob) {
  const old = image.src;
  image.src = URL.createObjectURL(blob);
  if (old.startsWith("blob:")) image.decode().catch(() => {}).then(() => URL.revokeObjectURL(old));
}

function wipe(percent) {
  $("wipe").value = percent;
  $("compare").style.setProperty("--wipe", percent + "%");
  $("compare").classList.toggle("wiped", percent > 0);
}

function drag(e) {
  if (!(e.buttons & 1) || e.target === $("mask") || $("after").hidden) return;
  const box = $("compare").getBoundingClientRect();
  wipe(Math.round(Math.min(1, Math.max(0, (e.clientX - box.left) / box.width)) * 100));
}

function close() {
  for (const track of $("video").srcObject?.getTracks() ?? []) track.stop();
  $("video").srcObject = null;
  $("shoot").hidden = true;
}

async function camera() {
  try {
    if (!navigator.mediaDevices) throw new Error("browsers allow it over https or on this machine only");
    $("video").srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" } });
    await $("video").play();
    $("shoot").hidden = false;
    $("snap").focus();
  } catch (e) { close(); say("No camera: " + (e.message || e.name), true); }
}

function snap() {
  const video = $("video"), canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  close();
  canvas.toBlob((blob) => take(new File([blob], "camera.png", { type: "image/png" })), "image/png");
}

function download() {
  const a = document.createElement("a");
  a.href = $("after").src;
  a.download = `stylized-${state.chosen.join("-")}.png`;
  a.click();
}

export function start() {
  const drop = $("drop");
  for (const id of ["choose", "hint"]) $(id).addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", (e) => { take(e.target.files[0]); e.target.value = ""; });
  drop.addEventListener("dragover", (e) => { e.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (e) => {
    e.preventDefault();
    drop.classList.remove("over");
    take(e.dataTransfer.files[0]);
  });
  addEventListener("paste", (e) => { if (e.clipboardData.files.length) take(e.clipboardData.files[0]); });
  $("compare").addEventListener("pointerdown", (e) => {
    if (e.target !== $("mask")) { $("compare").setPointerCapture(e.pointerId); drag(e); }
  });
  $("compare").addEventListener("pointermove", drag);
  $("wipe").addEventListener("input", (e) => wipe(Number(e.target.value)));
  $("camera").addEventListener("click", camera);
  $("no-camera").addEventListener("click", close);
  $("snap").addEventListener("click", snap);
  $("download").addEventListener("click", download);
}
