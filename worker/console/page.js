// The frame: which view and pipeline are shown, what is asked for and how often, and what is wrong at all.
import { ago, clock, fill, h, text } from "./dom.js";
import { overview } from "./overview.js";
import { alerts, letters } from "./records.js";
import { entity } from "./entity.js";
import { models, workers } from "./models.js";

const EVERY_MS = 700; // a worker speaks once a second: so nothing shown is older than two
const ANSWER_MS = 4000;
const VIEWS = [overview, alerts, letters, entity, models, workers];
const KEPT_POINTS = 300;
const byId = (id) => document.getElementById(id);

export const app = {
  state: null, // what the server said last
  at: 0, // and when, on the clock of this page
  lostSince: 0, // no answer since; 0: there was one
  points: new Map(), // by pipeline
  pipeline: null,
  view: null,
  argument: "",
  token: "",
  get current() { return this.state?.pipelines.find((p) => p.name === this.pipeline) ?? null; },
  get isReadable() { return this.state?.readable.includes(this.pipeline) ?? false; },
  get isLost() { return this.lostSince > 0 && performance.now() - this.lostSince > 2000; },
  ask, change, open,
};

// Answers of the server as objects; an Error says in a sentence why there is none.
async function ask(name, query = {}, patience = ANSWER_MS) {
  const url = `console/api/${name}?${new URLSearchParams(query)}`;
  const headers = app.token ? { Authorization: `Bearer ${app.token}` } : {};
  let answer;
  try {
    answer = await fetch(url, { headers, cache: "no-store", signal: AbortSignal.timeout(patience) });
  } catch {
    throw Object.assign(new Error("The worker that serves this page does not answer."), { isLost: true });
  }
  const said = await answer.json().catch(() => ({ error: `The answer, of status ${answer.status}, is not understood.` }));
  if (!answer.ok) throw Object.assign(new Error(said.error), { status: answer.status, hasToken: said.has_token });
  return said;
}

async function change(path, query) {
  const headers = { Authorization: `Bearer ${app.token}` };
  const answer = await fetch(`${path}?${new URLSearchParams(query)}`, { method: "POST", headers, signal: AbortSignal.timeout(20000) });
  const said = (await answer.text()).trim();
  if (!answer.ok) throw new Error(said);
  return said;
}

function open(view, argument = "") {
  location.hash = `#/${view}/${encodeURIComponent(app.pipeline ?? "")}${argument ? `/${encodeURIComponent(argument)}` : ""}`;
}

function route() {
  const [, name, pipeline, argument] = location.hash.split("/").map((part) => { try { return decodeURIComponent(part); } catch { return ""; } });
  const view = VIEWS.find((each) => each.name === name) ?? overview;
  const isOther = view !== app.view || (pipeline && pipeline !== app.pipeline) || (argument ?? "") !== app.argument;
  if (pipeline) app.pipeline = pipeline;
  app.argument = argument ?? "";
  if (isOther || !app.view) show(view);
}

