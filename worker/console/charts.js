// Lines and dots over time, as SVG made by hand; colours are the page's own.
import { clock, h } from "./dom.js";

const NS = "http://www.w3.org/2000/svg";
const LEFT = 46, RIGHT = 8, TOP = 8, BOTTOM = 20;
const hovered = new Map(); // by chart, where the mouse stands: charts are drawn anew each second

function s(tag, props, ...children) {
  const node = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "fill" || name === "stroke") node.style[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function niceTop(value) {
  if (!(value > 0)) return 1;
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((m) => m * unit).find((top) => top >= value * 0.999);
}

function range(series, marks, fromZero) {
  let low = Infinity, high = -Infinity;
  for (const each of series) for (const [, v] of each.points) if (v !== null && v !== undefined) {
    low = Math.min(low, v); high = Math.max(high, v);
  }
  for (const mark of marks) { low = Math.min(low, mark.value); high = Math.max(high, mark.value); }
  if (low > high) return [0, 1];
  if (fromZero && low >= 0) return [0, niceTop(high)];
  const room = (high - low) * 0.08 || Math.abs(high) * 0.1 || 1;
  return [low >= 0 && low - room < 0 ? 0 : low - room, high + room];
}

// series: [{name, color, points: [[ms, value or null], ...], dots, area}]; marks: [{value, name, color}]
export function chart({ key, title, series, format = String, marks = [], span, height = 150, fromZero = true, events = [], small = false, full = false }) {
  // Drawn as wide as it will be shown, or its letters would shrink with it.
  const WIDE = small ? 320 : Math.min(full ? 1200 : 560, Math.max(300, innerWidth - 70));
  const times = series.flatMap((each) => each.points.map((p) => p[0]));
  const end = span ? span[1] : Math.max(...times), begin = span ? span[0] : Math.min(...times);
  const [low, high] = range(series, marks, fromZero);
  const x = (t) => LEFT + ((t - begin) / (end - begin || 1)) * (WIDE - LEFT - RIGHT);
  const y = (v) => TOP + (1 - (v - low) / (high - low || 1)) * (height - TOP - BOTTOM);
  const root = s("svg", { viewBox: `0 0 ${WIDE} ${height}`, class: "chart", role: "img", "aria-label": title });
  for (const share of [0, 0.5, 1]) {
    const value = low + share * (high - low);
    root.append(s("line", { class: "gridline", x1: LEFT, x2: WIDE - RIGHT, y1: y(value), y2: y(value) }),
      label(LEFT - 6, y(value) + 4, format(value), "end"));
  }
  if (times.length) {
    const old = end - begin > 86400000 * 2;
    for (const [share, anchor] of [[0, "start"], [0.5, "middle"], [1, "end"]]) {
      const at = begin + share * (end - begin);
      root.append(label(x(at), height - 4, old ? new Date(at).toISOString().slice(0, 10) : clock(at), anchor));
    }
  }
  for (const mark of marks) {
    root.append(s("line", { x1: LEFT, x2: WIDE - RIGHT, y1: y(mark.value), y2: y(mark.value), stroke: mark.color, "stroke-dasharray": "4 4" }),
      label(WIDE - RIGHT, y(mark.value) - 3, mark.name, "end"));
  }
  for (const each of series) draw(root, each, x, y, low);
  for (const event of events) root.append(s("circle", { cx: x(event.at), cy: y(event.value), r: 4.5, fill: event.color, stroke: "var(--card)", "stroke-width": 1.5 },
    s("title", {}, event.name)));
  const legend = h("div", { cls: "legend" });
  const box = h("div", null, root, legend);
  hover(key, root, legend, series, { x, begin, end, format, height, WIDE });
  return box;
}

function label(x, y, words, anchor) {
  return s("text", { x, y, "text-anchor": anchor }, words);
}

function draw(root, { color, points, dots, area, steps }, x, y, low) {
  let path = "", open = false, first = 0, last = 0;
  const pieces = [];
  points.forEach(([t, v], at) => {
    const gap = v === null || v === undefined || (!dots && at && t - points[at - 1][0] > 10000 && !steps);
    if (gap) { open = false; if (v === null || v === undefined) return; }
    if (!open) { pieces.push([]); first = t; }
    pieces.at(-1).push([x(t), y(v)]);
    open = true; last = t;
  });
  for (const piece of pieces) {
    path += piece.map(([px, py], at) => `${at ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");
    if (area) {
      const floor = y(low).toFixed(1);
      const outline = piece.map(([px, py]) => `L${px.toFixed(1)} ${py.toFixed(1)}`).join("");
      root.append(s("path", { d: `M${piece[0][0].toFixed(1)} ${floor}${outline}L${piece.at(-1)[0].toFixed(1)} ${floor}Z`, fill: color, opacity: 0.13 }));
    }
  }
  if (path) root.append(s("path", { d: path, fill: "none", stroke: color, "stroke-width": dots ? 1 : 1.7, "stroke-linejoin": "round", opacity: dots ? 0.55 : 1 }));
  if (dots && points.length <= 500) {
    for (const piece of pieces) for (const [px, py] of piece) root.append(s("circle", { cx: px.toFixed(1), cy: py.toFixed(1), r: 2, fill: color }));
  }
}

function hover(key, root, legend, series, { x, begin, end, format, height, WIDE }) {
  const cross = s("line", { class: "cross", y1: TOP, y2: height - BOTTOM, visibility: "hidden" });
  root.append(cross);
  const show = (share) => {
    const t = share === null ? Infinity : begin + share * (end - begin);
    legend.replaceChildren();
    let at = null;
    for (const each of series) {
      const known = each.points.filter((p) => p[1] !== null && p[1] !== undefined);
      const near = known.length ? known.reduce((a, b) => (Math.abs(b[0] - Math.min(t, end)) <= Math.abs(a[0] - Math.min(t, end)) ? b : a)) : null;
      if (near) at = near[0];
      legend.append(h("span", null, h("i", { style: { background: each.color } }), `${each.name} ${near ? format(near[1]) : "–"}`));
    }
    if (share !== null && at !== null) {
      cross.setAttribute("x1", x(at)); cross.setAttribute("x2", x(at)); cross.setAttribute("visibility", "visible");
      legend.append(h("span", null, clock(at)));
    } else cross.setAttribute("visibility", "hidden");
  };
  root.addEventListener("pointermove", (event) => {
    const box = root.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * WIDE;
    const share = Math.max(0, Math.min(1, (at - LEFT) / (WIDE - LEFT - RIGHT)));
    hovered.set(key, share);
    show(share);
  });
  root.addEventListener("pointerleave", () => { hovered.delete(key); show(null); });
  show(hovered.has(key) ? hovered.get(key) : null);
}
