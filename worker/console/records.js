// Alerts and dead letters as they come, the newest first; at most a thousand rows are kept.
import { badge, bar, clock, count, fill, h, short, table, when } from "./dom.js";

const KEPT = 1000;
const EVERY_MS = 1000;
const LIFE = { RAISED: "raised", UPDATED: "got worse", CLEARED: "cleared" };

function list({ name, title, kind, summary, inside, filters, empty, words }) {
  return {
    name, title, generation: 0,
    open(root, app) {
      Object.assign(this, { rows: [], last: 0, reading: null, asked: 0, busy: false, isPaused: false, generation: this.generation + 1 });
      this.find = h("input", { type: "search", placeholder: words, "aria-label": words, oninput: () => this.filter() });
      this.choice = h("select", { "aria-label": filters, onchange: () => this.filter() }, h("option", { value: "" }, `all ${filters}`));
      this.pause = h("button", { type: "button", "aria-pressed": "false", onclick: () => { this.isPaused = !this.isPaused; this.pause.setAttribute("aria-pressed", this.isPaused); this.pause.textContent = this.isPaused ? "Go on" : "Pause"; } }, "Pause");
      this.said = h("span", { cls: "soft", role: "status" });
      this.held = h("span", { cls: "soft" });
      this.isRead = false;
      this.box = h("div", { cls: `rows ${name}` });
      this.none = h("p", { cls: "empty" }, "Reading …");
      fill(root, h("div", { cls: "tools" }, this.choice, this.find, this.pause, this.said, this.held), this.box, this.none);
      this.update(root, app);
    },
    async update(root, app) {
      if (!app.isReadable) return this.cannot(app);
      // What is being read is not pushed away by what comes.
      const isRead = this.box.querySelector("details[open]") !== null;
      if (isRead !== this.isRead) { this.isRead = isRead; this.held.textContent = isRead ? "New ones wait until the open row is closed." : ""; }
      if (this.busy || this.isPaused || isRead || performance.now() - this.asked < EVERY_MS) return;
      this.busy = true;
      this.asked = performance.now();
      const generation = this.generation;
      try {
        const said = await app.ask(kind, { pipeline: app.pipeline, after: this.last, limit: KEPT });
        if (generation !== this.generation) return;
        if (this.reading !== null && said.reading !== this.reading) { this.rows = []; fill(this.box); }
        this.reading = said.reading;
        this.last = said.last;
        this.take(said.rows.reverse(), app);
        this.tell(said, app);
      } catch (error) {
        if (generation === this.generation && !error.isLost) fill(this.none, h("span", { cls: "error" }, error.message)).hidden = false;
      } finally { this.busy = false; }
    },
    cannot(app) {
      if (this.box.childElementCount === 0) fill(this.none, `This process does not read ${app.pipeline}: its ${title.toLowerCase()} are shown by a worker of its own, or by penstock console with its file.`);
    },
    take(fresh, app) {
      const isFirst = this.rows.length === 0;
      const nodes = fresh.map((row) => {
        const node = h("details", { cls: isFirst ? null : "fresh" }, h("summary", null, summary(row)));
        node.addEventListener("toggle", () => { if (node.open && node.childElementCount === 1) node.append(inside(row, app)); });
        row.node = node;
        row.words = JSON.stringify([row.key, row.event_id, row.severity, row.reason, row.detail, row.reasons, row.source, row.source_offset]).toLowerCase();
        this.rows.push(row);
        this.option(row[filters === "severities" ? "severity" : "reason"]);
        return node;
      });
      this.box.prepend(...nodes.reverse());
      while (this.rows.length > KEPT) this.rows.shift().node.remove();
      if (this.find.value || this.choice.value) this.filter();
    },
    option(value) {
      if (value && ![...this.choice.options].some((o) => o.value === value) && this.choice.options.length < 60) this.choice.append(h("option", { value }, value));
    },
    filter() {
      const wanted = this.find.value.toLowerCase(), kindOf = this.choice.value;
      for (const row of this.rows) row.node.hidden = (wanted !== "" && !row.words.includes(wanted)) || (kindOf !== "" && row[filters === "severities" ? "severity" : "reason"] !== kindOf);
    },
    tell(said, app) {
      const why = said.trouble[app.pipeline];
      const shown = this.rows.filter((row) => !row.node.hidden).length;
      this.said.textContent = `${count(shown)} of the newest ${count(this.rows.length)}${said.skipped ? `; ${count(said.skipped)} came too fast and were passed over` : ""}`;
      this.none.hidden = this.rows.length > 0 && !why;
      if (why) fill(this.none, h("span", { cls: "error" }, `They cannot be read: ${why}`));
      else if (!this.rows.length) fill(this.none, said.is_caught_up ? empty : "Reading …");
    },
    close() { this.generation += 1; this.rows = []; },
  };
}

