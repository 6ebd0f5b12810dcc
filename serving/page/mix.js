// Sliders for every parameter of the mix.
import { $, element, request, state } from "./core.js";

// name, label, low, high, step, default, setting. A default of null stands for the style's training
// setting of that name.
const SLIDERS = [
  ["strength", "Strength", 0, 2, 0.05, null, "strength"],
  ["palette", "Palette of the style", 0, 1, 0.05, null, "palette"],
  ["structure", "Structure of the photo", 0, 1, 0.02, null, "spn_weight"],
  ["content_cutoff", "Content cutoff", 0, 0, 1, null, "content_cutoff"],
  ["text_amount", "Text amount", -3, 3, 0.1, 1],
];
const ADVANCED = [
  ["t0", "Noise (t0)", 0.1, 0.9, 0.1, null, "t0"],
  ["decode_steps", "Decode steps", 0, 0, 1, null, "stylize_decode_steps"],
  ["encode_steps", "Encode steps", 0, 0, 1, null, "stylize_encode_steps"],
  ["seed", "Seed", 0, 99, 1, 0],
];
const STEPS = [10, 20, 50, 100, 200];

// Values of a slider with discrete positions; null for a continuous slider.
function positions(name) {
  if (name === "content_cutoff") {
    const sizes = [];
    for (let i = 0; i < state.info.levels + 1; i++) sizes.push(state.info.image_size >> i);
    return sizes.filter((s) => s >= 1).reverse();
  }
  if (name.endsWith("_steps")) return STEPS.filter((s) => s <= state.info.limits[name]);
  return null;
}

const unit = (name) => (name === "content_cutoff" ? " px" : "");

function slider([name, label, low, high, step, initial, setting]) {
  const values = positions(name);
  if (values) [low, high] = [0, values.length - 1];
  const shown = element("output", { textContent: initial ?? "as trained" });
  const input = element("input", { type: "range", min: low, max: high, step, id: "mix-" + name });
  input.value = initial ?? (low + high) / 2;
  const row = element("label", { className: "slider", title: "Double-click: reset" },
    element("span", { textContent: label }), shown, input);
  input.addEventListener("input", () => {
    const raw = Number(input.value);
    state.values[name] = values ? values[raw] : raw;
    shown.textContent = state.values[name] + unit(name);
    row.classList.add("set");
    state.update();
  });
  row.addEventListener("dblclick", () => {
    if (!(name in state.values)) return;
    delete state.values[name];
    row.classList.remove("set");
    if (initial !== null) { input.value = initial; shown.textContent = String(initial); }
    else row.showTrained();
    state.update();
  });
  // Show the style's training setting if the slider is not moved.
  row.showTrained = (settings = row.settings ?? {}) => {
    row.settings = settings;
    if (name in state.values || initial !== null) return;
    const value = Number(settings[setting]);
    const known = setting in settings && Number.isFinite(value);
    shown.textContent = known ? `${value}${unit(name)} (as trained)` : "as trained";
    const position = values ? values.indexOf(value) : value;
    if (known && position >= 0) input.value = position;
  };
  return row;
}

function menu(name, label, options) {
  const select = element("select", { id: "mix-" + name },
    ...options.map(([value, text]) => new Option(text, value)));
  select.addEventListener("change", () => {
    if (select.value) state.values[name] = select.value; else delete state.values[name];
    state.update();
  });
  return element("label", { className: "slider" }, element("span", { textContent: label }), select);
}

function levels() {
  const box = element("details", {}, element("summary", { textContent: "Style by level" }));
  for (let i = 0; i < state.info.levels; i++) {
    const input = element("input",
      { type: "range", min: 0, max: 1, step: 0.05, value: 1, className: "level" });
    input.addEventListener("input", () => {
      const inputs = [...document.querySelectorAll(".level")];
      state.values.level_weights = inputs.map((e) => Number(e.value));
      state.update();
    });
    box.append(element("label", { className: "row" },
      element("span", { textContent: `${state.info.image_size >> i} px` }), input));
  }
  return box;
}

export function build() {
  const edits = state.info.text_edits;
  const rows = SLIDERS.filter((s) => s[0] !== "text_amount" || edits.length).map(slider);
  const options = [["", "none"], ...edits.map((e) => [e, e])];
  if (edits.length) rows.splice(-1, 0, menu("text_edit", "Text edit", options));
  $("sliders").replaceChildren(...rows);
  $("more-sliders").replaceChildren(...ADVANCED.map(slider),
    menu("blend", "Two styles blend", [["", "in one network"], ["noise", "as noise (slower)"]]),
    levels());
}

const trainedSettings = {};
// Show the training settings of the first style on all sliders that are not moved.
export async function showTrained(style) {
  const path = `/v1/styles/${encodeURIComponent(style)}`;
  trainedSettings[style] ??= (await (await request(path)).json()).settings;
  if (state.chosen[0] !== style) return;
  for (const row of document.querySelectorAll(".slider")) row.showTrained?.(trainedSettings[style]);
}

export function mix() {
  const fade = Number($("fade").value) / 100;
  const two = state.chosen.length === 2;
  const weights = two ? [1 - fade, fade].map((w) => Math.max(w, 0.001)) : [1];
  const styles = state.chosen.map((style, i) =>
    ({ style, weight: weights[i], ...(state.painted ? { mask: "painted" } : {}) }));
  return { styles, ...state.values };
}

export function start() {
  $("reset").addEventListener("click", () => {
    state.values = {};
    $("fade").value = 50;
    build();
    if (state.chosen.length) showTrained(state.chosen[0]);
    state.update();
  });
}
