// Starts the page.
import * as crop from "./crop.js";
import { $, showError, storage } from "./dom.js";
import * as downloads from "./downloads.js";
import * as gallery from "./gallery.js";
import * as history from "./history.js";
import * as jobs from "./jobs.js";
import * as mask from "./mask.js";
import * as mix from "./mix.js";
import * as newstyle from "./newstyle.js";
import * as photo from "./photo.js";
import * as program from "./program.js";
import * as saved from "./saved.js";
import { json } from "./server.js";
import { emit, state } from "./state.js";
import * as viewer from "./viewer.js";
import * as work from "./work.js";

const KEY = "style-factory-key"; // of the session's storage: gone when the tab is closed

const reopen = () => saved.open(photo.show, photo.showSample).catch(showError);

async function load() {
  try {
    state.info = await json("v1/info");
    storage("sessionStorage")?.setItem(KEY, $("key").value);
    emit("info");
    await gallery.list(true);
    await reopen();
    emit("mix");
  } catch (e) { showError(e); }
}

$("key").value = storage("sessionStorage")?.getItem(KEY) ?? "";
$("key").addEventListener("change", load);
const modules = [viewer, photo, crop, mask, gallery, newstyle, mix, jobs, history, downloads, program, work];
for (const module of modules) module.start();
saved.start(reopen);
load();
