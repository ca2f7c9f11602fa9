"""Capacity: how much of what is there is used."""

from __future__ import annotations

from panels_of.panel import Dashboard, P, gauge, panel, rate

_JOB = 'job="penstock"'

CAPACITY = Dashboard(
    name="capacity",
    uid="penstock-capacity",
    description="How much of what is there is used, by worker.",
    rows=(
        (
            "Workers",
            (
                panel(
                    "Events a second by worker",
                    "ops",
                    "Uneven: partitions differ, or keys do.",
                    (rate("events_total", by="pipeline, instance"), "{{pipeline}} {{instance}}"),
                ),
                panel(
                    "Share of time not waiting for records",
                    "percentunit",
                    "Above 0.9 there is nothing left for more traffic.",
                    (
                        "max by (pipeline, instance) "
                        f'(1 - rate(penstock_stage_seconds_sum{{{P}, stage="poll"}}[$__rate_interval]))',
                        "{{pipeline}} {{instance}}",
                    ),
                    warn_at=0.9,
                ),
                panel(
                    "Partitions by worker",
                    "short",
                    "More workers than partitions gain nothing.",
                    (gauge("lanes", by="pipeline, instance", of="sum"), "{{pipeline}} {{instance}}"),
                ),
                panel(
                    "CPU of a worker",
                    "percentunit",
                    "1: one core.",
                    (f"rate(process_cpu_seconds_total{{{_JOB}}}[$__rate_interval])", "{{instance}}"),
                ),
                panel(
                    "CPU time an event",
                    "s",
                    "Of all pipelines of a worker; falls as batches grow.",
                    (
                        f"sum by (instance) (rate(process_cpu_seconds_total{{{_JOB}}}[$__rate_interval])) / "
                        "sum by (instance) (rate(penstock_events_total[$__rate_interval]))",
                        "{{instance}}",
                    ),
                ),
                panel(
                    "Memory of a worker",
                    "bytes",
                    "Resident.",
                    (f"process_resident_memory_bytes{{{_JOB}}}", "{{instance}}"),
                ),
                panel(
                    "Age of a worker",
                    "s",
                    "Falls to 0 at a restart.",
                    (f"time() - process_start_time_seconds{{{_JOB}}}", "{{instance}}"),
                ),
                panel(
                    "Clock of a worker",
                    "s",
                    "How far it is from Prometheus's.",
                    (
                        "max by (pipeline, instance) "
                        f"(penstock_clock_seconds{{{P}}} - timestamp(penstock_clock_seconds{{{P}}}))",
                        "{{pipeline}} {{instance}}",
                    ),
                    negative=True,
                ),
                panel(
                    "Open files of a worker",
                    "short",
                    "Connections are among them.",
                    (f"process_open_fds{{{_JOB}}}", "{{instance}}"),
                ),
            ),
        ),
        (
            "GPUs (docker compose --profile gpu)",
            (
                panel(
                    "GPU in use",
                    "percent",
                    "Share of the time in which a kernel ran.",
                    ("DCGM_FI_DEV_GPU_UTIL", "{{instance}} {{gpu}}"),
                ),
                panel(
                    "Memory of a GPU",
                    "decmbytes",
                    "Used and free.",
                    ("DCGM_FI_DEV_FB_USED", "{{instance}} {{gpu}} used"),
                    ("DCGM_FI_DEV_FB_FREE", "{{instance}} {{gpu}} free"),
                ),
                panel(
                    "Temperature and errors of a GPU",
                    "short",
                    "Degrees Celsius; the last XID error.",
                    ("DCGM_FI_DEV_GPU_TEMP", "{{instance}} {{gpu}} °C"),
                    ("DCGM_FI_DEV_XID_ERRORS", "{{instance}} {{gpu}} XID"),
                ),
            ),
        ),
    ),
)
