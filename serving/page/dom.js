// Elements of the page, and the status line.
export const $ = (id) => document.getElementById(id);

export function element(name, properties = {}, ...children) {
  const { data = {}, aria = {}, ...own } = properties;
  const made = Object.assign(document.createElement(name), own);
  Object.assign(made.dataset, data);
  for (const [key, value] of Object.entries(aria)) made.setAttribute(`aria-${key}`, value);
  made.append(...children);
  return made;
}

export function setStatus(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

// A message that stays until the next one; without parts it goes.
export function setNotice(...parts) {
  $("notice").replaceChildren(...parts);
  $("notice").hidden = !parts.length;
}

// Show an error; an aborted request is none.
export function showError(e) {
  if (e.name !== "AbortError") setStatus(e.message, true);
}

// Show a blob in an image and free the blob that it showed before.
export function showBlob(image, blob) {
  const old = image.src;
  image.src = URL.createObjectURL(blob);
  if (old.startsWith("blob:")) image.decode().catch(() => {}).then(() => URL.revokeObjectURL(old));
}

export function saveAs(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// `localStorage` or `sessionStorage`; null where the browser keeps nothing.
export function storage(kind) {
  try { return window[kind]; } catch { return null; }
}

// A file's name without its folder and extension.
export const stem = (name) => name.replace(/^.*[/\\]/, "").replace(/\.[^.]*$/, "");

export const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
