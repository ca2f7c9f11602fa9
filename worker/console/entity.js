// One entity over time: its events, what was made of them, and its scores, as plots above one another.
import { badge, clock, count, fill, h, short, table, when } from "./dom.js";
import { chart } from "./charts.js";

const AGAIN_MS = 10000;
const PLOTS = 24;
const EVENTS = 30;

export const entity = {
  name: "entity", title: "Entity", generation: 0,
  open(root, app) {
    Object.assign(this, { busy: false, found: null, asked: 0, generation: this.generation + 1 });
    this.field = h("input", { id: "key", type: "text", value: app.argument, placeholder: "key: a customer, a machine …", "aria-label": "Key of the entity", autocomplete: "off", spellcheck: "false" });
    this.follow = h("input", { type: "checkbox", id: "follow" });
    this.deep = h("button", { type: "button", onclick: () => this.look(app, true) }, "Look further back");
    this.said = h("span", { cls: "soft", role: "status" });
    this.box = h("div");
    fill(root, h("form", { cls: "tools", onsubmit: (event) => { event.preventDefault(); app.open("entity", this.field.value.trim()); if (this.field.value.trim() === app.argument) this.look(app); } },
      this.field, h("button", { cls: "main" }, "Follow"), this.deep, h("label", { for: "follow" }, this.follow, "again every 10 s"), this.said), this.box);
    this.deep.hidden = true;
    if (!app.isReadable) return void fill(this.box, h("p", { cls: "empty" }, `This process does not read ${app.pipeline}: ask a worker of its own, or penstock console with its file.`));
    if (app.argument) this.look(app);
    else fill(this.box, h("p", { cls: "empty" }, "Give the key of an entity, as it stands on the events, or follow one from an alert: its events, its features and its scores over time are drawn here."));
  },
  update(root, app) {
    if (this.follow.checked && app.argument && app.isReadable && performance.now() - this.asked > AGAIN_MS) this.look(app);
  },
  async look(app, deep = false) {
    if (this.busy) return;
    this.busy = true;
    this.asked = performance.now();
    this.said.textContent = "looking through its partition …";
    const generation = this.generation;
    try {
      const found = await app.ask("entity", { pipeline: app.pipeline, key: app.argument, ...(deep ? { deep: 1 } : {}) }, 15000);
      if (generation !== this.generation) return;
      this.draw(found);
    } catch (error) {
      if (generation === this.generation) { this.said.textContent = ""; fill(this.box, h("p", { cls: "error" }, error.message)); }
    } finally { this.busy = false; }
  },
  draw(e) {
    const n = e.at_ms.length;
    this.deep.hidden = e.is_whole;
    const back = e.since_ms > 0 ? `, back to ${when(e.since_ms)}` : "";
    this.said.textContent = `${count(n)} events among ${count(e.looked_at)} records of ${e.topic} partition ${e.partition}${e.is_whole ? ", all there are" : back}`;
    if (!n) return void fill(this.box, h("p", { cls: "empty" }, e.is_whole ? `No event has the key ${e.key}.` : `No event with the key ${e.key} is among the newest ${count(e.looked_at)} records of its partition. Look further back?`));
    const first = Math.min(...e.at_ms), span = [first, Math.max(...e.at_ms, first + 1)];
    const line = (values) => e.at_ms.map((t, i) => [t, typeof values[i] === "number" ? values[i] : null]).sort((a, b) => a[0] - b[0]);
    const marks = Object.entries(e.thresholds).map(([name, value]) => ({ name, value, color: name === "critical" ? "var(--red)" : "var(--amber)" }));
    const raised = e.alerts.flatMap((a, i) => (a ? [{ at: e.at_ms[i], value: a.score, color: a.severity === "critical" ? "var(--red)" : "var(--amber)", name: `${a.severity} ${a.lifecycle.toLowerCase()}: ${a.reason}` }] : []));
    const isScored = e.scores.some((v) => v !== null);
    const plot = (name, values, color) => h("section", { cls: "card" }, h("h2", { cls: "mono" }, name),
      chart({ key: `entity-${name}`, title: `${name} over time`, span, small: true, height: 120, format: short, fromZero: false, series: [{ name: "value", color, dots: true, points: line(values) }] }));
    const fields = Object.entries(e.fields).filter(([, values]) => values.some((v) => typeof v === "number"));
    const moving = ([, values]) => new Set(values.filter((v) => v !== null)).size > 1;
    const made = Object.entries(e.features).filter(([name]) => !(name in e.fields));
    const drawn = [...made.filter(moving), ...made.filter((x) => !moving(x))];
    fill(this.box,
      h("section", { cls: "card wide" }, h("h2", null, `Scores of ${e.key} `, h("small", null, raised.length ? `${raised.length} alerts, as dots` : "no alert")),
        isScored ? chart({ key: "entity-score", title: "Scores over time", span, full: true, height: 190, format: short, marks: isScored ? marks : [], events: raised, series: [{ name: "score", color: "var(--blue)", dots: true, points: line(e.scores) }] })
          : h("p", { cls: "empty" }, "None of these events has a score that could be found.")),
      h("div", { cls: "plots" }, fields.slice(0, PLOTS).map(([name, values]) => plot(name, values, "var(--teal)"))),
      drawn.length ? [h("h2", { style: { marginTop: "18px" } }, "Features ", h("small", null, e.incomplete.some(Boolean)
        ? "made anew from these events alone: a window that reaches back beyond the first of them holds less than it did" : "made anew from these events by the engine that makes them live")),
      h("div", { cls: "plots" }, drawn.slice(0, PLOTS).map(([name, values]) => plot(name, values, "var(--violet)"))),
      drawn.length > PLOTS ? h("p", { cls: "soft" }, `and ${drawn.length - PLOTS} more`) : null] : null,
      h("section", { cls: "card wide", style: { marginTop: "12px" } }, h("h2", null, "Newest events"), this.events(e)));
  },
  events(e) {
    const names = Object.keys(e.fields).slice(0, 6);
    const rows = e.at_ms.map((_, i) => i).slice(-EVENTS).reverse();
    return table(["happened", ...names, "#score", "version", "", "#offset"], rows.map((i) => [
      when(e.at_ms[i]), ...names.map((name) => [e.fields[name][i] === null ? "–" : short(e.fields[name][i]), typeof e.fields[name][i] === "number" ? "num" : "mono"]),
      `#${short(e.scores[i])}`, e.versions[i] ?? "–", h("span", null, e.alerts[i] ? badge(e.alerts[i].severity) : null, e.flags[i] ? ` ${e.flags[i]}` : ""), `#${e.offsets[i]}`]));
  },
  close() { this.generation += 1; },
};
