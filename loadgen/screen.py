"""What a person sees while a demo runs: throughput, latency, lag, alerts, dead letters."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from loadgen.outcomes import Live

_SHOWN_ALERTS = 8
_STYLES = {"critical": "bold red", "warning": "yellow"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """Everything shown at one moment."""

    elapsed_s: float
    seconds: float
    live: Mapping[str, Live]
    lag_records: Mapping[str, int]  # by pipeline; records that the worker has not polled yet
    alerts: Sequence[Mapping[str, Any]]  # newest last
    dead_letters: Mapping[str, str]  # by pipeline: the most frequent reasons
    worker_mb: float


def screen(glance: Glance) -> RenderableType:
    """The live screen."""
    done = min(1.0, glance.elapsed_s / glance.seconds) if glance.seconds else 0.0
    bar = "━" * round(done * 30) + "╌" * (30 - round(done * 30))
    head = Text.assemble(
        ("Penstock demo", "bold cyan"),
        f"   {bar}  {glance.elapsed_s:3.0f} of {glance.seconds:.0f} s   ",
        (f"worker {glance.worker_mb:.0f} MB", "dim"),
        ("   Ctrl-C ends it with a summary", "dim"),
    )
    return Group(head, _streams(glance), _alerts(glance.alerts), _dead_letters(glance))


def line(glance: Glance) -> str:
    """The same in one line, for logs and pipes."""
    parts = [f"{glance.elapsed_s:5.1f} s"]
    for name, live in glance.live.items():
        parts.append(
            f"{name}: {live.scores_per_s:,.0f} scores/s, p50 {live.p50_ms:.0f} ms, p99 {live.p99_ms:.0f} ms, "
            f"lag {glance.lag_records.get(name, 0)}, alerts {live.alerts}, dead letters {live.dead_letters}"
        )
    return " | ".join(parts)


def _streams(glance: Glance) -> Table:
    table = Table(expand=True, box=None, padding=(0, 2), header_style="dim")
    table.add_column("pipeline")
    for name in ("events/s", "scores/s", "p50 ms", "p99 ms", "in flight", "lag", "scores", "alerts", "dead"):
        table.add_column(name, justify="right")
    for name, live in glance.live.items():
        table.add_row(
            Text(name, "bold"),
            f"{live.sent_per_s:,.0f}",
            f"{live.scores_per_s:,.0f}",
            _ms(live.p50_ms),
            _ms(live.p99_ms),
            f"{live.in_flight:,}",
            f"{glance.lag_records.get(name, 0):,}",
            f"{live.scores:,}",
            f"{live.alerts:,}",
            f"{live.dead_letters:,}",
        )
    return table


def _ms(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"


def _alerts(alerts: Sequence[Mapping[str, Any]]) -> Panel:
    table = Table(expand=True, box=None, padding=(0, 1), show_header=bool(alerts), header_style="dim")
    for name in ("severity", "", "entity", "score", "what stands out"):
        table.add_column(name, no_wrap=name != "what stands out")
    for alert in list(alerts)[-_SHOWN_ALERTS:][::-1]:
        severity = str(alert["severity"])
        why = "; ".join(str(reason["text"]) for reason in alert["reasons"][:2]) or str(alert["reason"])
        table.add_row(
            Text(severity, _STYLES.get(severity, "cyan")),
            str(alert["lifecycle"]).lower(),
            str(alert["key"]),
            f"{alert['score']:.3g}",
            Text(why, overflow="ellipsis", no_wrap=True),
        )
    return Panel(table if alerts else Text("none so far", "dim"), title="newest alerts", title_align="left")


def _dead_letters(glance: Glance) -> Text:
    said = [f"{name}: {reasons}" for name, reasons in glance.dead_letters.items() if reasons]
    return Text("dead letters   " + ("; ".join(said) if said else "none"), "dim" if not said else "yellow")
