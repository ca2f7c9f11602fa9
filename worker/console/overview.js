// One pipeline at a glance: a sentence, five numbers, how they went, and where time and events are.
import { bar, count, fill, h, milliseconds, percent, short, table } from "./dom.js";
import { chart } from "./charts.js";

const SPAN_MS = 300000;
const REASONS = {
  rows: "full: batching.max_rows", bytes: "full: batching.max_bytes", wait: "first event waited long enough", idle: "model idle, nothing more waiting",
  stop: "the worker stopped", eager: "model idle, nothing more waiting",
};
const STAGES = {
  poll: "waiting for and fetching records", decode: "bytes to columns", features: "windows and lookups", infer: "the model", decide: "thresholds and rules",
  reasons: "why it alerted", watch: "drift", encode: "columns to bytes", send: "handing to Kafka", commit: "waiting for commits", write: "rows to the store",
};

export const overview = {
  name: "overview", title: "Overview",
  open(root, app) {
    fill(root, h("p", { id: "sentence" }), h("div", { cls: "tiles", id: "tiles" }), h("div", { cls: "grid" },
      h("section", { cls: "card half", id: "c-rate" }), h("section", { cls: "card half", id: "c-latency" }),
      h("section", { cls: "card third", id: "c-lag" }), h("section", { cls: "card third", id: "c-batch" }), h("section", { cls: "card third", id: "c-stage" })));
    this.update(root, app);
  },
  update(root, app) {
    const p = app.current, get = (id) => root.querySelector(`#${id}`);
    if (!p || !get("tiles")) return void (p || fill(root, h("p", { cls: "empty" }, "No pipeline has been heard of yet.")));
    fill(get("sentence"), sentence(p));
    fill(get("tiles"), tiles(p));
    const points = app.points.get(p.name) ?? [], end = app.state.now_ms, span = [end - SPAN_MS, end];
    const column = (at) => points.map((point) => [point[0], point[at]]);
    fill(get("c-rate"), h("h2", null, "Events a second ", h("small", null, "last five minutes")),
      chart({ key: "rate", title: "Events and scores a second over the last five minutes", span, format: short,
        series: [{ name: "events/s", color: "var(--blue)", points: column(1), area: true }, ...(points.some((x) => x[4] > 0) ? [{ name: "dead letters/s", color: "var(--red)", points: column(4) }] : [])] }));
    fill(get("c-latency"), h("h2", null, "From record to score ", h("small", null, "each point over ten seconds, all workers together")),
      chart({ key: "latency", title: "Latency percentiles over the last five minutes", span, format: milliseconds,
        series: [{ name: "99 % within", color: "var(--orange)", points: column(6) }, { name: "half within", color: "var(--blue-soft)", points: column(5) }] }));
    fill(get("c-lag"), lag(p));
    fill(get("c-batch"), batches(p));
    fill(get("c-stage"), stages(p));
  },
};

function sentence(p) {
  if (p.age_ms === null) return `No worker of ${p.name} can be heard.`;
  const live = p.workers.filter((w) => w.state === "live" || w.state === "stale").length;
  const who = live === 1 ? "One worker reads" : `${live} workers read`;
  const rate = `${short(p.per_s.events ?? 0)} events a second`;
  if (!p.model) return `${who} ${p.topic}, ${rate}, and ${live === 1 ? "keeps" : "keep"} features for other pipelines; nothing is scored.`;
  const version = p.versions.filter((v) => v.role === "serves").map((v) => v.version).join(" and ");
  const late = p.latency_ms.p99 === null ? "" : ` 99 of 100 scores were out within ${milliseconds(p.latency_ms.p99)}.`;
  return `${who} ${p.topic}, ${rate}, and ${live === 1 ? "scores" : "score"} each with ${p.model} ${version}.${late}`;
}

