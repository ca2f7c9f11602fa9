"""A backtest's report as one HTML page that asks nobody for anything: plots are SVG inside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 560, 220, 52, 26, 10
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 2rem auto; padding: 0 1rem;
color: #1e293b }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; margin: .5rem 0 } td, th { padding: .2rem .8rem .2rem 0; text-align: left;
vertical-align: top; border-bottom: 1px solid #e2e8f0; font-variant-numeric: tabular-nums }
th { font-weight: 600; color: #475569 } .plots { display: flex; flex-wrap: wrap; gap: 1rem }
figure { margin: 0 } figcaption { color: #475569; font-size: .85rem }
svg text { font: 11px system-ui, sans-serif; fill: #64748b }
"""
_INK = "#0f766e"


def page(report: dict[str, Any]) -> str:
    """The whole page; see docs/backtest.md for what the report holds."""
    title = f"Backtest of {report['pipeline']}: {report['model']}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        _facts(_summary(report)),
        _quality(report["quality"]),
        _volume(report["volume"]),
        _published(report["published"]),
        _engine(report["engine"]),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _summary(report: dict[str, Any]) -> list[tuple[str, Any]]:
    engine = report["engine"]
    return [
        ("events", f"{engine['scored']:,} scored, {engine['read']:,} read"),
        ("event times", f"{report['from'] or 'the first'} to {report['to'] or 'the last'}"),
        (
            "thresholds",
            ", ".join(f"{name} {value:g}" for name, value in report["thresholds"].items()) or "none",
        ),
        ("input", ", ".join(report["input"])),
        ("not scored", _counts(report["rejected"]) or "none"),
        ("took", f"{engine['seconds']:.1f} s, {engine['events_per_s']:,.0f} events a second"),
    ]


def _quality(quality: dict[str, Any] | None) -> str:
    if quality is None:
        return "<h2>Quality</h2><p>No labels were given: see <code>--label</code>.</p>"
    facts = [
        (name.replace("_", " "), _number(value))
        for name, value in quality.items()
        if name not in ("curve", "meaning")
    ]
    curve = quality.get("curve", [])
    plots = []
    if curve:
        plots = [
            line([(p["recall"], p["precision"]) for p in curve], "precision by recall", (0, 1), (0, 1)),
            line(
                [(0.0, 0.0), *((p["false_positive_rate"], p["recall"]) for p in curve)],
                "true positives by false positives (ROC)",
                (0, 1),
                (0, 1),
            ),
        ]
    return f"<h2>Quality</h2>{_facts(facts)}{_plots(plots)}"


def _volume(volume: dict[str, Any]) -> str:
    days = volume["per_day"]
    names = [day["day"] for day in days]
    histogram = volume["score_histogram"]
    edges = [f"{edge:.3g}" for edge in histogram["edges"][:-1]]
    facts = [
        ("scores", f"{volume['scores']:,}"),
        ("of these", _counts(volume["scores_that_are"])),
        ("alerts", f"{volume['alerts']:,}"),
        ("by kind", _counts(volume["alerts_by_kind"]) or "none"),
    ]
    plots = [
        bars(names, [day["alerts"] for day in days], "alerts a day"),
        bars(names, [day["events"] for day in days], "events a day"),
        bars(edges, histogram["counts"], "scores, on a logarithmic axis", is_log=True),
    ]
    return f"<h2>Alerts and scores</h2>{_facts(facts)}{_plots(plots)}"


def _published(published: dict[str, Any] | None) -> str:
    if published is None:
        return "<h2>Difference to what was published</h2><p>Nothing to compare with was given.</p>"
    scores, alerts, features = published["scores"], published["alerts"], published["features"]
    facts = [
        ("published by", ", ".join(published["models"]) or "unknown"),
        (
            "scores",
            f"{scores['compared']:,} compared, {scores['differ']:,} differ, by at most "
            f"{scores['largest_difference']:.3g}",
        ),
        (
            "alerts",
            f"{alerts['same']:,} the same, {alerts['appear']:,} appear, {alerts['vanish']:,} vanish, "
            f"{alerts['change']:,} change",
        ),
        (
            "feature vectors",
            f"{features['compared']:,} compared, {features['differ']:,} differ, {features['behind']:,} of "
            "them served while a lookup was behind",
        ),
    ]
    tables = [
        _examples(f"Alerts that {verb}", published["examples"][verb])
        for verb in ("appear", "vanish", "change")
        if published["examples"][verb]
    ]
    return f"<h2>Difference to what was published</h2>{_facts(facts)}{''.join(tables)}"


