"""A report as one HTML page that asks nobody for anything, dark or light as its reader has it."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from loadgen.capacity_page import capacity
from loadgen.page_parts import STYLE, facts, over_time, percentile_curve, plots, table
from loadgen.plots import Series, axis, plot
from loadgen.spikes import Spike, spikes


def page(report: Mapping[str, Any]) -> str:
    """The page of a report: of a run (`python -m loadgen … --report`), or of `penstock capacity --json`."""
    if "saturation" in report:
        title, body = f"Capacity of {report['pipeline']}", capacity(report)
    else:
        names = ", ".join(report["streams"])
        title, body = f"Load on {names}", "".join(_stream(n, s) for n, s in report["streams"].items())
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><title>{escape(title)}</title><style>{STYLE}</style></head>\n'
        f"<body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def _stream(name: str, stream: Mapping[str, Any]) -> str:
    latency = stream["latency_ms"]
    shown = [
        (
            "events",
            f"{stream['events']:,} in {stream['seconds']:,.1f} s, {stream['events_per_s']:,.0f} a second",
        ),
        ("outcomes", _outcomes(stream)),
        (
            "latency",
            ", ".join(f"{p} {_ms(latency[p])}" for p in ("p50", "p90", "p99", "p99.9", "p99.99", "max")),
        ),
        (
            "sender behind its plan",
            f"p99 {_ms(stream['send_late_ms']['p99'])}, at most {_ms(stream['send_late_ms']['max'])}",
        ),
        *_reasons(stream["dead_letter_reasons"]),
    ]
    seconds = stream["per_second"]
    found = spikes(seconds)
    figures = [
        over_time(
            seconds, bands=[(s.begin_s, s.begin_s + s.seconds - 1) for s in found if s.kind == "traffic"]
        ),
        percentile_curve([(name, stream, 0)]),
        throughput(seconds),
    ]
    return f"<h2>{escape(name)}</h2>{facts(shown)}{plots(figures)}{_spikes(found)}"


def throughput(seconds: Mapping[str, Sequence[float | None]]) -> str:
    """Events due and outcomes read in each second."""
    due, read = list(enumerate(seconds["events"])), list(enumerate(seconds["outcomes"]))
    lines = [
        Series(name="events due", points=due, colour=2, is_filled=True),
        Series(name="outcomes read", points=read, colour=0),
    ]
    values = [value for _, value in (*due, *read)]
    return plot("Throughput", lines, axis("seconds", [0, max(1, len(due) - 1)]), axis("a second", values))


def _outcomes(stream: Mapping[str, Any]) -> str:
    parts = [
        f"{stream['scores']:,} scores",
        f"{stream['alerts']:,} alerts",
        f"{stream['dead_letters']:,} dead letters",
    ]
    if stream["unaccounted"] is not None:
        parts += [f"{stream['unaccounted']:,} unaccounted", f"{stream['duplicates']:,} twice"]
    return ", ".join(parts)


def _reasons(reasons: Mapping[str, int]) -> Iterable[tuple[str, str]]:
    if reasons:
        yield "dead letters", ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())


def _spikes(found: Sequence[Spike]) -> str:
    if not found:
        return "<h3>Spikes</h3><p>No second stood out in traffic or latency.</p>"
    rows = [
        (
            spike.kind,
            f"{spike.begin_s} s",
            f"{spike.seconds} s",
            f"{spike.highest:,.0f} {'a second' if spike.kind == 'traffic' else 'ms p99'}",
            f"{spike.times_usual:.1f}",
            "" if spike.worst_p99_ms is None else _ms(spike.worst_p99_ms),
            "not within the run" if spike.over_after_s is None else f"{spike.over_after_s} s",
        )
        for spike in found
    ]
    head = ("", "at", "for", "highest", "times usual", "worst p99", "latency usual again after")
    return f"<h3>Spikes</h3>{table(head, rows)}"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f} ms"


def main() -> int:
    """Read a report from standard input and print its page."""
    print(page(json.load(sys.stdin)), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
