"""What pages are put together from: style, tables, bars and the percentile curve."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from loadgen.plots import Series, axis, nines_axis, plot

STYLE = """
:root { --ink: #1e293b; --soft: #5b6b80; --rule: #e2e8f0; --back: #ffffff; --card: #f8fafc; --bar: #e2e8f0;
--c0: #0f766e; --c1: #c2410c; --c2: #94a3b8; --c3: #1d4ed8; --c4: #7c3aed; --c5: #be185d; --bad: #b91c1c }
@media (prefers-color-scheme: dark) { :root { --ink: #e2e8f0; --soft: #94a3b8; --rule: #2b3a4f;
--back: #0f172a; --card: #152036; --bar: #2b3a4f; --c0: #2dd4bf; --c1: #fb923c; --c2: #64748b; --c3: #60a5fa;
--c4: #c4b5fd; --c5: #f472b6; --bad: #f87171 } }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1220px; margin: 0 auto; padding: 1.5rem 1rem 3rem;
color: var(--ink); background: var(--back) }
h1 { font-size: 1.5rem; margin: .2rem 0 1rem } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem }
p.lead { font-size: 1.05rem; margin: .3rem 0 1rem; max-width: 56rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; margin: .4rem 0 1rem }
td, th { padding: .28rem 1.1rem .28rem 0; text-align: left; vertical-align: top;
border-bottom: 1px solid var(--rule); font-variant-numeric: tabular-nums }
th { font-weight: 600; color: var(--soft); white-space: nowrap }
td.number, th.number { text-align: right; white-space: nowrap }
.bad { color: var(--bad) }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 1rem;
margin-bottom: 1rem }
figure { margin: 0; padding: .8rem .8rem .5rem; background: var(--card); border: 1px solid var(--rule);
border-radius: .5rem }
figcaption { font-weight: 600; margin-bottom: .3rem }
svg { width: 100%; height: auto; display: block }
svg text { font: 12px system-ui, sans-serif; fill: var(--soft) }
svg .x { text-anchor: middle } svg .y, svg .mark-name, svg .last { text-anchor: end }
svg .grid { stroke: var(--rule); fill: none } svg .axis { stroke: var(--soft); fill: none }
svg .line { stroke: var(--c); fill: none; stroke-width: 2; stroke-linejoin: round }
svg .dashed { stroke-dasharray: 5 4 } svg .area { fill: var(--c); opacity: .45 }
svg circle { fill: var(--c); stroke: var(--card); stroke-width: 1.5 }
svg .band { fill: var(--c1); opacity: .12 }
svg .mark { stroke: var(--bad); stroke-dasharray: 2 3; fill: none } svg .mark-name { fill: var(--bad) }
.legend { list-style: none; margin: .2rem 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: .1rem 1rem;
color: var(--soft); font-size: .85rem }
.legend i { display: inline-block; width: 1.3rem; border-top: 3px solid var(--c); vertical-align: middle;
margin-right: .4rem } .legend i.dashed { border-top-style: dashed }
.legend i.filled { border-top-width: .7rem; opacity: .5 }
.bars { display: grid; grid-template-columns: max-content minmax(6rem, 24rem) max-content; gap: .25rem .8rem;
align-items: center; font-variant-numeric: tabular-nums }
.bars .track { background: var(--bar); height: .8rem; border-radius: .2rem; overflow: hidden }
.bars .track div { background: var(--c0); height: 100% }
.bars .value { color: var(--soft) }
"""


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """A table of names and values."""
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f'<div class="scroll"><table>{cells}</table></div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; all but its first column are numbers."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=number' if at else ''}>{escape(cell)}</{tag}>" for at, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{line(head, "th")}</tr>{body}</table></div>'


def plots(figures: Iterable[str]) -> str:
    """Figures beside each other where there is room."""
    return f'<div class="plots">{"".join(figures)}</div>'


def bars(rows: Iterable[tuple[str, float, str]]) -> str:
    """A bar for each: its name, its length as a share of the whole, and what it says."""
    cells = "".join(
        f'<span>{escape(name)}</span><div class="track">'
        f'<div style="width: {min(max(share, 0), 1):.1%}"></div></div>'
        f'<span class="value">{escape(said)}</span>'
        for name, share, said in rows
    )
    return f'<div class="bars">{cells}</div>'


def percentile_curve(curves: Sequence[tuple[str, Mapping[str, Any], int]], title: str = "Percentiles") -> str:
    """Latency by percentile, as far as a stream has events to say it: of 1,000, one is beyond 99.9.

    Args:
        curves: name, report and colour of each stream.
        title: of the figure.
    """
    series, highest = [], 99.0
    for name, stream, colour in curves:
        told = 100 * (1 - 1 / max(stream["scores"], 2))
        points = [(p, ms) for p, ms in stream["latency_curve_ms"] if p <= told]
        if points:
            series.append(
                Series(name=name, points=[(1 / (1 - p / 100), ms) for p, ms in points], colour=colour)
            )
            highest = max(highest, points[-1][0])
    values = [ms for one in series for _, ms in one.points]
    return plot(title, series, nines_axis(highest), axis("ms", values, may_log=True))


def over_time(
    seconds: Mapping[str, Sequence[float | None]],
    title: str = "Latency over time",
    bands: Sequence[tuple[float, float]] = (),
) -> str:
    """p50 and p99 of the events due in each second; bands are shaded, such as those of spikes in traffic."""
    columns = {name: list(enumerate(seconds[f"{name}_ms"])) for name in ("p50", "p99")}
    values = [value for column in columns.values() for _, value in column]
    lines = [
        Series(name=name, points=points, colour=colour)
        for (name, points), colour in zip(columns.items(), (0, 1), strict=True)
    ]
    last = max(1, len(seconds["events"]) - 1)
    return plot(title, lines, axis("seconds", [0, last]), axis("ms", values, may_log=True), bands=bands)


def counted(count: int, noun: str) -> str:
    """One worker, two workers."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def given(value: Any, spec: str, missing: str = "-") -> str:
    """A number, or what stands for none."""
    return missing if value is None else format(value, spec)
