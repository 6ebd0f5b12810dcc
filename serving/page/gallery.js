// The gallery: search, and the one or two styles that are chosen.
import { $, ask, element, report, state } from "./core.js";
import { trained } from "./mix.js";

const PAGE = 60;
let next = 0;
let latest = 0;

export async function list(fresh) {
  const mine = ++latest;
  const q = encodeURIComponent($("search").value);
  const page = await (await ask(`/v1/styles?limit=${PAGE}&offset=${fresh ? 0 : next}&q=${q}`)).json();
  if (mine !== latest) return; // a newer search has begun
  if (fresh) $("styles").replaceChildren();
  $("styles").append(...page.styles.map(card));
  next = page.next_offset ?? 0;
  $("more").hidden = page.next_offset === null;
  $("count").textContent = page.total === 1 ? "1 style" : `${page.total} styles`;
  if (!page.total) {
    const text = $("search").value ? "No style matches." : "No style is registered yet.";
    $("styles").append(element("p", { className: "empty", textContent: text }));
  }
  mark();
}

function card(style) {
  const about = [style.reference, ...style.tags, style.licence].filter(Boolean).join(" · ");
  const button = element("button", {
    type: "button", className: "card", disabled: !style.usable, title: style.problem || about,
  }, element("img", { src: style.preview, alt: "", loading: "lazy" }),
  element("span", { textContent: style.id }));
  button.dataset.style = style.id;
  button.addEventListener("click", () => choose(style.id));
  return button;
}

function choose(id) {
  const at = state.chosen.indexOf(id);
  if (at >= 0) state.chosen.splice(at, 1);
  else state.chosen = [...state.chosen, id].slice(-2);
  mark();
  if (state.chosen.length) trained(state.chosen[0]).catch(report);
  state.changed();
}

export function mark() {
  const two = state.chosen.length === 2;
  for (const b of document.querySelectorAll(".card")) {
    const at = state.chosen.indexOf(b.dataset.style);
    b.setAttribute("aria-pressed", String(at >= 0));
    if (at >= 0 && two) b.dataset.place = "AB"[at]; else delete b.dataset.place;
  }
  $("fade-row").hidden = !two;
  if (two) [$("fade-a").textContent, $("fade-b").textContent] = state.chosen;
}

let typing = 0;
export function start() {
  $("more").addEventListener("click", () => list(false).catch(report));
  $("fade").addEventListener("input", () => state.changed());
  $("search").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => list(true).catch(report), 200);
  });
}
