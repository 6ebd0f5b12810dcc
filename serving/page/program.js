// Shows the current request as a curl command and as Python code.
import { $, setStatus, state } from "./core.js";
import { mix } from "./mix.js";

let language = "curl";

const shellQuote = (text) => "'" + text.replaceAll("'", "'\\''") + "'";

function curl() {
  const key = $("key").value ? ' -H "Authorization: Bearer $KEY"' : "";
  const mask = state.painted ? " \\\n  -F mask.painted=@mask.png" : "";
  return `curl${key} ${location.origin}/v1/stylize \\\n  -F image=@photo.jpg${mask} \\\n`
    + `  -F mix=${shellQuote(JSON.stringify(mix(), null, 1))} \\\n  -o out.png`;
}

function python() {
  const key = $("key").value ? ', key="..."' : "";
  const masks = state.painted ? ', masks={"painted": "mask.png"}' : "";
  return "from serving.client import Client\n\n"
    + `client = Client("${location.origin}"${key})\n`
    + 'photo = client.encode("photo.jpg")  # once; later requests send only the id\n'
    + `mix = ${JSON.stringify(mix(), null, 4)}\n`
    + `client.stylize(photo, mix${masks}).save("out.png")`;
}

export function show() {
  $("code").textContent = language === "curl" ? curl() : python();
}

function choose(name) {
  language = name;
  for (const n of ["curl", "python"])
    $("as-" + n).setAttribute("aria-selected", String(n === name));
  show();
}

async function copy() {
  try {
    await navigator.clipboard.writeText($("code").textContent);
    setStatus("Copied.");
  } catch {
    getSelection().selectAllChildren($("code"));
    setStatus("Selected; press Ctrl+C to copy.");
  }
}

export function start() {
  $("as-curl").addEventListener("click", () => choose("curl"));
  $("as-python").addEventListener("click", () => choose("python"));
  $("copy").addEventListener("click", copy);
}
