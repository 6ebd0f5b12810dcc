// What the page shows and sends, and the events that tell its modules of changes.

// info: answer of /v1/info. photo: the current Photo or null. styles: the chosen styles, each
// {style, weight}. values: fields of the mix that are set. options: of the photo's square and the
// output, by their names in /v1/stylize. painted: whether a mask is painted. result: the newest
// {blob, answer, settings}, or null.
export const state = { info: null, photo: null, styles: [], values: {}, options: newOptions(),
  painted: false, result: null };

export function newOptions() {
  return { fit: "crop", crop: null, detail: false };
}

export const MOST_STYLES = 4;

// Fits that stylize the whole photo, and the one that the page uses: some bases take any shape, for
// others the photo is padded to a square.
export const WHOLE_FITS = ["pad", "resize", "whole"];
export const wholeFit = () => (state.info?.any_shape ? "whole" : "pad");

const bus = new EventTarget();

// Events: `photo` (another photo), `several` (files of several photos are chosen), `square` (another part of it, or its faces are found), `styles`
// (other styles or weights), `mix` (anything that a result depends on), `result`, `restored` (all
// settings were replaced), `info`.
export function on(names, act) {
  for (const name of names.split(" ")) bus.addEventListener(name, (e) => act(e.detail));
}

export function emit(name, detail) {
  bus.dispatchEvent(new CustomEvent(name, { detail }));
}

// Style ids and weights that sum to 1, rounded to whole per cent.
export function shares() {
  const total = state.styles.reduce((sum, s) => sum + s.weight, 0);
  return state.styles.map((s) => ({ style: s.style, share: total ? s.weight / total : 0 }));
}

// The mix of the current settings, as /v1/stylize takes it.
export function mix() {
  const several = state.styles.length > 1;
  const used = state.styles.filter((s) => !several || s.weight > 0);
  const styles = (used.length ? used : state.styles).map(({ style, weight }) => ({
    style, weight: several ? Math.max(weight, 0.001) : 1,
    ...(state.painted ? { mask: "painted" } : {}),
  }));
  return { styles, ...state.values };
}

// Everything but photo and mask, as plain data that `restore` takes.
export function settings() {
  return structuredClone({ styles: state.styles, values: state.values, options: state.options });
}

export function restore(saved) {
  Object.assign(state, structuredClone({ styles: saved.styles.slice(0, MOST_STYLES),
    values: saved.values, options: { ...newOptions(), ...saved.options } }));
  if (WHOLE_FITS.includes(state.options.fit)) state.options.fit = wholeFit();
  emit("restored");
  emit("styles");
  emit("square");
  emit("mix");
}

// The options that differ from the server's defaults, by their names in /v1/stylize.
export function changedOptions({ fit, crop, detail } = state.options) {
  const found = {};
  if (fit !== newOptions().fit) found.fit = fit;
  if (crop) found.crop = [crop.x, crop.y, crop.side].join();
  if (detail) found.detail = true;
  return found;
}

// The part of the photo that is stylized, in the photo's pixels; null with fit `align`.
export function part() {
  if (state.options.fit === "whole")
    return { x: 0, y: 0, width: state.photo.width, height: state.photo.height };
  const at = square();
  return at && { x: at.x, y: at.y, width: at.side, height: at.side };
}

// The square of the photo that is stylized, in the photo's pixels; null with fit `align`.
export function square({ photo, options } = state) {
  const { width, height } = photo;
  if (options.fit === "align") return null;
  const side = options.fit === "pad" ? Math.max(width, height) : Math.min(width, height);
  const central = { x: Math.floor((width - side) / 2), y: Math.floor((height - side) / 2), side };
  return (options.fit === "crop" && options.crop) || central;
}