def _examples(title: str, examples: list[dict[str, Any]]) -> str:
    rows = [
        (
            example["event_id"],
            example["key"],
            f"{example['source_partition']} {example['source_offset']}",
            example["event_time"],
            f"{example['score']:.4g}",
            f"{example['severity']} {example['lifecycle']}"
            + (f", was {example['was']}" if example["was"] else ""),
            "; ".join(example["reasons"]),
        )
        for example in examples
    ]
    head = ("event", "key", "place", "time", "score", "alert", "reasons")
    return f"<h3>{escape(title)}</h3>{_table(head, rows)}"


def _engine(engine: dict[str, Any]) -> str:
    facts = [
        ("device", engine["device"]),
        ("a batch", f"{engine['batch_rows']:,} events, p50 {engine['batch_ms']['p50']:.1f} ms, "
                    f"p99 {engine['batch_ms']['p99']:.1f} ms: features, model and decision"),
        *((f"µs an event, {stage}", f"{us:.2f}") for stage, us in engine["us_per_event"].items()),
    ]  # fmt: skip
    return f"<h2>Engine</h2>{_facts(facts)}"


def bars(names: Sequence[str], values: Sequence[float], title: str, *, is_log: bool = False) -> str:
    """A bar for each value; names are shown where they have room."""
    if not values:
        return ""
    heights = [math.log10(value + 1) if is_log else float(value) for value in values]
    highest = max(heights) or 1.0
    step = (_WIDTH - _LEFT) / len(values)
    plot = _HEIGHT - _BOTTOM - _TOP
    shapes = []
    for i, (name, value, height) in enumerate(zip(names, values, heights, strict=True)):
        tall = plot * height / highest
        shapes.append(
            f'<rect x="{_LEFT + i * step:.1f}" y="{_TOP + plot - tall:.1f}" width="{max(step - 1, 0.5):.1f}" '
            f'height="{tall:.1f}" fill="{_INK}"><title>{escape(name)}: {value:,.6g}</title></rect>'
        )
    every = max(1, math.ceil(len(names) / 6))
    labels = [_text(_LEFT + i * step, _HEIGHT - 8, name) for i, name in enumerate(names) if i % every == 0]
    top = 10**highest - 1 if is_log else highest
    ticks = [_text(0, _TOP + 8, f"{top:,.0f}"), _text(0, _TOP + plot, "0")]
    return _figure([*shapes, *labels, *ticks], title)


def line(
    points: Iterable[tuple[float, float]],
    title: str,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
) -> str:
    """A line through these points."""
    plot_w, plot_h = _WIDTH - _LEFT - 8, _HEIGHT - _BOTTOM - _TOP

    def place(x: float, y: float) -> str:
        across = (x - x_range[0]) / (x_range[1] - x_range[0])
        up = (y - y_range[0]) / (y_range[1] - y_range[0])
        return f"{_LEFT + across * plot_w:.1f},{_TOP + (1 - up) * plot_h:.1f}"

    path = " ".join(place(x, y) for x, y in points)
    quarters = [k / 4 for k in range(5)]
    shapes = [
        f'<rect x="{_LEFT}" y="{_TOP}" width="{plot_w}" height="{plot_h}" fill="none" stroke="#e2e8f0"/>',
        f'<polyline points="{path}" fill="none" stroke="{_INK}" stroke-width="1.6"/>',
        *(_text(0, _TOP + (1 - k) * plot_h + 4, _between(y_range, k)) for k in quarters),
        *(_text(_LEFT + k * plot_w - 4, _HEIGHT - 8, _between(x_range, k)) for k in quarters),
    ]
    return _figure(shapes, title)


def _figure(shapes: Iterable[str], title: str) -> str:
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">{"".join(shapes)}</svg><figcaption>{escape(title)}</figcaption></figure>'
    )


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _between(ends: tuple[float, float], share: float) -> str:
    return f"{ends[0] + share * (ends[1] - ends[0]):.3g}"


def _plots(plots: Iterable[str]) -> str:
    return f'<div class="plots">{"".join(plots)}</div>'


def _facts(facts: Iterable[tuple[str, Any]]) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in facts)
    return f"<table>{rows}</table>"


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    first = "".join(f"<th>{escape(name)}</th>" for name in head)
    rest = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{first}</tr>{rest}</table>"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _number(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
