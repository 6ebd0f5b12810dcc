// The image area: photo upload, camera, before/after, download.
import { $, setStatus, state } from "./core.js";

function setPhoto(file) {
  if (!file) return;
  if (!file.type.startsWith("image/")) { setStatus("This file is not an image.", true); return; }
  state.photo = file;
  state.encoding = null;
  replaceImage($("before"), file);
  $("after").hidden = true;
  $("wipe-row").hidden = true;
  setWipe(0);
  $("compare").hidden = false;
  $("compare").classList.remove("both");
  $("hint").hidden = true;
  $("download").disabled = true;
  document.querySelector(".stage").classList.add("full");
  state.update();
}

export function show(blob) {
  replaceImage($("after"), blob);
  $("after").hidden = false;
  $("compare").classList.add("both");
  $("wipe-row").hidden = false;
  $("download").disabled = false;
}

function replaceImage(image, blob) {
  const old = image.src;
  image.src = URL.createObjectURL(blob);
  if (old.startsWith("blob:")) image.decode().catch(() => {}).then(() => URL.revokeObjectURL(old));
}

function setWipe(percent) {
  $("wipe").value = percent;
  $("compare").style.setProperty("--wipe", percent + "%");
  $("compare").classList.toggle("wiped", percent > 0);
}

function drag(e) {
  if (!(e.buttons & 1) || e.target === $("mask") || $("after").hidden) return;
  const box = $("compare").getBoundingClientRect();
  setWipe(Math.round(Math.min(1, Math.max(0, (e.clientX - box.left) / box.width)) * 100));
}

function closeCamera() {
  for (const track of $("video").srcObject?.getTracks() ?? []) track.stop();
  $("video").srcObject = null;
  $("shoot").hidden = true;
}

async function openCamera() {
  try {
    const devices = navigator.mediaDevices;
    if (!devices) throw new Error("browsers allow a camera over https or on localhost only");
    $("video").srcObject = await devices.getUserMedia({ video: { facingMode: "user" } });
    await $("video").play();
    $("shoot").hidden = false;
    $("snap").focus();
  } catch (e) { closeCamera(); setStatus("No camera: " + (e.message || e.name), true); }
}

function takePicture() {
  const video = $("video"), canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  closeCamera();
  canvas.toBlob((blob) => setPhoto(new File([blob], "camera.png", { type: blob.type })));
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
  $("file").addEventListener("change", ({ target }) => {
    setPhoto(target.files[0]);
    target.value = "";
  });
  drop.addEventListener("dragover", (e) => { e.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (e) => {
    e.preventDefault();
    drop.classList.remove("over");
    setPhoto(e.dataTransfer.files[0]);
  });
  addEventListener("paste", (e) => setPhoto(e.clipboardData.files[0]));
  $("compare").addEventListener("pointerdown", (e) => {
    if (e.target !== $("mask")) { $("compare").setPointerCapture(e.pointerId); drag(e); }
  });
  $("compare").addEventListener("pointermove", drag);
  $("wipe").addEventListener("input", (e) => setWipe(Number(e.target.value)));
  $("camera").addEventListener("click", openCamera);
  $("no-camera").addEventListener("click", closeCamera);
  $("snap").addEventListener("click", takePicture);
  $("download").addEventListener("click", download);
}