function show(view) {
  app.view?.close?.();
  app.view = view;
  for (const link of byId("views").children) {
    if (link.dataset.view === view.name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${view.title} – Penstock`;
  if (app.state) view.open(byId("view"), app);
  header();
}

async function look() {
  if (document.hidden) return;
  try {
    const isFirst = app.state === null || app.lostSince > 0;
    const state = await ask("state");
    app.state = state;
    app.at = performance.now();
    app.lostSince = 0;
    if (!state.pipelines.some((p) => p.name === app.pipeline)) app.pipeline = state.pipelines.find((p) => p.workers.length && p.model)?.name ?? state.pipelines[0]?.name ?? null;
    if (isFirst || app.points.size === 0) await remember();
    note(state);
    if (isFirst) show(app.view);
    header();
    health();
    app.view.update(byId("view"), app);
  } catch (error) {
    if (error.status === 401) return refused(error);
    if (!app.lostSince) app.lostSince = performance.now();
    header();
    health(error);
  }
}

async function remember() {
  const { points } = await ask("history");
  app.points = new Map(Object.entries(points));
}

// The server keeps the history for who comes later; what is drawn here goes on from the answers.
function note(state) {
  for (const p of state.pipelines) {
    const points = app.points.get(p.name) ?? [];
    if (points.length && state.now_ms - points.at(-1)[0] < 950) continue;
    const lag = Object.values(p.lag).reduce((sum, each) => sum + each.records, 0);
    const live = p.age_ms !== null;
    points.push([state.now_ms, ...["events", "scores", "alerts", "dead_letters"].map((name) => (live ? p.per_s[name] ?? 0 : null)),
      p.latency_ms.p50, p.latency_ms.p99, live ? lag : null]);
    if (points.length > KEPT_POINTS) points.splice(0, points.length - KEPT_POINTS);
    app.points.set(p.name, points);
  }
  for (const name of app.points.keys()) if (!state.pipelines.some((p) => p.name === name)) app.points.delete(name);
}

function header() {
  const box = byId("pipelines"), names = app.state?.pipelines.map((p) => p.name) ?? [];
  if ([...box.children].map((b) => b.textContent).join() !== names.join()) {
    fill(box, names.map((name) => h("button", { type: "button", onclick: () => pick(name) }, name)));
  }
  for (const button of box.children) button.setAttribute("aria-pressed", button.textContent === app.pipeline);
  const live = byId("live"), p = app.current, wait = performance.now() - app.at;
  const age = p?.age_ms === null || !p ? null : p.age_ms + wait;
  live.className = app.isLost ? "lost" : age === null || age > (app.state?.stale_ms ?? 2000) ? "stale" : "";
  text(live, !app.state ? (app.lostSince ? "no answer" : "connecting") : app.isLost ? `no answer for ${ago(performance.now() - app.lostSince)}`
    : age === null ? "no worker" : age > app.state.stale_ms ? `stale: ${ago(age)} old` : "live");
  byId("view").classList.toggle("lost-data", app.isLost && app.state !== null);
}

function health(error) {
  const box = byId("health");
  const found = [];
  if (app.isLost) {
    const since = app.state ? ` What is shown is of ${clock(app.state.now_ms)} and no longer true.` : "";
    found.push({ level: "bad", text: `The worker that serves this page has not answered for ${ago(performance.now() - app.lostSince)}.${since}`,
      do: "It ended, or its port cannot be reached. This page goes on asking; other workers serve the same page on their own ports." });
  } else if (app.state?.is_listening && !app.current?.workers.length) {
    found.push({ level: "info", text: "Listening for workers …" });
  } else if (app.state && !error) {
    if (app.state.trouble) found.push({ level: "warn", text: `What other workers say cannot be read: ${app.state.trouble}`, do: `Is the topic ${app.state.topic} there, and may we read and write it?` });
    found.push(...(app.current?.health ?? []));
    for (const other of app.state.pipelines) {
      if (other.name !== app.pipeline && other.level === "bad") found.push({ level: "warn", text: `${other.name}: ${other.health[0].text}`, do: "Choose that pipeline above for more." });
    }
    if (!found.length && app.current) found.push({ level: "ok", text: "All is well: every partition is read, and nothing is late, refused or lost.", do: "" });
  }
  const key = JSON.stringify(found);
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  fill(box, found.map((each) => h("div", { cls: `finding ${each.level}` }, h("b", null, each.text), each.do ? h("span", { cls: "do" }, each.do) : null)));
}

function refused(error) {
  const field = h("input", { type: "password", id: "token", autocomplete: "off", "aria-label": "Token" });
  const enter = (event) => { event.preventDefault(); app.token = field.value; fill(byId("view"), h("p", { cls: "empty" }, "Loading …")); look(); };
  if (byId("token")) return;
  fill(byId("health"));
  fill(byId("view"), h("form", { cls: "empty", onsubmit: enter },
    h("p", null, "Looking from another host ", error.hasToken ? "needs the token of admin.token." : "is closed: no token is set. Look from the worker's own host, or set admin.token or console.readers."),
    error.hasToken ? [field, " ", h("button", { cls: "main" }, "Look")] : null, app.token ? h("p", { cls: "error" }, "That was not the token.") : null));
}

function pick(name) {
  app.pipeline = name;
  app.argument = "";
  open(app.view.name);
  show(app.view);
  health();
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isTyping = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
  if (isTyping) { if (event.key === "Escape") event.target.blur(); return; }
  const number = Number(event.key);
  if (number >= 1 && number <= VIEWS.length) open(VIEWS[number - 1].name);
  else if (event.key === "p" && app.state?.pipelines.length) {
    const names = app.state.pipelines.map((p) => p.name);
    pick(names[(names.indexOf(app.pipeline) + 1) % names.length]);
  } else if (event.key === "j" || event.key === "k") step(event.key === "j" ? 1 : -1);
  else if (event.key === "/") { event.preventDefault(); open("entity"); setTimeout(() => byId("key")?.focus(), 50); }
  else if (event.key === "?") byId("keys").showModal();
}

function step(by) {
  const rows = [...document.querySelectorAll(".rows summary")].filter((row) => !row.parentElement.hidden);
  if (!rows.length) return;
  const at = rows.indexOf(document.activeElement);
  const next = rows[Math.max(0, Math.min(rows.length - 1, at < 0 ? 0 : at + by))];
  next.focus();
  next.scrollIntoView({ block: "nearest" });
}

function theme() {
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme ?? (isDark ? "dark" : "light");
  document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
  try { localStorage.setItem("penstock-theme", document.documentElement.dataset.theme); } catch { /* a private window */ }
}

async function run() {
  try { const kept = localStorage.getItem("penstock-theme"); if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept; } catch { /* as above */ }
  fill(byId("views"), VIEWS.map((view, at) => h("a", { href: `#/${view.name}`, "data-view": view.name, title: `${view.title} (${at + 1})`,
    onclick: (event) => { event.preventDefault(); open(view.name); } }, view.title)));
  byId("theme").addEventListener("click", theme);
  byId("help").addEventListener("click", () => byId("keys").showModal());
  document.addEventListener("keydown", keys);
  window.addEventListener("hashchange", route);
  route();
  for (;;) {
    const began = performance.now();
    await look();
    await new Promise((wake) => setTimeout(wake, Math.max(50, EVERY_MS - (performance.now() - began))));
  }
}

run();
