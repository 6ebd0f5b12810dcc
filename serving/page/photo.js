// Choosing photos: files, drop, paste, camera, examples. A result of the server restores its mix.
import { $, element, setNotice, setStatus, showBlob, showError } from "./dom.js";
import { post, request, sendForm, url } from "./server.js";
import { emit, newOptions, on, restore, state } from "./state.js";

const PORTRAIT = 0.7; // share of the photo's side from which a face's square fills the photo
const DETAIL = 2; // times the base's size, from which a photo has detail to keep

// A photo. stored: promise of its id on the server. located: promise of its size and faces. faces:
// their squares; null where unknown. width, height: in pixels; 0 where unknown. resent: whether it was
// sent again without a result since.
class Photo {
  constructor(file, sample) {
    Object.assign(this, { file, sample, name: file.name, width: 0, height: 0, faces: null,
      resent: false });
    this.store();
  }

  store() {
    this.stored = sendForm("v1/encodings", [["image", this.file, this.name]])
      .then(({ encodings }) => encodings[0].id);
    this.stored.catch(() => {}); // reported by the request that needs the id
    return this.stored;
  }
}

async function choose(files) {
  const images = [...files];
  if (!images.length) return;
  if (images.length > 1) { emit("several", images); return; }
  try {
    if (await restoreFrom(images[0])) return;
    await show(images[0]);
  } catch (e) { showError(e); }
}

// Make a file the current photo. sample: its name, of an example photo. settings: to restore with
// it; null chooses the part of the photo by its faces.
export async function show(file, { sample = null, settings = null } = {}) {
  if (file.type && !file.type.startsWith("image/")) {
    setStatus(`${file.name} is not an image.`, true);
    return;
  }
  const photo = new Photo(file, sample), image = $("before");
  showBlob(image, file);
  await image.decode().catch(() => {});
  image.hidden = !image.naturalWidth; // a format that browsers do not show
  Object.assign(photo, { width: image.naturalWidth, height: image.naturalHeight });
  photo.located = locate(photo).catch(showError);
  Object.assign(state, { photo, result: null, options: newOptions() });
  emit("photo");
  await photo.located;
  if (state.photo !== photo) return;
  if (settings) restore(settings);
  else {
    state.options = suggested(photo);
    emit("square");
    emit("mix");
  }
}

// Ask the server for the photo's size and faces.
async function locate(photo) {
  const answer = await post("v1/faces", { encodings: [await photo.stored] });
  const [{ size: [width, height], faces }] = (await answer.json()).photos;
  Object.assign(photo, { width, height, faces: faces.map((face) => face.crop) });
}

// The whole of a portrait, the faces of other photos, and the detail of large photos.
function suggested({ width, height, faces }) {
  const side = Math.min(width, height);
  const portrait = !faces?.length || (faces.length === 1 && faces[0].side > PORTRAIT * side);
  return { fit: portrait ? "crop" : "align", crop: null,
    detail: side > DETAIL * state.info.image_size };
}

export async function showSample(name, settings = null) {
  try {
    const blob = await (await request(`page/samples/${name}`)).blob();
    await show(new File([blob], name, { type: blob.type }), { sample: name, settings });
  } catch (e) { showError(e); }
}

// Restore the mix of a result. Returns whether the file is one.
async function restoreFrom(file) {
  const text = new TextDecoder("latin1").decode(await file.arrayBuffer());
  if (!text.includes("style-factory")) return false;
  const { provenance } = await sendForm("v1/inspect", [["image", file, file.name]]);
  if (!provenance) return false;
  const { styles, ...fields } = provenance.mix;
  const known = Object.fromEntries(state.info.controls.map((c) => [c.name, c.default]));
  const values = Object.fromEntries(Object.entries(fields)
    .filter(([name, value]) => name in known && value !== null && value !== known[name]));
  const { fit, crop, detail } = provenance;
  const options = { fit: fit ?? "crop", crop: crop ?? null, detail };
  restore({ styles: styles.map(({ style, weight }) => ({ style, weight })), values, options });
  const masked = styles.some((s) => s.mask) ? " Its mask is not in the file." : "";
  const source = provenance.source && !state.photo ? ` Its photo is ${provenance.source}.` : "";
  const use = element("button", { type: "button", className: "small",
    textContent: "Use it as photo" });
  use.addEventListener("click", () => show(file).catch(showError));
  setNotice(`The mix of ${file.name} is restored.${source}${masked} `, use);
  return true;
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
  canvas.toBlob((blob) => choose([new File([blob], "camera.png", { type: blob.type })]));
}

function sampleButton(path, index) {
  const name = path.split("/").pop();
  const image = element("img", { src: url(path), alt: "", loading: "lazy" });
  const button = element("button", { type: "button", className: "thumb", title: name,
    aria: { label: `Example photo ${index + 1}` } }, image);
  button.addEventListener("click", () => showSample(name));
  return button;
}

export function start() {
  const drop = $("drop");
  for (const id of ["choose", "hint"]) $(id).addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", ({ target }) => {
    choose([...target.files]);
    target.value = "";
  });
  // Anywhere on the page; elsewhere the browser would leave the page for the file.
  addEventListener("dragover", (e) => { e.preventDefault(); drop.classList.add("over"); });
  addEventListener("dragleave", () => drop.classList.remove("over"));
  addEventListener("drop", (e) => {
    e.preventDefault();
    drop.classList.remove("over");
    choose(e.dataTransfer.files);
  });
  addEventListener("paste", (e) => choose(e.clipboardData.files));
  $("camera").addEventListener("click", openCamera);
  $("no-camera").addEventListener("click", closeCamera);
  $("snap").addEventListener("click", takePicture);
  on("info", () => $("samples").replaceChildren(...state.info.samples.map(sampleButton)));
  on("photo", () => {
    setNotice();
    $("examples").open = false;
  });
}
