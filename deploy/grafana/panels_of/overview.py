"""The overview: is it scoring, how fast, and is anything wrong?"""

from __future__ import annotations

from panels_of.panel import Dashboard, P, gauge, panel, quantile, rate, stat

DEAD = rate("dead_letters_total")

OVERVIEW = Dashboard(
    name="overview",
    uid="penstock",
    description="Is it scoring, how fast, and is anything wrong?",
    across=2,
    rows=(
        (
            "",
            (
                stat(
                    "Events a second",
                    "short",
                    "Decoded and applied to state.",
                    f"sum({rate('events_total')})",
                ),
                stat(
                    "p99, event to score",
                    "s",
                    "From a record's own timestamp to its score handed to the client.",
                    f"max({quantile(0.99, 'event_to_score_seconds')})",
                    warn_at=1,
                ),
                stat(
                    "Lag",
                    "s",
                    "In seconds, of the furthest partition.",
                    f"max({gauge('lag_seconds')})",
                    warn_at=60,
                ),
                stat("Workers answering", "short", "That Prometheus reaches.", 'sum(up{job="penstock"})'),
                stat("Partitions read", "short", "Of all pipelines.", f"sum({gauge('lanes', of='sum')})"),
                stat(
                    "Alerts firing",
                    "short",
                    "What to do about each is in docs/runbook.md.",
                    'count(ALERTS{alertname=~"Penstock.*", alertstate="firing"}) or vector(0)',
                    warn_at=1,
                ),
            ),
        ),
        (
            "",
            (
                panel(
                    "Events and scores",
                    "ops",
                    "They run together; a gap is dead letters or a pipeline without a model.",
                    (rate("events_total"), "{{pipeline}} events"),
                    (rate("scores_total"), "{{pipeline}} scores"),
                ),
                panel(
                    "Event to score",
                    "s",
                    "From a record's own timestamp to its score handed to the client.",
                    (quantile(0.5, "event_to_score_seconds"), "{{pipeline}} p50"),
                    (quantile(0.99, "event_to_score_seconds"), "{{pipeline}} p99"),
                    warn_at=1,
                ),
                panel(
                    "Lag in seconds",
                    "s",
                    "Age of the newest record polled, 0 when none waits. Unknown where nobody reads.",
                    (gauge("lag_seconds"), "{{pipeline}}"),
                    warn_at=60,
                ),
                panel(
                    "Lag in records",
                    "short",
                    "Records not yet polled.",
                    (gauge("lag_records", of="sum"), "{{pipeline}}"),
                ),
                panel(
                    "Burn rate of the latency budget",
                    "short",
                    "1: just as many late events as the objective allows. Over an hour 14.4 wakes somebody.",
                    (f"penstock:late_share:rate5m{{{P}}} / 0.01", "{{pipeline}} 5 min"),
                    (f"penstock:late_share:rate1h{{{P}}} / 0.01", "{{pipeline}} 1 h"),
                    (f"penstock:late_share:rate30m{{{P}}} / 0.01", "{{pipeline}} 30 min"),
                    (f"penstock:late_share:rate6h{{{P}}} / 0.01", "{{pipeline}} 6 h"),
                    warn_at=14.4,
                ),
                panel(
                    "Partitions by what they do",
                    "short",
                    "Waiting: Kafka or the store does not say yet how to go on.",
                    (gauge("lanes", by="pipeline, state", of="sum"), "{{pipeline}} {{state}}"),
                ),
                panel(
                    "Alerts of the model, a minute",
                    "short",
                    "Published, by severity and lifecycle.",
                    (
                        f"60 * {rate('alerts_total', by='pipeline, severity, lifecycle')}",
                        "{{pipeline}} {{severity}} {{lifecycle}}",
                    ),
                ),
                panel(
                    "Dead letters a minute",
                    "short",
                    "Records that could not be scored, by reason.",
                    (f"60 * {rate('dead_letters_total', by='pipeline, reason')}", "{{pipeline}} {{reason}}"),
                ),
                panel(
                    "Dead-letter share",
                    "percentunit",
                    "Of all records.",
                    (
                        f"{DEAD} / ({rate('events_total')} + {DEAD})",
                        "{{pipeline}}",
                    ),
                    warn_at=0.01,
                ),
                panel(
                    "Age of the loop",
                    "s",
                    "Time since each worker's loop last went round.",
                    (gauge("loop_age_seconds", by="pipeline, instance"), "{{pipeline}} {{instance}}"),
                    warn_at=30,
                ),
            ),
        ),
    ),
)
