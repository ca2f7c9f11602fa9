"""The `penstock capacity` command."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from worker.capacity import PARTS, Request, Show, measure
from worker.capacity_load import page
from worker.capacity_plan import HEAD_ROOM
from worker.config import Pipeline
from worker.exits import Exit
from worker.replay_arguments import guarded, positive

EXAMPLES = """examples:
  penstock capacity pipelines/fraud.yaml                          what one worker of this machine can do
  penstock capacity pipelines/fraud.yaml --traffic 50000          and how many of them 50,000 events/s need
  penstock capacity pipelines/fraud.yaml --traffic 50000 --hourly-price 0.40 --p99-ms 100
  penstock capacity pipelines/fraud.yaml --events day.parquet --html capacity.html

It takes about two minutes. Nothing that is live is touched: the worker under load has topics, a group and
rows of its own, which are removed at the end. It does use the brokers and the Redis of the file: look at what
else they do, or name others by PENSTOCK_KAFKA and PENSTOCK_STORE. See docs/capacity.md."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser of `penstock capacity` its arguments."""
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="pipeline file")
    add("--traffic", type=_above_0, metavar="RATE", help="events a second to plan for")
    add("--hourly-price", type=_above_0, metavar="PRICE", help="of what one worker runs on, in any currency")
    add("--p99-ms", type=_above_0, metavar="MS", help="latency objective (batching.latency_slo of the file)")
    add(
        "--events",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="Parquet or Avro file with events to send; may be repeated. Default: the newest of the "
        "pipeline's topic, or, where it has none, events made up from the schema",
    )
    add("--keys", type=positive, default=10_000, metavar="N", help="different keys of made-up events (10000)")
    add("--partitions", type=positive, metavar="N", help="of the topics (as many as the pipeline's own has)")
    add("--seconds", type=_above_0, default=10.0, metavar="S", help="length of a step (10)")
    add("--html", type=Path, metavar="FILE", help="write a page with plots")
    add("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(command=guarded(_capacity))


def _capacity(pipeline: Pipeline, arguments: argparse.Namespace) -> int:
    request = Request(
        events=tuple(arguments.events),
        keys=arguments.keys,
        partitions=arguments.partitions,
        seconds=arguments.seconds,
        p99_ms=arguments.p99_ms,
        traffic_per_s=arguments.traffic,
        member_price_per_hour=arguments.hourly_price,
    )
    # Whoever asks us to stop, by Ctrl-C or SIGTERM, gets everything taken down first.
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with progress() as show:
            report = measure(pipeline, request, show)
    finally:
        signal.signal(signal.SIGTERM, previous)
    if arguments.html is not None:
        arguments.html.write_text(page(report))
    print(json.dumps(report) if arguments.json else summary(report))
    return Exit.OK


def summary(report: dict[str, Any]) -> str:
    """The report for a terminal."""
    saturation, machine = report["saturation"], report["machine"]
    where = f"{machine['cpu']}, {machine['cores']} cores (load {machine['load_average']:g} at the end)"
    lines = [
        f"{report['pipeline']}, {report['delivery']}, {report['partitions']} partitions: one worker, {where}"
        + (f", model on {report['device']}" if report["device"] else ""),
        f"{report['events']['source']}, {report['events']['keys']:,} keys",
        "",
        f"saturation  {saturation['events_per_s']:,.0f} events/s"
        + _given(saturation["cpu_us_per_event"], ", {:.1f} µs of CPU an event")
        + _given(report["one_core_per_s"], " (one core: {:,.0f} events/s)")
        + _given(saturation["memory_mb"], ", {:,.0f} MB")
        + f", alerts for {saturation['alerts'] / saturation['events']:.1%} of the events",
        f"bottleneck  {report['bottleneck']['says']}",
        f"stages      {_stages(saturation['stage_share'])}",
    ]
    if report["steps"]:
        lines += ["", *_steps(report["steps"])]
    return "\n".join([*lines, "", *_verdict(report)])


def _steps(steps: list[dict[str, Any]]) -> Iterator[str]:
    yield f"{'load':>6}{'events/s':>12}{'p50 ms':>10}{'p99 ms':>10}{'p99.9 ms':>10}{'CPU µs':>9}{'batch':>8}"
    for step in steps:
        latency, busy = step["latency_ms"], step["busy"]
        cells = [_cell(latency[p], 10, ",.1f") for p in ("p50", "p99", "p99.9")]
        cells += [_cell(busy["cpu_us_per_event"], 9, ",.1f"), _cell(busy["batch_rows"], 8, ",.0f")]
        late = (
            f"  the sender was {step['send_late_ms']['p99']:,.0f} ms late" if step["is_sender_late"] else ""
        )
        missing = f"  not kept up with: {step['unaccounted']:,} unanswered" if not step["is_kept_up"] else ""
        yield f"{step['share']:>6.0%}{step['events_per_s']:>12,.0f}{''.join(cells)}{missing}{late}"


def _verdict(report: dict[str, Any]) -> Iterator[str]:
    objective, limit = report["objective_p99_ms"], report["member_limit_per_s"]
    if objective is None:
        yield "objective   none: see --p99-ms and batching.latency_slo; planned with saturation"
    elif limit is None:
        yield f"objective   p99 of {objective:g} ms: not kept at the lowest load: no number of workers helps"
    else:
        broken = report["objective_broken_at_per_s"]
        yield (
            f"objective   p99 of {objective:g} ms: kept up to {limit:,.0f} events/s"
            + (f", not at {broken:,.0f}" if broken is not None else " and beyond")
        )
    found = report["need"]
    if found is not None:
        members, partitions = found["members"], found["partitions"]
        suffice = partitions == report["partitions"]
        yield (
            f"{found['events_per_s']:,.0f} events/s need {members} worker{'' if members == 1 else 's'}, "
            + (f"{partitions} partitions will do" if suffice else f"and at least {partitions} partitions")
            + f": {found['busiest_events_per_s']:,.0f} for the busiest, planned for "
            f"{found['member_events_per_s']:,.0f} ({1 - HEAD_ROOM:.0%} of {limit:,.0f}; the rest is "
            f"head-room)"
        )
        if report["need_cores"] is not None:
            yield f"the CPU of the workers alone: {report['need_cores']:,.2f} cores, head-room included"
        if found["per_million"] is not None:
            yield f"a million events cost {_money(found['per_million'])} at this traffic" + _given(
                report["per_million_at_full_use"], ", {:.4g} where every worker is used as planned"
            )


def _stages(shares: dict[str, float]) -> str:
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    return ", ".join(f"{stage} {share:.0%}" for stage, share in ordered if share >= 0.005)


def _given(value: float | None, text: str) -> str:
    return "" if value is None else text.format(value)


def _money(value: float) -> str:
    return f"{value:.4g}"


def _cell(value: float | None, width: int, spec: str) -> str:
    return f"{'-' if value is None else format(value, spec):>{width}}"


def _above_0(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number above 0")
    return found


@contextmanager
def progress() -> Iterator[Show]:
    """Show on a terminal which part is running; elsewhere say nothing."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=PARTS, completed=-1)

        def show(part: str) -> None:
            bar.update(task, advance=1, description=part)

        yield show
