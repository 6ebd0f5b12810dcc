// The download menu: the result in three formats, the mask, and before and after in one picture.
import { $, saveAs, showError, stem } from "./dom.js";
import { toPng } from "./mask.js";
import { post } from "./server.js";
import { on, state } from "./state.js";
import { body } from "./work.js";

const GAP = 8; // pixels between the two pictures

const name = (ending) => `${stem(state.photo.name)}-${state.styles.map((s) => s.style).join("-")}`
  + ending;

// The result in another format, with its provenance.
async function converted(type) {
  return (await post("v1/stylize", await body(), { headers: { Accept: type } })).blob();
}

async function beforeAndAfter() {
  const photo = $("before"), result = $("after"), canvas = document.createElement("canvas");
  const height = result.naturalHeight;
  const width = Math.round(height * photo.naturalWidth / photo.naturalHeight);
  canvas.width = width + GAP + result.naturalWidth;
  canvas.height = height;
  const context = canvas.getContext("2d");
  context.drawImage(photo, 0, 0, width, height);
  context.drawImage(result, width + GAP, 0);
  return new Promise((resolve) => canvas.toBlob(resolve));
}

const KINDS = {
  "save-png": async () => [state.result.blob, name(".png")],
  "save-jpeg": async () => [await converted("image/jpeg"), name(".jpg")],
  "save-webp": async () => [await converted("image/webp"), name(".webp")],
  "save-mask": async () => [await toPng(), `${stem(state.photo.name)}-mask.png`],
  "save-both": async () => [await beforeAndAfter(), name("-before-after.png")],
};

function close() {
  $("downloads").open = false;
}

export function start() {
  for (const [id, make] of Object.entries(KINDS))
    $(id).addEventListener("click", () => {
      close();
      make().then(([blob, file]) => saveAs(blob, file)).catch(showError);
    });
  $("download").addEventListener("click", () => $("save-png").click());
  $("downloads").addEventListener("keydown", (e) => {
    if (e.key !== "Escape") return;
    close();
    $("downloads").querySelector("summary").focus();
  });
  addEventListener("pointerdown", (e) => { if (!$("downloads").contains(e.target)) close(); });
  on("result", () => {
    $("save-mask").disabled = !state.painted;
    $("save-both").disabled = $("before").hidden;
  });
}
