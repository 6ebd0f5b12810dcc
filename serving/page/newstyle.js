// Makes a style from a picture, keeps it, or asks the operator to train it.
import { $, setStatus, showError, stem } from "./dom.js";
import * as gallery from "./gallery.js";
import { sendForm } from "./server.js";
import { on, state } from "./state.js";

let picture = null; // the file of the style that was made last

async function make(file) {
  setStatus(`Making a style from ${file.name}…`);
  const made = await sendForm("v1/styles", [["image", file, file.name]]);
  picture = file;
  gallery.addMade(made.id, file);
  if (!state.styles.some((s) => s.style === made.id)) gallery.choose(made.id);
  $("new-name").value = stem(file.name).toLowerCase().replace(/[^a-z0-9._-]+/g, "-").slice(0, 63);
  $("keep-new").hidden = false;
  setStatus(`Made in ${made.seconds.toFixed(1)} s. It is deleted when it has not been used for a `
    + "while, unless you keep it.");
}

// keep: as in POST /v1/styles.
async function store(keep) {
  const name = $("new-name").value.trim();
  const kept = await sendForm("v1/styles",
    [["image", picture, picture.name], ["name", name], ["keep", keep]]);
  if (keep === "registered") {
    setStatus(`Kept as ${kept.reference}.`);
    $("search").value = "";
    await gallery.list(true);
  } else setStatus(`The picture waits as ${name} for the next training.`);
}

export function start() {
  const choose = (file) => file && make(file).catch(showError);
  $("new-style").addEventListener("click", () => $("new-file").click());
  $("new-file").addEventListener("change", () => {
    choose($("new-file").files[0]);
    $("new-file").value = "";
  });
  for (const keep of ["registered", "training"])
    $(`new-${keep}`).addEventListener("click", () => store(keep).catch(showError));
  const place = document.querySelector(".gallery");
  place.addEventListener("dragover", (e) => { if (state.info?.makes_styles) e.preventDefault(); });
  place.addEventListener("drop", (e) => {
    if (!state.info?.makes_styles) return;
    e.preventDefault();
    e.stopPropagation(); // the page takes other files as photos
    $("drop").classList.remove("over");
    choose(e.dataTransfer.files[0]);
  });
  on("info", () => { $("new-style").hidden = !state.info.makes_styles; });
}
