// Shared by all modules: elements, the state, the status line, requests to the server.
export const $ = (id) => document.getElementById(id);

// photo: File. encoding: the photo's id on the server. chosen: one or two style ids. values: mix
// parameters that differ from the defaults. painted: whether a mask is painted. info: /v1/info.
// update: requests a new image; set by app.js.
export const state = { photo: null, encoding: null, chosen: [], values: {}, painted: false,
  info: null, update: () => {} };

export function setStatus(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

export async function request(path, options = {}) {
  const key = $("key").value.trim();
  const headers = { ...options.headers, ...(key ? { Authorization: "Bearer " + key } : {}) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("The server cannot be reached.");
  }
  if (answer.ok) return answer;
  let text = answer.statusText;
  try {
    const { error } = await answer.json();
    text = error.message + (error.allowed ? ` (allowed: ${error.allowed})` : "");
  } catch { /* not JSON: show the status text */ }
  if (answer.status === 401) $("access").open = true;
  const failure = new Error(text);
  failure.status = answer.status;
  failure.retryAfter = Number(answer.headers.get("Retry-After") || 0);
  throw failure;
}

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

export const showError = (e) => setStatus(e.message, true);
