// Renders the API's documentation from /openapi.json.
import { $, element } from "./dom.js";

function typeName(schema = {}) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(typeName).filter((k) => k !== "null").join(" or ");
  if (schema.enum) return schema.enum.map((v) => JSON.stringify(v)).join(" | ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.type === "array") return `list of ${typeName(schema.items)}`;
  return schema.format || schema.type || "any";
}

function rangeText(schema = {}) {
  const inner = schema.anyOf?.find((s) => s.type !== "null") ?? schema;
  const { minimum: low, maximum: high, exclusiveMinimum: above } = inner;
  if (low === undefined && high === undefined && above === undefined) return "";
  return ` ${above === undefined ? `[${low ?? ""}` : `(${above}`}, ${high ?? ""}]`;
}

function fieldTable(rows) {
  if (!rows.length) return "";
  return element("table", {}, ...rows.map(([name, schema, note, required]) => element("tr", {},
    element("td", {}, code(name), required ? " *" : ""),
    quiet("td", typeName(schema) + rangeText(schema)),
    element("td", { textContent: note || schema.description || "" }))));
}

const properties = (schema = {}) => Object.entries(schema.properties ?? {})
  .map(([name, s]) => [name, s, s.description, schema.required?.includes(name)]);

const quiet = (name, textContent) => element(name, { className: "quiet", textContent });
const code = (textContent) => element("code", { textContent });

function operation(method, path, op) {
  const box = element("details", {}, element("summary", {},
    element("code", { className: "method", textContent: method.toUpperCase() }), " ",
    code(path), " ", quiet("span", (op.description || "").split(/(?<=\.)\s/)[0])));
  if (op.description) box.append(element("p", { textContent: op.description }));
  box.append(fieldTable((op.parameters ?? [])
    .map((p) => [p.name, p.schema, p.description, p.required])));
  for (const [media, { schema, example }] of Object.entries(op.requestBody?.content ?? {})) {
    box.append(element("h3", { textContent: media }), fieldTable(properties(schema)));
    if (schema.description) box.append(quiet("p", schema.description));
    if (example) box.append(element("pre", { textContent: JSON.stringify(example, null, 2) }));
  }
  const types = (response) => Object.keys(response.content ?? {}).join(", ") || "-";
  const rows = Object.entries(op.responses ?? {})
    .map(([status, r]) => [status, { type: types(r) }, r.description]);
  box.append(element("h3", { textContent: "Answers" }), fieldTable(rows));
  return box;
}

try {
  const api = await (await fetch(new URL("../openapi.json", import.meta.url))).json();
  const all = element("section", {},
    element("h2", { textContent: `Endpoints, version ${api.info.version}` }));
  for (const [path, methods] of Object.entries(api.paths))
    for (const [method, op] of Object.entries(methods)) all.append(operation(method, path, op));
  const types = element("section", {}, element("h2", { textContent: "Types" }));
  for (const [name, schema] of Object.entries(api.components.schemas))
    types.append(element("details", {}, element("summary", {}, code(name)),
      element("p", { textContent: schema.description ?? "" }), fieldTable(properties(schema))));
  $("operations").append(all, types);
  $("status").textContent = "* required. For programs: /openapi.json";
} catch (e) {
  $("status").textContent = `The API cannot be read: ${e.message}`;
}