export const alerts = list({
  name: "alerts", title: "Alerts", kind: "alerts", filters: "severities", words: "find a key, a reason …",
  empty: "There is no alert: no score has reached a threshold, or nothing was scored yet. New ones appear here by themselves.",
  summary: (a) => [h("span", { cls: "time", title: when(a.scored_at) }, clock(a.scored_at)), badge(a.severity), h("span", { cls: "life soft" }, LIFE[a.lifecycle] ?? a.lifecycle),
    h("span", { cls: "mono", title: a.key }, a.key), h("span", { cls: "num" }, short(a.score)), h("span", { cls: "why" }, a.reasons[0]?.text ?? a.reason)],
  inside: (a, app) => h("div", { cls: "inside" },
    h("div", null, h("h2", null, "Why"), h("p", null, a.reason), contributions(a.reasons)),
    h("div", null, h("h2", null, "What it is"), table(["", ""], [
      ["entity", h("a", { href: `#/entity/${encodeURIComponent(a.pipeline)}/${encodeURIComponent(a.key)}` }, a.key)],
      ["event", [a.event_id, "mono"]], ["happened", when(a.event_time)], ["scored", when(a.scored_at)],
      ["where", [`${a.source_topic} ${a.source_partition} ${a.source_offset}`, "mono"]],
      ["model", `${a.model} ${a.model_version}, policy ${a.policy_version}`],
      ["flags", flags(a)], ...(a.rules?.length ? [["rules", a.rules.join(", ")]] : [])])),
    h("div", { cls: "wide" }, h("h2", null, "Features ", h("small", null, "what the model was given")), features(a.features))),
});

function contributions(reasons) {
  if (!reasons.length) return h("p", { cls: "soft" }, "No single feature stands out.");
  const most = Math.max(1e-12, ...reasons.map((r) => Math.abs(r.contribution ?? 0)));
  return table(["reason", "#value", "#usually", "#moved the score by", ""], reasons.map((r) => [
    r.text, `#${short(r.value)}`, `#${r.usual === null ? "–" : short(r.usual)}`, `#${r.contribution === null ? "–" : (r.contribution > 0 ? "+" : "") + short(r.contribution)}`,
    r.contribution === null ? "" : bar(0, Math.abs(r.contribution) / most, r.contribution < 0 ? "neg" : "")]));
}

export function features(values) {
  const named = Object.entries(values ?? {});
  if (!named.length) return h("p", { cls: "soft" }, "None is told.");
  return h("div", { cls: "features" }, named.map(([name, value]) => h("div", null, h("span", { cls: "mono" }, name), h("span", { cls: "num" }, short(value)))));
}

function flags(a) {
  const said = ["late", "incomplete", "degraded", "masked"].filter((name) => a[name]);
  if (a.degraded) said.push(a.degradation);
  return said.length ? said.join(", ") : "exact: not late, incomplete or degraded";
}

export const letters = list({
  name: "letters", title: "Dead letters", kind: "letters", filters: "reasons", words: "find a key, an offset …",
  empty: "There is no dead letter: every record could be scored. New ones appear here by themselves.",
  summary: (l) => [h("span", { cls: "time", title: when(l.at_ms) }, clock(l.at_ms)), h("span", null, badge("bad", l.reason)),
    h("span", { cls: "mono place" }, l.source.join(" ")), h("span", { cls: "why" }, l.detail)],
  inside: (l) => h("div", { cls: "inside" },
    h("div", null, h("h2", null, "What is wrong"), h("p", null, l.detail), table(["", ""], [
      ["reason", l.reason], ["step", l.stage], ["came from", [l.source.join(" "), "mono"]], ["sent", when(l.source_ms)], ["refused", when(l.at_ms)],
      ["attempt", String(l.attempt)], ["lies at", [`partition ${l.partition}, offset ${l.offset}`, "mono"]], ["key", [l.key ?? "none", "mono"]],
      ...l.headers.filter(([name]) => !name.startsWith("penstock.")).map(([name, value]) => [`header ${name}`, [value, "mono"]])])),
    h("div", null, h("h2", null, "As far as it can be read ", h("small", null, l.writer ? `as ${l.writer}` : "")),
      l.fields.length ? table(["#bytes", "field", "value"], l.fields.map(([name, from, to, value]) => [`#${to === from ? "" : to - 1 > from ? `${from}–${to - 1}` : from}`, [name, "mono"], [value, "mono"]])) : h("p", { cls: "soft" }, "No field can be read."),
      h("p", { cls: l.problem ? "error" : "soft" }, l.problem ? `At byte ${l.stop}: ${l.problem}` : "The bytes are a good record: a check of its values refused it.")),
    h("div", { cls: "wide" }, h("h2", null, "Bytes ", h("small", null, l.size === null ? "no value" : `${count(l.size)} in all`)),
      l.hex === null ? h("p", { cls: "soft" }, "Not shown: fields of this record are personal, and the file hides them. penstock dlq show has them.") : hexdump(l))),
});

// Sixteen bytes a line; from where reading stopped they are red.
function hexdump(l) {
  const box = h("pre", { cls: "hex", tabindex: "0", "aria-label": "Bytes in hexadecimal" });
  const bytes = l.hex.match(/../g) ?? [], bad = l.problem ? l.stop : Infinity;
  for (let at = 0; at < bytes.length; at += 16) {
    const part = bytes.slice(at, at + 16);
    const cut = Math.max(0, Math.min(part.length, bad - at));
    const plain = part.map((b) => { const c = parseInt(b, 16); return c > 31 && c < 127 ? String.fromCharCode(c) : "·"; });
    box.append(h("span", { cls: "at" }, `${String(at).padStart(5)}  `), part.slice(0, cut).join(" "), cut && cut < part.length ? " " : "",
      h("span", { cls: "bad" }, part.slice(cut).join(" ")), " ".repeat(3 * (16 - part.length) + 2), plain.slice(0, cut).join(""), h("span", { cls: "bad" }, plain.slice(cut).join("")), "\n");
  }
  if (l.size > bytes.length) box.append(h("span", { cls: "at" }, `       and ${count(l.size - bytes.length)} more`));
  return box;
}
