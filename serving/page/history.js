// The results of this browser with their settings: restored by a click, compared side by side.
import * as files from "./files.js";
import { $, element, showError } from "./dom.js";
import * as mask from "./mask.js";
import { show as showPhoto } from "./photo.js";
import { on, restore, state, WHOLE_FITS } from "./state.js";

const MOST = 24;
const SETTLED_MS = 900; // a result that a slider's movement replaces within this time is not kept
let entries = []; // newest first: {id, photo, name, settings, masked, styles}
let timer = 0;

const pictures = new Map(); // addresses of the results' blobs, by id

// Text of what an entry was made with.
function describe({ settings, masked }) {
  const { styles, values, options } = settings;
  const total = styles.reduce((sum, s) => sum + s.weight, 0) || 1;
  const names = styles.map(({ style, weight }) =>
    (styles.length > 1 ? `${style} ${Math.round(weight / total * 100)} %` : style));
  const set = Object.entries(values).map(([name, value]) =>
    `${name.replaceAll("_", " ")} ${[].concat(value).join(", ")}`);
  const parts = [options.fit === "align" && "faces", WHOLE_FITS.includes(options.fit) && "whole photo",
    options.crop && "own square", options.detail && "detail", masked && "mask"].filter(Boolean);
  return [names.join(" + "), ...set, ...parts].join(" · ");
}

async function keep(result) {
  const { photo, settings, painted: masked, blob, answer } = result;
  const entry = { photo: await photo.stored, name: photo.name, sample: photo.sample, settings,
    masked, styles: answer.styles };
  const text = JSON.stringify(entry);
  if (!masked) entries = entries.filter(({ id, ...rest }) => JSON.stringify(rest) !== text);
  entry.id = `${Date.now()}-${Math.random().toString(36).slice(2, 8)}`;
  entries.unshift(entry);
  pictures.set(entry.id, URL.createObjectURL(blob));
  await files.put(`result:${entry.id}`, blob);
  if (masked) await files.put(`mask:${entry.id}`, mask.pixels());
  await files.put(`photo:${entry.photo}`, photo.file);
  await store();
}

// Store the list; drop old results, and photos that no result has.
async function store() {
  entries.splice(MOST);
  await files.put("history", entries);
  const wanted = new Set(entries.flatMap((e) =>
    [`result:${e.id}`, `mask:${e.id}`, `photo:${e.photo}`]));
  for (const key of await files.keys())
    if (/^(result|mask|photo):/.test(key) && !wanted.has(key)) await files.remove(key);
  for (const [id, address] of pictures)
    if (!wanted.has(`result:${id}`)) {
      URL.revokeObjectURL(address);
      pictures.delete(id);
    }
  draw();
}

function draw() {
  $("history").hidden = !entries.length;
  const chosen = new Set(compared().map((input) => input.value));
  $("past").replaceChildren(...entries.filter((e) => pictures.has(e.id)).map((entry) => {
    const text = `${describe(entry)} · ${entry.name}`;
    const button = element("button", { type: "button", className: "thumb", title: text,
      aria: { label: `Restore: ${text}` } },
    element("img", { src: pictures.get(entry.id), alt: "" }));
    button.addEventListener("click", () => reopen(entry).catch(showError));
    const tick = element("input", { type: "checkbox", value: entry.id,
      checked: chosen.has(entry.id), aria: { label: `Compare: ${text}` } });
    tick.addEventListener("change", () => limit(tick));
    return element("li", {}, button, tick);
  }));
  limit();
}

const compared = () => [...document.querySelectorAll("#past input:checked")];

// At most two results are compared.
function limit(newest) {
  const chosen = compared();
  if (chosen.length > 2) chosen.find((input) => input !== newest).checked = false;
  $("side-by-side").disabled = compared().length !== 2;
}

async function reopen({ id, photo, sample, settings, masked }) {
  const current = state.photo && await state.photo.stored;
  const file = current === photo ? null : await files.get(`photo:${photo}`);
  if (file) await showPhoto(file, { sample, settings });
  else restore(settings);
  const painted = masked && await files.get(`mask:${id}`);
  if (painted) mask.restorePixels(painted);
}

function showPair() {
  const chosen = compared().map((input) => entries.find((e) => e.id === input.value));
  $("pair").replaceChildren(...chosen.map((entry) => element("figure", {},
    element("img", { alt: describe(entry), src: pictures.get(entry.id) }),
    element("figcaption", {}, element("strong", { textContent: entry.styles.join(" + ") }),
      ` ${describe(entry)}`))));
  $("compare-dialog").showModal();
}

async function clear() {
  entries = [];
  await store();
}

async function load() {
  entries = (await files.get("history")) ?? [];
  for (const { id } of entries) {
    const blob = await files.get(`result:${id}`);
    if (blob) pictures.set(id, URL.createObjectURL(blob));
  }
  draw();
}

export function start() {
  on("mix", () => clearTimeout(timer));
  on("result", () => {
    const { result } = state;
    clearTimeout(timer);
    timer = setTimeout(() => keep(result).catch(showError), SETTLED_MS);
  });
  $("side-by-side").addEventListener("click", showPair);
  $("forget").addEventListener("click", () => clear().catch(showError));
  load();
}
