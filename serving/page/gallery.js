// The style gallery: search, and the choice of one or two styles.
import { $, element, request, showError, state } from "./core.js";
import { showTrained } from "./mix.js";

const PAGE = 60;
let next = 0;
let latest = 0;

// Show the first page of a search, or append the next page.
export async function list(first) {
  const id = ++latest;
  const offset = first ? 0 : next;
  const query = new URLSearchParams({ limit: PAGE, offset, q: $("search").value });
  const page = await (await request(`/v1/styles?${query}`)).json();
  if (id !== latest) return; // a newer search has started
  if (first) $("styles").replaceChildren();
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
  const info = [style.reference, ...style.tags, style.licence].filter(Boolean).join(" · ");
  const button = element("button", {
    type: "button", className: "card", disabled: !style.usable, title: style.problem || info,
  }, element("img", { src: style.preview, alt: "", loading: "lazy" }),
  element("span", { textContent: style.id }));
  button.dataset.style = style.id;
  button.addEventListener("click", () => choose(style.id));
  return button;
}

function choose(id) {
  const index = state.chosen.indexOf(id);
  if (index >= 0) state.chosen.splice(index, 1);
  else state.chosen = [...state.chosen, id].slice(-2);
  mark();
  if (state.chosen.length) showTrained(state.chosen[0]).catch(showError);
  state.update();
}

// Mark the chosen cards; show the cross-fader for two.
function mark() {
  const two = state.chosen.length === 2;
  for (const b of document.querySelectorAll(".card")) {
    const index = state.chosen.indexOf(b.dataset.style);
    b.setAttribute("aria-pressed", String(index >= 0));
    if (index >= 0 && two) b.dataset.place = "AB"[index]; else delete b.dataset.place;
  }
  $("fade-row").hidden = !two;
  if (two) [$("fade-a").textContent, $("fade-b").textContent] = state.chosen;
}

let typing = 0;
export function start() {
  $("more").addEventListener("click", () => list(false).catch(showError));
  $("fade").addEventListener("input", () => state.update());
  $("search").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => list(true).catch(showError), 200);
  });
}
