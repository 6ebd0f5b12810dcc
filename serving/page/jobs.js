// Several photos at once: a job of the server, with its progress.
import { $, element, saveAs, setStatus, showError, stem } from "./dom.js";
import { json, request, sendForm } from "./server.js";
import { changedOptions, mix, on, state } from "./state.js";
import { show } from "./photo.js";
import { duration } from "./work.js";

const POLL_MS = 700;
let photos = []; // {file, result, address, name}: result is null until it is finished
let running = null; // id of the job
let started = 0;

function addPhotos(files) {
  const most = state.info.limits.job_images;
  const images = files.filter((file) => !file.type || file.type.startsWith("image/"));
  photos = [...photos, ...images.map((file) => ({ file, result: null,
    address: URL.createObjectURL(file) }))].slice(0, most);
  if (photos.length === most) setStatus(`A job has at most ${most} photos.`);
  draw();
  $("batch").scrollIntoView({ block: "nearest" });
  if (!state.photo) show(photos[0].file).catch(showError);
}

function draw() {
  $("batch").hidden = !photos.length;
  $("batch-photos").replaceChildren(...photos.map(({ file, result, address, name }) => {
    const button = element("button", { type: "button", className: "thumb", title: file.name,
      aria: { label: result ? `Download the result of ${file.name}` : `Show ${file.name}` } },
    element("img", { src: address, alt: "" }));
    button.classList.toggle("done", Boolean(result));
    button.addEventListener("click", () =>
      (result ? saveAs(result, name) : show(file).catch(showError)));
    return element("li", {}, button);
  }));
  const done = photos.filter((p) => p.result).length;
  $("batch-count").textContent = `${photos.length} photos`;
  $("batch-run").disabled = running !== null || !state.styles.length;
  $("batch-cancel").hidden = running === null;
  $("batch-save").hidden = !done;
  $("batch-progress").hidden = running === null;
}

function setResult(photo, result) {
  URL.revokeObjectURL(photo.address);
  Object.assign(photo, { result, address: URL.createObjectURL(result ?? photo.file) });
}

async function run() {
  const names = state.styles.map((s) => s.style).join("-");
  for (const photo of photos) {
    setResult(photo, null);
    photo.name = `${stem(photo.file.name)}-${names}.png`;
  }
  const options = changedOptions({ ...state.options, crop: null }); // a box belongs to one photo
  const { styles, ...fields } = mix();
  const unmasked = { styles: styles.map(({ mask, ...share }) => share), ...fields };
  const form = [...photos.map(({ file }) => ["image", file, file.name]),
    ["mix", JSON.stringify(unmasked)], ...Object.entries(options).map(([k, v]) => [k, String(v)])];
  if (options.fit === "align") form.push(["no_face", "keep"]);
  const job = await sendForm("v1/jobs", form);
  running = job.id;
  started = performance.now();
  draw();
  await follow(job);
}

// Show the job's progress until it has ended.
async function follow(job) {
  const { id, images } = job;
  try {
    while (running === id) {
      await fetchResults(job);
      const left = job.done ? (performance.now() - started) / job.done * (images - job.done) : 0;
      const time = left > 1000 ? ` · about ${duration(left / 1000)} left` : "";
      const step = job.steps ? ` · step ${job.step} of ${job.steps}` : "";
      $("batch-bar").value = job.done / images;
      $("batch-text").textContent = `${job.done} of ${images} photos${time || step}`;
      if (job.state === "failed") throw new Error(`The job failed: ${job.message}`);
      if (job.state === "cancelled") setStatus(`Cancelled after ${job.done} of ${images} photos.`);
      if (job.state === "done") setStatus(`${images} photos are stylized.`);
      if (!["queued", "running"].includes(job.state)) break;
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      job = await json(`v1/jobs/${id}`);
    }
  } finally {
    if (running === id) running = null;
    draw();
  }
}

async function fetchResults(job) {
  for (const [index, path] of job.results.entries()) {
    if (photos[index].result) continue;
    setResult(photos[index], await (await request(path)).blob());
    draw();
  }
}

export function start() {
  $("batch-run").addEventListener("click", () => run().catch(showError));
  $("batch-cancel").addEventListener("click", () =>
    request(`v1/jobs/${running}`, { method: "DELETE" }).catch(showError));
  $("batch-save").addEventListener("click", () => {
    for (const { name, result } of photos) if (result) saveAs(result, name);
  });
  $("batch-clear").addEventListener("click", () => {
    if (running) $("batch-cancel").click();
    photos = [];
    running = null;
    draw();
  });
  on("several", addPhotos);
  on("styles", draw);
}
