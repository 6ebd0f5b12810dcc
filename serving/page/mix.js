// The panel of the mix: the chosen styles with their weights, and a control for each field.
import { control } from "./controls.js";
import { $, element, showError } from "./dom.js";
import { choose } from "./gallery.js";
import { json, url } from "./server.js";
import { emit, on, shares, state } from "./state.js";

const trained = {}; // by style: what a mix takes from it where it sets nothing

function build() {
  const rows = state.info.controls.map((c) => [c.expert, control(c)]);
  $("controls").replaceChildren(...rows.filter(([expert]) => !expert).map(([, row]) => row));
  $("expert-controls").replaceChildren(...rows.filter(([expert]) => expert).map(([, row]) => row));
}

function showValues() {
  const first = trained[state.styles[0]?.style] ?? {};
  const values = { ...first, ...implied() };
  for (const row of document.querySelectorAll(".control")) row.show(values);
  $("reset").disabled = !Object.keys(state.values).length;
}

// The levels that a set cutoff stands for.
function implied() {
  const { content_cutoff: cutoff } = state.values;
  const levels = state.info?.controls.find((c) => c.name === "level_weights");
  if (cutoff === undefined || !levels) return {};
  return { level_weights: levels.values.map((size) => (size >= cutoff ? 1 : 0)) };
}

async function loadTrained() {
  const style = state.styles[0]?.style;
  if (!style || trained[style]) return;
  try {
    trained[style] = (await json(`v1/styles/${encodeURIComponent(style)}`)).mix;
  } catch (e) { showError(e); }
  showValues();
}

// The chosen styles; several have weights.
function showStyles() {
  const several = state.styles.length > 1;
  $("chosen").hidden = !several;
  $("chosen").replaceChildren(...(several ? state.styles.map(share) : []));
  showShares();
}

function share(chosen) {
  const { style, weight } = chosen;
  const image = element("img", { alt: "",
    src: url(`v1/styles/${encodeURIComponent(style)}/preview?kind=stylized`) });
  const input = element("input", { type: "range", min: 0, max: 1, step: 0.01, value: weight,
    id: `weight-${style}`, className: "weight" });
  input.addEventListener("input", () => {
    chosen.weight = Number(input.value);
    showShares();
    emit("mix");
  });
  const away = element("button", { type: "button", className: "reset", textContent: "×",
    title: "Take out", aria: { label: `Take out ${style}` } });
  away.addEventListener("click", () => choose(style));
  return element("div", { className: "share" }, image,
    element("label", { htmlFor: input.id, textContent: style }), element("output", {}), away, input);
}

function showShares() {
  const outputs = [...document.querySelectorAll("#chosen output")];
  shares().forEach(({ share: part }, i) => {
    if (outputs[i]) outputs[i].textContent = `${Math.round(part * 100)} %`;
  });
}

export function start() {
  on("info", () => { build(); showValues(); });
  on("styles", () => { showStyles(); loadTrained(); });
  on("mix", showValues);
  $("reset").addEventListener("click", () => {
    state.values = {};
    emit("mix");
  });
}
