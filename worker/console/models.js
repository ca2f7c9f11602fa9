// Model versions, who scores with them, drift; and every worker of every pipeline.
import { ago, badge, bar, clock, count, fill, h, percent, short, table, when } from "./dom.js";

const EVERY_MS = 5000;

export const models = {
  name: "models", title: "Models", generation: 0,
  open(root, app) {
    Object.assign(this, { asked: -Infinity, said: null, busy: false, generation: this.generation + 1 });
    this.top = h("section", { cls: "card half" });
    this.drift = h("section", { cls: "card half" });
    this.switches = h("section", { cls: "card wide" });
    this.history = h("section", { cls: "card wide" });
    this.answer = h("p", { role: "status" });
    fill(root, h("div", { cls: "grid" }, this.top, this.drift, this.switches, this.history));
    this.controls = null;
    this.update(root, app);
  },
  async update(root, app) {
    const p = app.current;
    if (!p || !this.top) return;
    fill(this.top, this.versions(p));
    fill(this.drift, drift(p));
    if (this.busy || !app.isReadable || performance.now() - this.asked < EVERY_MS) { if (!app.isReadable) this.cannot(app); return; }
    this.busy = true;
    this.asked = performance.now();
    const generation = this.generation;
    try {
      const said = await app.ask("models", { pipeline: app.pipeline }, 12000);
      if (generation !== this.generation) return;
      this.said = said;
      fill(this.top, this.versions(app.current));
      this.change(app);
      fill(this.history, changes(said));
    } catch (error) {
      if (generation === this.generation && !error.isLost) fill(this.history, h("p", { cls: "error" }, error.message));
    } finally { this.busy = false; }
  },
  cannot(app) {
    fill(this.switches, h("h2", null, "Change"), h("p", { cls: "soft" }, `This process does not have the file of ${app.pipeline}.`));
    fill(this.history, h("h2", null, "History"), h("p", { cls: "soft" }, "As above."));
  },
  versions(p) {
    const roles = { serves: "serves", canary: "scores", shadow: "is shadowed on" };
    const rows = p.versions.map((v) => [h("b", null, v.version), badge(v.role === "serves" ? "ok" : "info", v.role), v.role === "serves" ? "all other events" : `${roles[v.role]} ${percent(v.share)} of the keys`, `#${v.workers}`]);
    const others = (this.said?.versions ?? []).filter((name) => !p.versions.some((v) => v.version === name)).map((name) => [name, "", "in the repository", "#"]);
    if (rows.length === 1) rows[0][2] = "every event";
    return [h("h2", null, `Versions of ${p.model || "the model"}`),
      rows.length ? table(["version", "", "what it does", "#workers"], [...rows, ...others]) : h("p", { cls: "empty" }, p.model || p.age_ms === null ? "No worker tells what it serves." : "This pipeline has no model: it only keeps features."),
      this.said?.trouble ? h("p", { cls: "error" }, this.said.trouble) : null];
  },
  change(app) {
    if (this.controls === app.pipeline) return;
    this.controls = app.pipeline;
    const said = this.said;
    if (!said.model || !said.can_change) {
      return void fill(this.switches, h("h2", null, "Change"), h("p", { cls: "soft" }, !said.model ? "There is no model to change." : said.trouble ? "The control topic cannot be read." : "The pipeline file has no section rollout: the version of the file serves for as long as the worker runs."));
    }
    if (!app.state.can_change) return void fill(this.switches, h("h2", null, "Change"), h("p", { cls: "soft" }, "Nothing can be changed from here: admin.token is not set. penstock models does the same on the command line."));
    const version = h("select", { "aria-label": "Version" }, said.versions.map((name) => h("option", { value: name }, name)));
    const share = h("input", { type: "number", min: "0.01", max: "100", step: "any", value: "10", "aria-label": "Percent of the keys", style: { width: "80px" } });
    const why = h("input", { type: "text", maxlength: "200", placeholder: "why, for the history", "aria-label": "Why" });
    const token = h("input", { type: "password", placeholder: "token", "aria-label": "Token", autocomplete: "off", value: app.token });
    const act = (words, action, query = () => ({})) => h("button", { type: "button", onclick: async (event) => {
      const button = event.currentTarget;
      app.token = token.value;
      if (!app.token) { this.answer.className = "error"; this.answer.textContent = "Changes need the token of admin.token."; return token.focus(); }
      button.disabled = true;
      try {
        const done = await app.change("rollout", { pipeline: app.pipeline, action, why: why.value, ...query() });
        this.answer.className = ""; this.answer.textContent = done; this.asked = -Infinity;
      } catch (error) { this.answer.className = "error"; this.answer.textContent = error.message; } finally { button.disabled = false; }
    } }, words);
    fill(this.switches, h("h2", null, "Change ", h("small", null, "on every worker, between two batches")),
      h("div", { cls: "tools" }, h("label", null, "version ", version), act("Promote", "promote", () => ({ version: version.value })),
        h("label", null, share, "% of the keys"), act("Canary", "canary", () => ({ version: version.value, share: share.value })),
        said.can_shadow ? act("Shadow", "shadow", () => ({ version: version.value, share: share.value })) : null),
      h("div", { cls: "tools" }, act("Roll back", "rollback"), act("Pin", "pin"), act("Unpin", "unpin"), why, token), this.answer);
  },
  close() { this.generation += 1; },
};