function tiles(p) {
  const waiting = Object.values(p.lag).reduce((sum, each) => sum + each.records, 0);
  const late = Math.max(0, ...Object.values(p.lag).map((each) => each.seconds));
  const l = p.latency_ms, dead = p.per_s.dead_letters ?? 0, all = (p.per_s.events ?? 0) + dead;
  const kinds = Object.entries(p.alerts).sort((a, b) => b[1] - a[1]).map(([name, n]) => `${short(n)} ${name}`).join(", ");
  return [
    tile("Events a second", short(p.per_s.events ?? null), "", `${count(p.totals.events ?? null)} since the start`),
    tile("99 % scored within", milliseconds(l.p99), "", l.p50 === null ? "nothing was scored" : `half ${milliseconds(l.p50)}, 99.9 % ${milliseconds(l.p999)}`),
    tile("Events waiting", short(p.age_ms === null ? null : waiting), "", late >= 1 ? `the oldest lane is ${short(late)} s behind` : "no lane is behind"),
    tile("Alerts a second", p.age_ms === null ? "–" : short(Object.values(p.alerts).reduce((sum, n) => sum + n, 0) / p.window_s), "", kinds ? `last ${p.window_s} s: ${kinds}` : `none in the last ${p.window_s} s`),
    tile("Dead letters", all ? percent(dead / all) : "–", "", `${count(p.totals.dead_letters ?? null)} since the start`),
  ];
}

function tile(label, value, unit, under) {
  return h("div", { cls: "card tile" }, h("div", { cls: "label" }, label), h("div", { cls: "value" }, value, unit ? h("small", null, ` ${unit}`) : null), h("div", { cls: "under" }, under));
}

function lag(p) {
  const lanes = Object.entries(p.lag);
  const most = Math.max(1, ...lanes.map(([, each]) => each.records));
  return [h("h2", null, "Lag by lane ", h("small", null, `${lanes.length}${p.lanes_total ? ` of ${p.lanes_total}` : ""} partition${(p.lanes_total || lanes.length) === 1 ? "" : "s"}`)),
    lanes.length ? table(["lane", "#waiting", "#behind", ""], lanes.slice(0, 64).map(([partition, each]) => [
      partition, `#${short(each.records)}`, `#${each.seconds >= 0.1 ? `${short(each.seconds)} s` : "–"}`,
      bar(0, each.records ? each.records / most : 0, each.seconds >= 60 ? "bad" : each.seconds >= 10 ? "warn" : "")]))
      : h("p", { cls: "empty" }, "No lane has had an event yet."),
    lanes.length > 64 ? h("p", { cls: "soft" }, `and ${lanes.length - 64} more lanes`) : null];
}

function batches(p) {
  const all = Object.values(p.batches).reduce((sum, n) => sum + n, 0);
  const rows = Object.entries(p.batches).sort((a, b) => b[1] - a[1]);
  return [h("h2", null, "Batches ", h("small", null, `last ${p.window_s} s`)),
    all ? [h("p", null, `${short(p.rows_a_batch)} events a batch, of at most ${count(p.batch_max_rows)}; ${short(all / p.window_s)} batches a second. They left because:`),
      table(["why", "", "#share"], rows.map(([reason, n]) => [REASONS[reason] ?? reason, bar(0, n / all), `#${percent(n / all)}`]))]
      : h("p", { cls: "empty" }, p.model ? "No batch has left for the model." : "Nothing is scored here.")];
}

function stages(p) {
  const rows = Object.entries(p.stages_us).filter(([name]) => name !== "poll").sort((a, b) => b[1] - a[1]);
  const sum = rows.reduce((total, [, us]) => total + us, 0);
  return [h("h2", null, "Where time goes ", h("small", null, sum ? `${short(sum)} µs an event` : "")),
    sum ? table(["step", "", "#µs"], rows.map(([name, us]) => [h("span", { title: STAGES[name] ?? "" }, name), bar(0, us / rows[0][1]), `#${short(us)}`]))
      : h("p", { cls: "empty" }, "No event has come in the last seconds.")];
}
