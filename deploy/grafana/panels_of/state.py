"""Features, the rows that they are made of, and Redis."""

from __future__ import annotations

from panels_of.panel import Dashboard, P, gauge, panel, rate

LOADED = 'result="loaded"'

STATE = Dashboard(
    name="state",
    uid="penstock-state",
    description="Features, the rows they are made of, and Redis.",
    rows=(
        (
            "Rows",
            (
                panel(
                    "Where rows were found",
                    "ops",
                    "Hit: in memory. Loaded: from Redis. New: never seen before.",
                    (rate("rows_total", by="pipeline, result"), "{{pipeline}} {{result}}"),
                ),
                panel(
                    "Share loaded from Redis",
                    "percentunit",
                    "Much of it: raise state.hot_rows.",
                    (f"{rate('rows_total', LOADED)} / {rate('rows_total')}", "{{pipeline}}"),
                ),
                panel(
                    "Rows in memory",
                    "short",
                    "At most state.hot_rows a worker.",
                    (gauge("hot_rows", by="pipeline, instance"), "{{pipeline}} {{instance}}"),
                ),
                panel(
                    "Rows not yet durable",
                    "short",
                    "What would be replayed if this worker died now.",
                    (gauge("dirty_rows", by="pipeline, instance"), "{{pipeline}} {{instance}}"),
                ),
                panel(
                    "Writes of state",
                    "ops",
                    "Lanes written a second, by worker and result.",
                    (
                        rate("state_writes_total", by="pipeline, instance, result"),
                        "{{pipeline}} {{instance}} {{result}}",
                    ),
                ),
                panel(
                    "Lanes taken again, a minute",
                    "short",
                    "By the error that made it necessary.",
                    (f"60 * {rate('recoveries_total', by='pipeline, cause')}", "{{pipeline}} {{cause}}"),
                ),
            ),
        ),
        (
            "Features",
            (
                panel(
                    "Events by the order of their times",
                    "ops",
                    "How an event's time stands to its key's newest.",
                    (rate("time_order_total", by="pipeline, order"), "{{pipeline}} {{order}}"),
                ),
                panel(
                    "Late, incomplete and degraded a minute",
                    "short",
                    "Scores that do not stand on everything, and say so.",
                    (f"60 * {rate('late_total')}", "{{pipeline}} late"),
                    (f"60 * {rate('incomplete_total')}", "{{pipeline}} incomplete"),
                    (f"60 * {rate('degraded_total', by='pipeline, step')}", "{{pipeline}} {{step}}"),
                ),
                panel(
                    "Clocks set back, records skipped",
                    "short",
                    "Keys whose rows began anew; offsets that retention removed unread.",
                    (f"60 * {rate('clock_resets_total')}", "{{pipeline}} clocks a minute"),
                    (f"sum by (pipeline) (penstock_skipped_total{{{P}}})", "{{pipeline}} skipped"),
                ),
            ),
        ),
        (
            "Redis",
            (
                panel("Redis answers", "short", "Its exporter.", ("redis_up", "{{instance}}")),
                panel(
                    "Memory of Redis",
                    "bytes",
                    "With noeviction, writes fail at the limit; 0: there is none.",
                    ("redis_memory_used_bytes", "used {{instance}}"),
                    ("redis_memory_max_bytes", "limit {{instance}}"),
                ),
                panel(
                    "Commands of Redis",
                    "ops",
                    "Of all its clients.",
                    ("rate(redis_commands_processed_total[$__rate_interval])", "{{instance}}"),
                ),
                panel(
                    "Keys evicted",
                    "short",
                    "Must stay 0: a row that vanished behind its watermark is counted anew from nothing.",
                    ("increase(redis_evicted_keys_total[10m])", "{{instance}}"),
                    warn_at=1,
                ),
                panel(
                    "Clients of Redis", "short", "Connections.", ("redis_connected_clients", "{{instance}}")
                ),
                panel(
                    "Network of Redis",
                    "Bps",
                    "What it sends and receives.",
                    ("rate(redis_net_output_bytes_total[$__rate_interval])", "out {{instance}}"),
                    ("rate(redis_net_input_bytes_total[$__rate_interval])", "in {{instance}}"),
                ),
            ),
        ),
    ),
)