function drift(p) {
  const rows = p.drift.slice(0, 20);
  return [h("h2", null, "Drift ", h("small", null, "how far features and scores are from the training data")),
    rows.length ? table(["feature", "#PSI", "", "mean rank", ""], rows.map((d) => [
      [d.feature, "mono"], `#${short(d.psi)}`, bar(0, Math.min(1, d.psi / 0.5), d.psi >= 0.25 ? "bad" : d.psi >= 0.1 ? "warn" : ""),
      h("span", { title: `mean rank ${d.mean_rank} among the training rows; 0.5 is as in training` }, bar(0.5, d.mean_rank, Math.abs(d.mean_rank - 0.5) > 0.1 ? "warn" : "neg")),
      d.alarms ? badge("warn", d.alarms.toLowerCase()) : ""]))
      : h("p", { cls: "empty" }, p.model ? "Not watched, or the first window is not full yet. A section watch in the pipeline file turns it on." : "Nothing is scored here.")];
}

function changes(said) {
  return [h("h2", null, "History ", h("small", null, said.words ?? "")),
    said.changes.length ? table(["#revision", "when", "what", "to", "by", "why"], said.changes.map((c) => [
      `#${c.revision}`, when(c.at_ms), badge(c.action === "rollback" ? "warn" : "info", c.action), c.routing.challenger ? `${c.routing.champion}, ${c.routing.challenger} ${c.routing.is_shadow ? "shadowed on" : "on"} ${percent(c.routing.share)}` : c.routing.champion, c.by, c.why]))
      : h("p", { cls: "soft" }, said.model ? `Nothing was changed: version ${said.at_start} of the pipeline file serves.` : "There is no model.")];
}

export const workers = {
  name: "workers", title: "Workers",
  open(root, app) {
    this.box = h("div", { cls: "grid" });
    fill(root, this.box);
    this.update(root, app);
  },
  update(root, app) {
    fill(this.box, app.state.pipelines.map((p) => h("section", { cls: "card wide" },
      h("h2", null, `${p.name} `, h("small", null, p.topic ? `reads ${p.topic}, ${p.lanes_total === 1 ? "1 partition" : `${p.lanes_total} partitions`}` : "")),
      p.workers.length ? table(["worker", "state", "#heard", "#events/s", "partitions", "device", "version", "#rows in memory", "#not yet stored", "up since"], p.workers.map((w) => row(w, app)))
        : h("p", { cls: "empty" }, "No worker has been heard."))),
    h("p", { cls: "soft wide card" }, app.state.topic ? `Workers tell each other how they are on the topic ${app.state.topic}; this page is served by ${app.state.server}.`
      : `This page shows ${app.state.server} alone: with console.topic in the pipeline file it shows every worker.`));
  },
};

function row(w, app) {
  const isHere = w.state === "live" || w.state === "stale";
  const word = !isHere ? w.state : !w.is_alive ? "stuck" : w.is_paused ? "paused" : !w.is_ready ? "starting" : w.state;
  const kind = { stuck: "bad", paused: "warn", starting: "warn" }[word] ?? word;
  return [[w.worker, "mono"], badge(kind, word), `#${ago(w.age_ms + performance.now() - app.at)}`, `#${isHere ? short(w.per_s.events ?? 0) : "–"}`,
    isHere ? lanes(w.lanes) : "–", w.device || "–", w.version || "–", `#${isHere ? count(w.hot_rows) : "–"}`, `#${isHere ? count(w.dirty_rows) : "–"}`, clock(w.started_ms)];
}

function lanes(numbers) {
  const said = [];
  for (let at = 0; at < numbers.length; at += 1) {
    let end = at;
    while (numbers[end + 1] === numbers[end] + 1) end += 1;
    said.push(end > at ? `${numbers[at]}–${numbers[end]}` : String(numbers[at]));
    at = end;
  }
  return said.join(", ") || "none";
}
