// Shows the current request as a curl command and as Python code.
import { $, setStatus, stem } from "./dom.js";
import { url } from "./server.js";
import { changedOptions, mix, on, state } from "./state.js";

let language = "curl";

const shellQuote = (text) => "'" + text.replaceAll("'", "'\\''") + "'";
const address = () => url("").replace(/\/$/, "");
const photoName = () => state.photo?.name ?? "photo.jpg";
const maskName = () => `${stem(photoName())}-mask.png`;

function curl() {
  const file = (name) => shellQuote(`@"${name.replace(/[\\"]/g, "\\$&")}"`);
  const parts = [...($("key").value ? ['-H "Authorization: Bearer $KEY"'] : []),
    `-F image=${file(photoName())}`,
    ...(state.painted ? [`-F mask.painted=${file(maskName())}`] : []),
    ...Object.entries(changedOptions()).map(([name, value]) => `-F ${name}=${value}`),
    `-F mix=${shellQuote(JSON.stringify(mix(), null, 1))}`, "-o out.png"];
  return [`curl ${address()}/v1/stylize`, ...parts].join(" \\\n  ");
}

function python() {
  const key = $("key").value ? ', key="..."' : "";
  const values = { fit: JSON.stringify, crop: (box) => `(${box.replaceAll(",", ", ")})`,
    detail: () => "True" };
  const more = Object.entries(changedOptions())
    .map(([name, value]) => `, ${name}=${values[name](value)}`);
  if (state.painted) more.unshift(`, masks={"painted": ${JSON.stringify(maskName())}}`);
  return "from serving.client import Client\n\n"
    + `client = Client("${address()}"${key})\n`
    + `photo = client.encode(${JSON.stringify(photoName())})  # once; later requests send its id\n`
    + `mix = ${pythonValue(mix())}\n`
    + `client.stylize(photo, mix${more.join("")}).save("out.png")`;
}

const pythonValue = (value) => JSON.stringify(value, null, 4)
  .replace(/\btrue\b/g, "True").replace(/\bfalse\b/g, "False").replace(/\bnull\b/g, "None");

function show() {
  $("code").textContent = language === "curl" ? curl() : python();
  $("mask-note").hidden = !state.painted;
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
  $("key").addEventListener("input", show);
  on("info mix photo", show);
}
