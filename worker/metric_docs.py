"""Writes the table of docs/metrics.md from the metric families: `python -m worker.metric_docs`."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import CollectorRegistry

from worker.metrics import STAGES, Families

DOCS_FILE = Path(__file__).parent.parent / "docs" / "metrics.md"
MARKED = re.compile(r"<!-- metrics -->\n.*?<!-- end -->", re.DOTALL)
# What a page can say beyond the text that Prometheus shows: the values of labels, and where to read on.
DETAILS = {
    "dead_letters": "See [dead-letters.md](dead-letters.md).",
    "batches": "Reasons are `rows`, `bytes`, `wait`, `idle` and `stop`; "
    "see [batching.md](batching.md#when-a-batch-leaves).",
    "batch_max_rows": "It is `batching.max_rows`, or what was chosen for `latency_slo`.",
    "batch_max_wait_seconds": "It is 0 with `eager`.",
    "latency_slo_late_share": "See [batching.md](batching.md#an-objective-instead-of-a-window).",
    "stage_seconds": f"Stages are {', '.join(f'`{stage}`' for stage in STAGES)}; `poll` includes waiting, "
    "`write` packs rows: that Redis stores them is not waited for.",
    "event_to_score_seconds": "The timestamp is that of the Kafka record.",
    "lag_records": "Only of partitions that this member owns.",
    "lag_seconds": "It is 0 when none is waiting.",
    "rows": "A `hit` was in memory, `loaded` came from the store, `new` was in neither.",
    "hot_rows": "They are at most `state.hot_rows`.",
    "time_order": "Orders are `IN_ORDER`, `EQUAL`, `OUT_OF_ORDER`, `LATE` and `FUTURE`; "
    "see [time.md](time.md).",
    "clock_resets": "Only with `source.time.clock_back: reset`.",
    "degraded": "The step is the worst that the score stands on: `STALE_LOOKUP`, `WITHOUT_ROWS`, `CPU` or "
    "`RULES`; see [degradation.md](degradation.md).",
    "degradation": "See [degradation.md](degradation.md).",
    "dirty_rows": "They are at most `state.hot_rows`.",
    "lanes": "Those that wait do so for Kafka or the store to say how to go on.",
    "recoveries": "The cause is the kind of error; see [delivery.md](delivery.md#when-something-fails).",
    "skipped": "Only with `source.when_skipped: skip_and_count`.",
    "http_requests": "Paths are `score`, `infer` and `other`; see [http.md](http.md).",
    "model_serving": "Roles are `champion`, `canary` and `shadow`; see [rollout.md](rollout.md).",
    "model_asked": "It shows what a cascade saves; see [models.md](models.md#several-models-in-one-version).",
    "model_refused": "`penstock models list` says why.",
    "drift_psi": "It is against the model's reference; see [watch.md](watch.md).",
    "drift_mean_rank": "One half is usual.",
    "quality": "Kinds are `RANGE`, `GAP`, `FLAT`, `STUCK` and `JUMP`; see [watch.md](watch.md).",
    "truth_records": "Results are `joined`, `waiting` for a score or a label, `repeated`, `expired` and "
    "`rejected`; see [truth.md](truth.md).",
    "trace_spans": "Results are `exported`, `dropped` where there was no room, and `failed` where no "
    "collector took them; only with `tracing`, see [tracing.md](tracing.md).",
    "truth_read_again": "Topics were then read again.",
    "truth_scored": "This and those below: on the member that publishes the figures.",
    "truth_average_precision": "Its bounds are in the topic of the figures.",
    "truth_alert_yield": "Of those that have a label.",
    "truth_precision": "Of those that have a label.",
    "clock_seconds": "Beside Prometheus's own it tells a wrong one.",
    "device": "That is `cpu`, `cuda:0` or `rules`.",
}


def rows() -> dict[str, tuple[str, str, str]]:
    """Type, further labels and meaning of every metric, by its name without the common prefix."""
    found = {}
    for family in vars(Families(CollectorRegistry())).values():
        short = family._name.removeprefix("penstock_")
        labels = ", ".join(f"`{name}`" for name in family._labelnames if name != "pipeline")
        found[short] = (
            family._type,
            labels,
            " ".join([family._documentation, DETAILS.get(short, "")]).strip(),
        )
    return found


def table() -> str:
    """Return all metrics as a Markdown table, in the order of the code."""
    lines = ["| metric | type | further labels | meaning |", "| --- | --- | --- | --- |"]
    for short, (kind, labels, meaning) in rows().items():
        name = f"penstock_{short}" + ("_total" if kind == "counter" else "")
        lines.append(f"| `{name}` | {kind} | {labels + ' ' if labels else ''}| {meaning} |")
    return "\n".join(lines)


def written(page: str) -> str:
    """Return the page with the table between its marks replaced by the current one."""
    return MARKED.sub(lambda _: f"<!-- metrics -->\n{table()}\n<!-- end -->", page)


if __name__ == "__main__":
    DOCS_FILE.write_text(written(DOCS_FILE.read_text(encoding="utf-8")), encoding="utf-8")
