// What all parts share: elements, the state, the status line, requests to the server.
export const $ = (id) => document.getElementById(id);

// photo: File. encoding: the server's id of it. chosen: style ids, one or two. values: parameters
// of the mix that were moved. changed: set by app.js, called when a new picture is wanted.
export const state = { photo: null, encoding: null, image: null, chosen: [], values: {},
  painted: false, info: null, changed: () => {} };

export function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

export async function ask(path, options = {}) {
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
  } catch { /* no JSON: the status says it */ }
  if (answer.status === 401) $("access").open = true;
  const failure = new Error(text);
  failure.status = answer.status;
  failure.after = Number(answer.headers.get("Retry-After") || 0);
  throw failure;
}

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

export const report = (e) => say(e.message, true);
