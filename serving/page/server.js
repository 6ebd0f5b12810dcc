// Requests to the server.
import { $ } from "./dom.js";

// The page may lie below any path: addresses are relative to the folder above this module's.
const ROOT = new URL("..", import.meta.url);
export const url = (path) => new URL(path.replace(/^\//, ""), ROOT).href;

export async function request(path, options = {}) {
  const key = $("key").value.trim();
  const headers = { ...options.headers, ...(key ? { Authorization: "Bearer " + key } : {}) };
  let answer;
  try {
    answer = await fetch(url(path), { ...options, headers });
  } catch (e) {
    throw e.name === "AbortError" ? e : new Error("The server cannot be reached.");
  }
  if (answer.ok) return answer;
  const error = await answer.json().then((body) => body.error, () => null);
  if (answer.status === 401) $("access").open = true;
  throw failure(error ?? { status: answer.status, message: answer.statusText });
}

export const json = async (path, options) => (await request(path, options)).json();

export function post(path, body, options = {}) {
  const headers = { "Content-Type": "application/json", ...options.headers };
  return request(path, { ...options, method: "POST", body: JSON.stringify(body), headers });
}

export function sendForm(path, fields) {
  const form = new FormData();
  for (const [name, value, file] of fields) form.append(name, value, ...(file ? [file] : []));
  return json(path, { method: "POST", body: form });
}

// Stylize, calling `progress` with each status; the answer is the JSON answer of /v1/stylize.
// Aborting the signal cancels the work on the server.
export async function stylize(body, signal, progress) {
  const answer = await post("v1/stylize", body,
    { signal, headers: { Accept: "text/event-stream" } });
  for await (const { name, data } of events(answer.body)) {
    if (name === "progress") progress(data);
    else if (name === "error") throw failure(data.error);
    else return data;
  }
  throw new Error("The connection ended before the answer came.");
}

export function toBlob(base64, type) {
  return new Blob([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], { type });
}

function failure({ status, message, allowed, retry_after: retryAfter }) {
  const limit = allowed ? ` (allowed: ${[].concat(allowed).join(", ")})` : "";
  return Object.assign(new Error(message + limit), { status, retryAfter: retryAfter ?? 0 });
}

// Server-sent events of a stream, as {name, data}.
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: (.*)/s)));
      if (fields.data) yield { name: fields.event, data: JSON.parse(fields.data) };
    }
  }
}
