"""The part of a page that is made from a capacity report."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from loadgen.page_parts import bars, counted, facts, given, over_time, percentile_curve, plots, table
from loadgen.plots import Series, axis, plot

_COLOURS = (2, 3, 0, 5, 1)  # from the lowest load to the highest


def capacity(report: Mapping[str, Any]) -> str:
    """Everything below the title."""
    steps = report["steps"]
    parts = [
        f'<p class="lead">{escape(_lead(report))}</p>',
        facts(_facts(report)),
        f"<h2>Latency by load</h2>{_by_load(report)}{_step_table(steps)}" if steps else "",
        f"<h2>Where time goes at saturation</h2>{_busy(report)}",
        f"<h2>Each load over time</h2>{plots(over_time(step['per_second'], _name(step)) for step in steps)}"
        if steps
        else "",
    ]
    return "".join(parts)


def _lead(report: Mapping[str, Any]) -> str:
    saturation, objective, limit = (
        report["saturation"],
        report["objective_p99_ms"],
        report["member_limit_per_s"],
    )
    said = [f"One worker works a backlog off at {saturation['events_per_s']:,.0f} events a second."]
    if objective is not None:
        said.append(
            f"It keeps a p99 of {objective:g} ms up to {limit:,.0f}."
            if limit is not None
            else f"It does not keep a p99 of {objective:g} ms even at the lowest load."
        )
    if report["need"] is not None:
        need = report["need"]
        said.append(
            f"{need['events_per_s']:,.0f} events a second need {counted(need['members'], 'worker')}, "
            + ("" if need["partitions"] == report["partitions"] else "and at least ")
            + f"{counted(need['partitions'], 'partition')}, with 30 % head-room."
        )
    return " ".join(said)


def _facts(report: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    saturation, machine, store, found = (report[name] for name in ("saturation", "machine", "store", "need"))
    yield (
        "machine",
        (
            f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}; "
            f"load {machine['load_average']:g} at the end"
        ),
    )
    model = f", model on {report['device']}" if report["device"] else ""
    yield "pipeline", f"{report['file']}, {report['delivery']}, {report['partitions']} partitions{model}"
    yield "events", f"{report['events']['source']}; {report['events']['keys']:,} keys"
    cpu_us = given(saturation["cpu_us_per_event"], ".1f")
    one_core = given(report["one_core_per_s"], ",.0f")
    yield "CPU", f"{cpu_us} µs an event, all threads of the worker; one core would do {one_core} a second"
    yield "bottleneck", report["bottleneck"]["says"]
    if saturation["memory_mb"] is not None:
        yield "memory", f"{saturation['memory_mb']:,.0f} MB"
    if store is not None:
        yield "Redis", f"{store['bytes_per_key']:,.0f} bytes a key"
    if found is not None:
        yield (
            "planned",
            (
                f"{found['member_events_per_s']:,.0f} events a second for a worker; the busiest gets "
                f"{found['busiest_events_per_s']:,.0f}"
            ),
        )
        if report["need_cores"] is not None:
            yield "by CPU alone", f"{report['need_cores']:,.2f} cores for the workers, head-room included"
        if found["per_million"] is not None:
            yield "a million events", f"{found['per_million']:.4g} at this traffic"


def _by_load(report: Mapping[str, Any]) -> str:
    steps, objective = report["steps"], report["objective_p99_ms"]
    lines = [
        Series(
            name=name,
            points=[(step["events_per_s"], step["latency_ms"][name]) for step in steps],
            colour=colour,
            has_dots=True,
        )
        for name, colour in (("p50", 0), ("p99", 1), ("p99.9", 4))
    ]
    values = [value for line in lines for _, value in line.points]
    mark = None if objective is None else (float(objective), f"objective {objective:g} ms")
    highest = max(step["events_per_s"] for step in steps)
    figures = [
        plot(
            "Latency by load",
            lines,
            axis("events a second", [highest]),
            axis("ms", [*values, objective], may_log=True),
            mark=mark,
        ),
        percentile_curve(
            [(_name(step), step, _COLOURS[at % 5]) for at, step in enumerate(steps)],
            "Percentiles by load",
        ),
    ]
    return plots(figures)


def _step_table(steps: Sequence[Mapping[str, Any]]) -> str:
    head = (
        "load",
        "events/s",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "CPU µs an event",
        "batch",
        "alerts",
        "kept up with",
    )
    rows = []
    for step in steps:
        latency, busy = step["latency_ms"], step["busy"]
        kept = "yes" if step["is_kept_up"] else f"no: {step['unaccounted']:,} unanswered"
        late = f"; sender {step['send_late_ms']['p99']:,.0f} ms late" if step["is_sender_late"] else ""
        rows.append(
            (
                f"{step['share']:.0%}",
                f"{step['events_per_s']:,.0f}",
                *(given(latency[p], ",.1f") for p in ("p50", "p99", "p99.9")),
                given(busy["cpu_us_per_event"], ",.1f"),
                given(busy["batch_rows"], ",.0f"),
                f"{step['alerts'] / max(step['events'], 1):.1%}",
                kept + late,
            )
        )
    return table(head, rows)


def _busy(report: Mapping[str, Any]) -> str:
    busy = report["saturation"]
    cores, of = busy["cores"], busy["cores"]["of"]
    used = [
        (name, cores[name] / of, f"{cores[name]:.2f} cores")
        for name in ("worker", "brokers", "redis", "machine")
        if cores[name] is not None
    ]
    stages = sorted(busy["stage_share"].items(), key=lambda item: -item[1])
    shown = [(stage, share, f"{share:.1%}") for stage, share in stages if share >= 0.001]
    return (
        f"<h3>Cores used, of {of}</h3>{bars(used)}<p>machine: everybody on it together; brokers: those that "
        f"run here.</p><h3>The worker's loop, by stage</h3>{bars(shown)}<p>poll: waiting for records, and "
        "taking them.</p>"
    )


def _name(step: Mapping[str, Any]) -> str:
    return f"{step['share']:.0%}: {step['events_per_s']:,.0f} events/s"
