// One control of the mix: a slider, a slider with stops, a choice, a text, or a slider for each level.
import { element } from "./dom.js";
import { emit, state } from "./state.js";

// Fields of which the mix takes one only.
const OTHERS = { level_weights: "content_cutoff", content_cutoff: "level_weights" };

const asText = (value, unit) => (Array.isArray(value) ? value.join(", ")
  : value === null ? "none" : typeof value === "number" ? `${+value.toFixed(3)}${unit ? " " + unit : ""}`
    : String(value).replaceAll("_", " "));

// The control's element. Its method `show(trained)` shows the value of the mix, or what the first
// style was trained with.
export function control(description) {
  const { name, label, help, unit, kind } = description;
  const id = "mix-" + name;
  const shown = element("output", {});
  const reset = element("button", { type: "button", className: "reset", textContent: "↺",
    title: "Reset (Delete)", aria: { label: `Reset ${label}` } });
  const note = element("p", { className: "help", id: id + "-help" }, ...withCode(help));
  const inputs = { slider, stops, choice, text, levels }[kind](description, id);
  const heading = kind === "levels" ? element("span", { id, textContent: label })
    : element("label", { htmlFor: id, textContent: label });
  const row = element("div", { className: "control", title: description.description },
    element("div", { className: "name" }, heading, shown, reset), inputs.element, note);
  inputs.element.setAttribute("aria-describedby", note.id);

  row.show = (trained) => {
    const set = name in state.values;
    const value = set ? state.values[name] : trained[name] ?? description.default;
    row.classList.toggle("set", set);
    reset.hidden = !set;
    const known = value !== null && value !== undefined;
    if (known || ["choice", "text"].includes(kind)) inputs.show(value ?? null);
    const words = known && ["slider", "stops"].includes(kind) ? asText(value, unit) : "";
    const trainedToo = !set && description.default === null
      && ["slider", "stops", "levels"].includes(kind);
    shown.textContent = [words, trainedToo && "as trained"].filter(Boolean).join(" · ");
  };
  inputs.element.addEventListener("input", () => {
    const value = inputs.value();
    if (value === null) delete state.values[name];
    else state.values[name] = value;
    delete state.values[OTHERS[name]];
    emit("mix");
  });
  const restore = () => {
    if (!(name in state.values)) return;
    delete state.values[name];
    emit("mix");
  };
  reset.addEventListener("click", () => {
    restore();
    (inputs.element.matches("input, select") ? inputs.element
      : inputs.element.querySelector("input")).focus();
  });
  row.addEventListener("dblclick", restore);
  row.addEventListener("keydown", (e) => {
    if (kind === "text" || !["Delete", "Backspace"].includes(e.key)) return;
    e.preventDefault();
    restore();
  });
  return row;
}

// Text with words between backticks as code.
function withCode(text) {
  return text.split("`").map((part, i) => (i % 2 ? element("code", { textContent: part }) : part));
}

function slider({ low, high, step }, id) {
  const input = element("input", { type: "range", id, min: low, max: high, step });
  return { element: input, value: () => Number(input.value),
    show: (value) => { input.value = value; } };
}

// A value that is not among the stops is shown between them.
function stops({ values, unit }, id) {
  const input = element("input", { type: "range", id, min: 0, max: values.length - 1, step: "any" });
  const nearest = () => values[Math.round(Number(input.value))];
  input.addEventListener("input", () => { input.value = Math.round(Number(input.value)); });
  input.addEventListener("keydown", (e) => {
    const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[e.key];
    if (!by) return;
    e.preventDefault();
    const at = Number(input.value);
    input.value = by > 0 ? Math.floor(at + 1) : Math.ceil(at - 1);
    input.dispatchEvent(new Event("input", { bubbles: true }));
  });
  return { element: input, value: nearest, show: (value) => {
    const above = values.findIndex((v) => v >= value);
    const index = above < 0 ? values.length - 1 : above;
    input.value = values[index] === value || index === 0 ? index : index - 0.5;
    input.setAttribute("aria-valuetext", asText(value, unit));
  } };
}

function choice({ values, default: standard }, id) {
  const none = standard === null && !values.includes(null) ? [["", "as trained"]] : [];
  const options = [...none, ...values.map((v) => [String(v), asText(v)])];
  const select = element("select", { id }, ...options.map(([v, text]) => new Option(text, v)));
  const read = (text) => (text === "" ? null : values.find((v) => String(v) === text));
  return { element: select, value: () => read(select.value),
    show: (value) => { select.value = none.length && value === null ? "" : String(value); } };
}

function text(description, id) {
  const input = element("input", { type: "text", id });
  return { element: input, value: () => input.value || null,
    show: (value) => { input.value = value ?? ""; } };
}

function levels({ values, unit }, id) {
  const inputs = values.map((size) => element("input",
    { type: "range", min: 0, max: 1, step: 0.05, className: "level",
      aria: { label: `${size} ${unit}` } }));
  const outputs = values.map(() => element("output", {}));
  const box = element("div", { role: "group", aria: { labelledby: id } },
    ...values.map((size, i) => element("div", { className: "row" },
      element("span", { textContent: `${size} ${unit}` }), inputs[i], outputs[i])));
  return { element: box, value: () => inputs.map((input) => Number(input.value)),
    show: (weights) => weights.forEach((weight, i) => {
      inputs[i].value = weight;
      outputs[i].textContent = asText(weight);
    }) };
}
