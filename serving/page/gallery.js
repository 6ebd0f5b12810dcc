// The style gallery: search, and the choice of up to four styles.
import { $, element, setStatus, showError, stem } from "./dom.js";
import { json, url } from "./server.js";
import { emit, MOST_STYLES, on, state } from "./state.js";

const PAGE = 60;
let next = 0;
let latest = 0;

// Show the first page of a search, or append the next page.
export async function list(first) {
  const id = ++latest;
  const offset = first ? 0 : next;
  const query = new URLSearchParams({ limit: PAGE, offset, q: $("search").value });
  const page = await json(`v1/styles?${query}`);
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

// A card shows an example photo in the style; its corner, the style image.
function card(style) {
  const info = [style.reference, ...style.tags, style.licence].filter(Boolean).join(" · ");
  const picture = (className, more) => element("img",
    { className, src: url(style.preview + more), alt: "", loading: "lazy" });
  const button = element("button", {
    type: "button", className: "card", disabled: !style.usable, title: style.problem || info,
    data: { style: style.id },
  }, picture("example", "&kind=stylized"), picture("corner", ""),
  element("span", { textContent: style.id }));
  button.addEventListener("click", () => choose(style.id));
  return button;
}

// Show a style that was made from a picture, before the registered ones.
export function addMade(id, file) {
  if (document.querySelector(`.card[data-style="${id}"]`)) return;
  const src = URL.createObjectURL(file);
  const button = element("button", { type: "button", className: "card", title: file.name,
    data: { style: id } },
  element("img", { className: "example", src, alt: "" }),
  element("span", { textContent: stem(file.name) }));
  button.addEventListener("click", () => choose(id));
  $("styles").prepend(button);
}

// Add a style, or take it out.
export function choose(id) {
  const found = state.styles.findIndex((s) => s.style === id);
  if (found >= 0) state.styles.splice(found, 1);
  else if (state.styles.length >= most()) {
    setStatus(`A mix has at most ${most()} styles; take one out first.`, true);
    return;
  } else state.styles.push({ style: id, weight: 1 });
  emit("styles");
  emit("mix");
}

const most = () => Math.min(MOST_STYLES, state.info.limits.styles);

function mark() {
  const several = state.styles.length > 1;
  for (const card of document.querySelectorAll(".card")) {
    const index = state.styles.findIndex((s) => s.style === card.dataset.style);
    card.setAttribute("aria-pressed", String(index >= 0));
    if (index >= 0 && several) card.dataset.place = index + 1; else delete card.dataset.place;
  }
}

// A newcomer who has chosen a photo sees a result at once.
function chooseFirst() {
  const first = document.querySelector(".card:not(:disabled)");
  if (!state.styles.length && first) choose(first.dataset.style);
}

let typing = 0;
export function start() {
  $("more").addEventListener("click", () => list(false).catch(showError));
  $("search").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => list(true).catch(showError), 200);
  });
  on("styles", mark);
  on("photo", chooseFirst);
}
