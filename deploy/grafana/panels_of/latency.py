"""Latency: where the time of an event goes."""

from __future__ import annotations

from panels_of.panel import Dashboard, P, gauge, mean, panel, quantile, rate

STAGE = "penstock_stage_seconds_sum"

LATENCY = Dashboard(
    name="latency",
    uid="penstock-latency",
    description="Where the time of an event goes.",
    rows=(
        (
            "From record to score",
            (
                panel(
                    "Event to score by quantile",
                    "s",
                    "From a record's own timestamp to its score handed to the client.",
                    *(
                        (quantile(q, "event_to_score_seconds"), f"{{{{pipeline}}}} p{name}")
                        for q, name in ((0.5, "50"), (0.9, "90"), (0.99, "99"), (0.999, "99.9"))
                    ),
                    warn_at=1,
                ),
                panel(
                    "Share of late events",
                    "percentunit",
                    "Later than a second, the objective of the alert rules.",
                    (f"penstock:late_share:rate5m{{{P}}}", "{{pipeline}}"),
                    warn_at=0.01,
                ),
                panel(
                    "Lag in seconds by partition",
                    "s",
                    "One partition alone: a busy key, or producers that do not partition by key.",
                    (gauge("lag_seconds", by="pipeline, partition"), "{{pipeline}} {{partition}}"),
                    warn_at=60,
                ),
            ),
        ),
        (
            "Stages of a batch",
            (
                panel(
                    "Mean time in a stage",
                    "s",
                    "Once a batch; poll includes waiting for records.",
                    (mean("stage_seconds", by="pipeline, stage"), "{{pipeline}} {{stage}}"),
                ),
                panel(
                    "Time in a stage, 99 of 100",
                    "s",
                    "The slow ones.",
                    (quantile(0.99, "stage_seconds", by="pipeline, stage"), "{{pipeline}} {{stage}}"),
                ),
                panel(
                    "Time of the loop by stage",
                    "percentunit",
                    "Share of a worker's time; what is not poll is work.",
                    (
                        f"avg by (pipeline, stage) (rate({STAGE}{{{P}}}[$__rate_interval]))",
                        "{{pipeline}} {{stage}}",
                    ),
                ),
            ),
        ),
        (
            "Batches",
            (
                panel("Rows a batch", "short", "Mean.", (mean("batch_rows"), "{{pipeline}}")),
                panel(
                    "Why batches left",
                    "ops",
                    "Full, out of time, or because nothing more was waiting.",
                    (rate("batches_total", by="pipeline, reason"), "{{pipeline}} {{reason}}"),
                ),
                panel(
                    "Rows a batch may hold",
                    "short",
                    "batching.max_rows, or what was chosen for latency_slo.",
                    (gauge("batch_max_rows"), "{{pipeline}}"),
                ),
                panel(
                    "How long a batch may wait",
                    "s",
                    "0 with eager.",
                    (gauge("batch_max_wait_seconds"), "{{pipeline}}"),
                ),
                panel(
                    "Late by latency_slo",
                    "percentunit",
                    "Share of the last seconds' events beyond the file's objective; 0 without one.",
                    (gauge("latency_slo_late_share"), "{{pipeline}}"),
                    warn_at=0.01,
                ),
                panel(
                    "latency_slo out of reach",
                    "short",
                    "1 while it is.",
                    (gauge("latency_slo_missed"), "{{pipeline}}"),
                    warn_at=1,
                ),
            ),
        ),
        (
            "Scores over HTTP, and traces",
            (
                panel(
                    "Requests",
                    "reqps",
                    "By answer: 503 is a full queue, 504 an answer that came too late. Only with http.",
                    (
                        rate("http_requests_total", by="pipeline, path, code"),
                        "{{pipeline}} {{path}} {{code}}",
                    ),
                ),
                panel(
                    "Request to answer",
                    "s",
                    "p99 of all that were answered. Only with http.",
                    (quantile(0.99, "http_seconds", by="pipeline, path"), "{{pipeline}} {{path}}"),
                ),
                panel(
                    "Spans",
                    "ops",
                    "Exported, dropped for lack of room, or failed at the collector. Only with tracing.",
                    (rate("trace_spans_total", by="pipeline, result"), "{{pipeline}} {{result}}"),
                ),
            ),
        ),
    ),
)
