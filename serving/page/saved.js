// The settings in the address, so that a link shares them, and in the browser's storage, so that a
// visit continues the last one.
import { storage } from "./dom.js";
import * as files from "./files.js";
import { changedOptions, newOptions, on, restore, settings, state, WHOLE_FITS } from "./state.js";

const STORED = "style-factory";

// Settings as the text after "#": styles=oil:0.5,ink:0.5&strength=0.7&fit=pad&sample=a.png
function toAddress({ styles, values, options }, sample) {
  const found = new URLSearchParams();
  if (styles.length) found.set("styles", styles.map((s) => `${s.style}:${s.weight}`).join(","));
  for (const [name, value] of Object.entries(values)) found.set(name, String(value));
  for (const [name, value] of Object.entries(changedOptions(options))) found.set(name, value);
  if (sample) found.set("sample", sample);
  return found.toString().replaceAll("%2C", ",").replaceAll("%3A", ":");
}

function fromAddress(text) {
  const fields = new URLSearchParams(text), options = newOptions(), values = {};
  const styles = (fields.get("styles") ?? "").split(",").filter(Boolean).map((part) => {
    const [style, weight] = part.split(":");
    const number = Number(weight ?? 1);
    return { style, weight: Number.isFinite(number) && number >= 0 ? number : 1 };
  });
  if (["align", ...WHOLE_FITS].includes(fields.get("fit"))) options.fit = fields.get("fit");
  const box = (fields.get("crop") ?? "").split(",").map(Number);
  if (box.length === 3 && box.every(Number.isInteger))
    options.crop = { x: box[0], y: box[1], side: box[2] };
  options.detail = fields.get("detail") === "true";
  for (const { name, kind } of state.info.controls)
    if (fields.has(name)) values[name] = parsed(fields.get(name), kind);
  return { styles, values, options, sample: fields.get("sample") };
}

function parsed(text, kind) {
  if (kind === "levels") return text.split(",").map(Number);
  if (text === "true" || text === "false") return text === "true";
  return ["choice", "text"].includes(kind) || Number.isNaN(Number(text)) ? text : Number(text);
}

// The settings of the address, else those of the last visit; null on a first visit.
function found() {
  if (location.hash.includes("=")) return fromAddress(location.hash.slice(1));
  const stored = storage("localStorage")?.getItem(STORED);
  return stored ? fromAddress(stored) : null;
}

// Restore settings and photo of the address or of the last visit. show: shows a file as photo;
// showSample: shows an example photo by its name.
export async function open(show, showSample) {
  const settled = found();
  if (settled === null) return;
  const last = await files.get("current");
  if (settled.sample) await showSample(settled.sample, settled);
  else if (last && !state.photo) await show(last, { settings: settled });
  else restore(settled);
}

function save() {
  const text = toAddress(settings(), state.photo?.sample);
  storage("localStorage")?.setItem(STORED, text);
  history.replaceState(null, "", "#" + text);
}

export function start(reopen) {
  on("mix photo", save);
  on("photo", () => files.put("current", state.photo.file));
  addEventListener("hashchange", reopen);
}
