"""What a panel and a dashboard are, and the queries that they ask most."""

from __future__ import annotations

from dataclasses import dataclass

P = 'pipeline=~"$pipeline"'
Query = tuple[str, str]  # PromQL and the legend of its series


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel."""

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    is_stat: bool = False
    warn_at: float | None = None  # where an alert rule has its limit
    may_be_negative: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """One page: rows of panels under a title each; an empty title: none."""

    name: str
    uid: str
    description: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]
    across: int = 3  # panels beside each other


def panel(
    title: str,
    unit: str,
    description: str,
    *queries: Query,
    warn_at: float | None = None,
    negative: bool = False,
) -> Panel:
    """A plot over time."""
    return Panel(
        title=title,
        description=description,
        unit=unit,
        queries=queries,
        warn_at=warn_at,
        may_be_negative=negative,
    )


def stat(title: str, unit: str, description: str, query: str, *, warn_at: float | None = None) -> Panel:
    """One number."""
    return Panel(
        title=title,
        description=description,
        unit=unit,
        queries=((query, ""),),
        is_stat=True,
        warn_at=warn_at,
    )


def rate(name: str, labels: str = "", *, by: str = "pipeline") -> str:
    """Events a second of a counter."""
    more = f", {labels}" if labels else ""
    return f"sum by ({by}) (rate(penstock_{name}{{{P}{more}}}[$__rate_interval]))"


def gauge(name: str, *, by: str = "pipeline", of: str = "max", labels: str = "") -> str:
    """A gauge, the largest of all workers unless said otherwise."""
    more = f", {labels}" if labels else ""
    return f"{of} by ({by}) (penstock_{name}{{{P}{more}}})"


def quantile(q: float, name: str, *, by: str = "pipeline") -> str:
    """A quantile of a histogram."""
    rates = f"sum by ({by}, le) (rate(penstock_{name}_bucket{{{P}}}[$__rate_interval]))"
    return f"histogram_quantile({q:g}, {rates})"


def mean(name: str, *, by: str = "pipeline") -> str:
    """The mean of a histogram."""
    return f"{rate(f'{name}_sum', by=by)} / {rate(f'{name}_count', by=by)}"
