"""The `penstock backtest` command."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worker.backtest import STAGES, Ran
from worker.backtest_group import found_parts, group_name, in_group, missing_parts, read_ran
from worker.backtest_page import page
from worker.backtest_parts import changed, part, parts, together
from worker.backtest_report import QualityRows, difference, quality, read_outcomes, volume
from worker.config import ConfigError, Pipeline
from worker.exits import Exit
from worker.published import Published, read_backtest, read_published
from worker.replay_arguments import (
    add_events,
    add_label,
    event_time_us,
    guarded,
    period_of,
    positive,
    progress,
    shown_time,
)

REPORT_FILE, PAGE_FILE = "report.json", "report.html"
EXAMPLES = """examples:
  penstock backtest pipelines/fraud.yaml --from 2026-01-01 --to 2026-02-01 --model fraud/3
  penstock backtest pipelines/fraud.yaml --from 7d --threshold warning=0.4 --label terminal-risk.fraud
  penstock backtest pipelines/fraud.yaml --input events.parquet --input terminal-risk=labels.parquet
  penstock backtest pipelines/fraud.yaml --group may --out shared    as often, and where, as you like

Nothing that is live is touched: no topic is written, no offset of the pipeline committed, no row stored.
Written, in --out, are scores.parquet, alerts.parquet, report.json and report.html. See docs/backtest.md."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser of `penstock backtest` its arguments."""
    add_events(parser)
    parser.add_argument("--model", metavar="NAME/VERSION", help="another model of the repository")
    parser.add_argument(
        "--threshold",
        action="append",
        default=[],
        metavar="[SEVERITY=]SCORE",
        help="another threshold, of the least urgent severity where none is named; may be repeated",
    )
    add_label(parser)
    parser.add_argument(
        "--quality-from", type=event_time_us, metavar="TIME", help="measure quality on events from here on"
    )
    parser.add_argument(
        "--without-known-since",
        type=event_time_us,
        metavar="TIME",
        help="measure quality without keys that had a positive since TIME, once that is known, from the next "
        "day on: such a card is blocked",
    )
    parser.add_argument(
        "--against",
        metavar="DIR",
        help="what to compare with: the folder of another backtest, or none; default: what was published, "
        "where the events are read from the topic",
    )
    parser.add_argument("--out", type=Path, default=Path("backtest"), metavar="DIR", help="default: backtest")
    parser.add_argument("--batch-rows", type=positive, default=8192, help="events computed together (8192)")
    parser.add_argument(
        "--processes",
        type=positive,
        default=1,
        metavar="N",
        help="divide the partitions among so many (1)",
    )
    parser.add_argument(
        "--group",
        type=group_name,
        metavar="NAME",
        help="divide the partitions with everyone who gives the same name, here or on other machines",
    )
    parser.add_argument(
        "--join", action="store_true", help="only report on the partitions that groups have put into --out"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(command=guarded(_backtest))


def _backtest(pipeline: Pipeline, arguments: argparse.Namespace) -> int:
    pipeline = changed(pipeline, arguments)
    folders = [arguments.out]
    if arguments.group or arguments.join:
        if arguments.group:
            with progress() as show:
                in_group(pipeline, arguments, arguments.out, show)
        done = found_parts(arguments.out)
        if missing := missing_parts(pipeline, done):
            print(_told_missing(missing, arguments), file=sys.stderr)
            return Exit.OK if arguments.group else Exit.USAGE
        folders = list(done.values())
        ran = together([read_ran(folder) for folder in folders])
    elif arguments.processes > 1:
        ran, folders = parts(pipeline, arguments, arguments.out)
    else:
        with progress() as show:
            ran = part(pipeline, arguments, arguments.out, show)
    which = QualityRows(from_us=arguments.quality_from, known_since_us=arguments.without_known_since)
    report = {
        "pipeline": pipeline.name,
        "policy_version": str(pipeline.policy_version),
        "model": ran.model,
        "thresholds": dict(pipeline.decision.severities) if pipeline.decision else {},
        "from": None if arguments.since is None else shown_time(arguments.since),
        "to": None if arguments.until is None else shown_time(arguments.until),
        "input": arguments.input or [f"topic {pipeline.source.topic}"],
        "label": arguments.label,
        "rejected": dict(ran.rejected),
        "engine": engine(ran),
        **measures(pipeline, ran, arguments, folders, which),
    }
    (arguments.out / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n")
    (arguments.out / PAGE_FILE).write_text(page(report))
    print(json.dumps(report) if arguments.json else summary(report, arguments.out))
    return Exit.OK


def _told_missing(partitions: Sequence[int], arguments: argparse.Namespace) -> str:
    names = ", ".join(map(str, partitions))
    return (
        f"{arguments.out}: found no outcomes of partitions {names}, which other members have: bring all "
        f"folders partition-* here, then: penstock backtest {arguments.file} --out {arguments.out} --join, "
        f"with the other options as before"
    )


def measures(
    pipeline: Pipeline, ran: Ran, arguments: argparse.Namespace, folders: Sequence[Path], which: QualityRows
) -> dict[str, Any]:
    """What the files of a backtest say.

    Raises:
        ConfigError: no event of the period was found.
    """
    found = read_outcomes(folders)
    if found is None:
        raise ConfigError(
            f"found no event of this period among {ran.read:,} that were read, expected some: are --from and "
            f"--to event times?"
        )
    published = _published(pipeline, ran, arguments)
    if published is not None:
        published = published.within(period_of(arguments), arguments.partitions)
    return {
        "volume": volume(found),
        "quality": quality(found, which, ran.meaning),
        "published": None if published is None else difference(found, published, folders),
    }


def _published(pipeline: Pipeline, ran: Ran, arguments: argparse.Namespace) -> Published | None:
    if arguments.against == "none" or (arguments.against is None and arguments.input):
        return None
    if arguments.against is None:
        return read_published(pipeline, max(ran.oldest_produced_ms, 0))
    folder = Path(arguments.against)
    try:
        return read_backtest(folder, pipeline.source.topic)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--against: {error}") from error


def engine(ran: Ran) -> dict[str, Any]:
    """How fast it went, stage by stage."""
    batch_ms = np.array(ran.batch_s) * 1000
    full = batch_ms[np.array(ran.batch_rows) >= max(ran.batch_rows, default=0) / 2]
    seconds = ran.wall_s
    return {
        "read": ran.read,
        "scored": ran.scored,
        "failed": ran.failed,
        "looked_up": ran.looked_up,
        "device": ran.device,
        "seconds": seconds,
        "events_per_s": ran.read / seconds if seconds else 0.0,
        "us_per_event": {stage: ran.took_s.get(stage, 0.0) / max(ran.read, 1) * 1e6 for stage in STAGES},
        "batch_rows": int(np.median(ran.batch_rows)) if ran.batch_rows else 0,
        "batch_ms": {
            name: float(np.percentile(full, share)) if len(full) else 0.0
            for name, share in (("p50", 50), ("p99", 99))
        },
    }


def summary(report: dict[str, Any], out: Path) -> str:
    """The report for a terminal, in a few lines."""
    ran, said, published = report["engine"], report["quality"], report["published"]
    kinds = "".join(f", {count:,} {kind}" for kind, count in report["volume"]["alerts_by_kind"].items())
    lines = [
        f"{report['pipeline']} with {report['model']}: {ran['scored']:,} events scored in "
        f"{ran['seconds']:.1f} s ({ran['read']:,} read, {ran['events_per_s']:,.0f} a second)",
        f"{report['volume']['alerts']:,} alerts{kinds}",
    ]
    if report["rejected"]:
        reasons = (f"{count:,} {reason}" for reason, count in report["rejected"].items())
        lines.append(f"not scored: {', '.join(reasons)}")
    if said is not None:
        figures = {name: value for name, value in said.items() if isinstance(value, int | float)}
        lines.append(
            "quality: "
            + ", ".join(
                f"{name.replace('_', ' ')} {f'{value:,}' if isinstance(value, int) else f'{value:.4f}'}"
                for name, value in figures.items()
            )
        )
    if published is not None:
        scores, alerts, features = published["scores"], published["alerts"], published["features"]
        lines += [
            f"published: {scores['compared']:,} scores compared, {scores['differ']:,} differ, by at most "
            f"{scores['largest_difference']:.3g}",
            f"alerts: {alerts['same']:,} the same, {alerts['appear']:,} appear, {alerts['vanish']:,} vanish, "
            f"{alerts['change']:,} change",
            f"features of published alerts: {features['compared']:,} compared, {features['differ']:,} differ",
        ]
    lines.append(f"report: {out / PAGE_FILE}")
    return "\n".join(lines)
