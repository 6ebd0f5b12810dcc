// Sliders for every parameter of the mix.
import { $, ask, element, state } from "./core.js";

// name, label, low, high, step, start; a start of null is the style's own, whose setting is the
// last. `fine` ones are folded away.
const SLIDERS = [
  ["strength", "Strength", 0, 2, 0.05, 1],
  ["structure", "Structure of the photo", 0, 1, 0.02, null, "spn_weight"],
  ["content_cutoff", "Content cutoff", 0, 0, 1, null, "content_cutoff"],
  ["text_amount", "Text amount", -3, 3, 0.1, 1],
];
const FINE = [
  ["t0", "Noise (t0)", 0.1, 0.9, 0.1, null, "t0"],
  ["decode_steps", "Decode steps", 0, 0, 1, null, "stylize_decode_steps"],
  ["encode_steps", "Encode steps", 0, 0, 1, null, "stylize_encode_steps"],
  ["seed", "Seed", 0, 99, 1, 0],
];
const STEPS = [10, 20, 50, 100, 200];

// The values that a slider of whole positions stands for.
function scale(name) {
  if (name === "content_cutoff") {
    const sizes = [];
    for (let i = 0; i < state.info.levels + 1; i++) sizes.push(state.info.image_size >> i);
    return sizes.filter((s) => s >= 1).reverse();
  }
  if (name.endsWith("_steps")) return STEPS.filter((s) => s <= state.info.limits[name]);
  return null;
}

const unit = (name) => (name === "content_cutoff" ? " px" : "");

function slider([name, label, low, high, step, start, setting]) {
  const values = scale(name);
  if (values) [low, high] = [0, values.length - 1];
  const shown = element("output", { textContent: start === null ? "as trained" : String(start) });
  const input = element("input", { type: "range", min: low, max: high, step, id: "mix-" + name });
  input.value = start ?? (low + high) / 2;
  const row = element("label", { className: "slider", title: "Double-click: back to the start" },
    element("span", { textContent: label }), shown, input);
  input.addEventListener("input", () => {
    const raw = Number(input.value);
    state.values[name] = values ? values[raw] : raw;
    shown.textContent = state.values[name] + unit(name);
    row.classList.add("set");
    state.changed();
  });
  row.addEventListener("dblclick", () => {
    if (!(name in state.values)) return;
    delete state.values[name];
    row.classList.remove("set");
    if (start !== null) { input.value = start; shown.textContent = String(start); } else row.rest();
    state.changed();
  });
  // Where the style leaves it.
  row.rest = (settings = row.settings ?? {}) => {
    row.settings = settings;
    if (name in state.values || start !== null) return;
    const found = Number(settings[setting]);
    const known = setting in settings && Number.isFinite(found);
    shown.textContent = known ? `${found}${unit(name)} (as trained)` : "as trained";
    const at = values ? values.indexOf(found) : found;
    if (known && at >= 0) input.value = at;
  };
  return row;
}

function menu(name, label, options) {
  const select = element("select", { id: "mix-" + name },
    ...options.map(([value, text]) => new Option(text, value)));
  select.addEventListener("change", () => {
    if (select.value) state.values[name] = select.value; else delete state.values[name];
    state.changed();
  });
  return element("label", { className: "slider" }, element("span", { textContent: label }), select);
}

function levels() {
  const box = element("details", {}, element("summary", { textContent: "Style by level" }));
  for (let i = 0; i < state.info.levels; i++) {
    const input = element("input", { type: "range", min: 0, max: 1, step: 0.05, value: 1, className: "level" });
    input.addEventListener("input", () => {
      state.values.level_weights = [...document.querySelectorAll(".level")].map((e) => Number(e.value));
      state.changed();
    });
    box.append(element("label", { className: "row" },
      element("span", { textContent: `${state.info.image_size >> i} px` }), input));
  }
  return box;
}

export function build() {
  const edits = state.info.text_edits;
  const rows = SLIDERS.filter((s) => s[0] !== "text_amount" || edits.length).map(slider);
  if (edits.length) rows.splice(-1, 0, menu("text_edit", "Text edit", [["", "none"], ...edits.map((e) => [e, e])]));
  $("sliders").replaceChildren(...rows);
  $("more-sliders").replaceChildren(...FINE.map(slider),
    menu("blend", "Two styles blend", [["", "in one network"], ["noise", "as noise (slower)"]]),
    levels());
}

const known = {};
// Show what the first style was trained with, where nothing else is set.
export async function trained(style) {
  known[style] ??= (await (await ask(`/v1/styles/${encodeURIComponent(style)}`)).json()).settings;
  if (state.chosen[0] !== style) return;
  for (const row of document.querySelectorAll(".slider")) row.rest?.(known[style]);
}

export function mix() {
  const fade = Number($("fade").value) / 100;
  const weights = state.chosen.length === 2 ? [Math.max(1 - fade, 0.001), Math.max(fade, 0.001)] : [1];
  const styles = state.chosen.map((style, i) =>
    ({ style, weight: weights[i], ...(state.painted ? { mask: "painted" } : {}) }));
  return { styles, ...state.values };
}

export function start() {
  $("reset").addEventListener("click", () => {
    state.values = {};
    $("fade").value = 50;
    build();
    if (state.chosen.length) trained(state.chosen[0]);
    state.changed();
  });
}
