// Elements, numbers and times as text. Whatever a record says becomes a text node, never markup.

export function h(tag, props, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(node.style, value);
    else node.setAttribute(name === "cls" ? "class" : name, value === true ? "" : value);
  }
  add(node, children);
  return node;
}

function add(node, children) {
  for (const child of children.flat(3)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

export function fill(node, ...children) {
  node.replaceChildren();
  add(node, children);
  return node;
}

// Only what has changed is touched: a screen reader then hears only news, and the mouse keeps its place.
export function text(node, value) {
  const said = String(value);
  if (node.textContent !== said) node.textContent = said;
}

export function count(value, digits = 0) {
  if (value === null || value === undefined) return "–";
  return Number(value).toLocaleString("en-US", { maximumFractionDigits: digits });
}

export function short(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (size >= 1e6) return `${(value / 1e6).toFixed(size >= 1e7 ? 0 : 1)}M`;
  if (size >= 1e4) return `${(value / 1e3).toFixed(size >= 1e5 ? 0 : 1)}k`;
  if (size >= 100 || Number.isInteger(value)) return count(value, 0);
  if (size >= 1) return String(Number(value.toFixed(2)));
  return String(Number(value.toPrecision(3)));
}

export function milliseconds(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 120000) return `${short(value / 60000)} min`;
  return value >= 1000 ? `${short(value / 1000)} s` : `${value < 100 ? Number(value.toPrecision(2)) : Math.round(value)} ms`;
}

export function ago(ms) {
  if (ms < 1000) return "now";
  const s = Math.round(ms / 1000);
  return s < 120 ? `${s} s` : s < 7200 ? `${Math.round(s / 60)} min` : `${Math.round(s / 3600)} h`;
}

export function clock(ms) {
  return new Date(ms).toLocaleTimeString("en-GB");
}

export function when(ms) {
  return ms > 0 ? new Date(ms).toISOString().replace("T", " ").replace(/(\.000)?Z$/, "Z") : "unknown";
}

export function percent(share) {
  const value = share * 100;
  return `${value > 0 && value < 0.1 ? "< 0.1" : Number(value.toFixed(value < 10 ? 1 : 0))} %`;
}

export function table(heads, rows) {
  return h("div", { cls: "scroll" }, h("table", null,
    h("thead", null, h("tr", null, heads.map((name) => cell("th", name)))),
    h("tbody", null, rows.map((row) => h("tr", null, row.map((value) => cell("td", value)))))));
}

// A head or value that begins with # stands to the right; so does a number.
function cell(tag, value) {
  if (value instanceof Node) return h(tag, null, value);
  if (Array.isArray(value)) return h(tag, { cls: value[1] }, value[0]);
  const right = typeof value === "string" && value.startsWith("#");
  return h(tag, { cls: right ? "num" : null, scope: tag === "th" ? "col" : null }, right ? value.slice(1) : value);
}

export function bar(from, to, cls) {
  const left = Math.max(0, Math.min(from, to)), right = Math.min(1, Math.max(from, to));
  return h("div", { cls: "bar", "aria-hidden": "true" }, from === to ? null :
    h("i", { cls, style: { left: `${left * 100}%`, width: `${Math.max(0.6, (right - left) * 100)}%` } }));
}

export function badge(kind, words) {
  return h("span", { cls: `badge ${/^[a-z]+$/.test(kind) ? kind : ""}` }, words ?? kind);
}
