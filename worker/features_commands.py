"""The `penstock features` commands: export a training table, and check what was served for skew."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from worker.config import Pipeline
from worker.exits import Exit
from worker.export import export
from worker.plan import feature_plan
from worker.published import Published, earliest_ms, read_backtest, read_published
from worker.replay import Replay
from worker.replay_arguments import (
    add_events,
    add_label,
    feed_of,
    guarded,
    label_of,
    period_of,
    profile_store,
    progress,
)
from worker.skew import compare, lines, recomputed

EXAMPLES = """examples:
  penstock features export pipelines/fraud.yaml --from 2026-01-01 --label terminal-risk.fraud
  penstock features export pipelines/fraud.yaml --input events.parquet --input terminal-risk=labels.parquet
  penstock features skew pipelines/fraud.yaml --from 1d
"""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Give the parser of `penstock features` its commands."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    plain = argparse.RawDescriptionHelpFormatter

    exported = commands.add_parser(
        "export",
        help="A training table: every feature as of each event.",
        epilog=EXAMPLES,
        formatter_class=plain,
    )
    add_events(exported)
    add_label(exported)
    exported.add_argument(
        "--out", type=Path, default=Path("features.parquet"), help="Parquet file (features.parquet)"
    )
    exported.add_argument("--json", action="store_true", help="for machines")
    exported.set_defaults(command=guarded(_export))

    skew = commands.add_parser(
        "skew",
        help="Compare the features that alerts carry with those that the log gives; 10 if any differ.",
        epilog=EXAMPLES,
        formatter_class=plain,
    )
    add_events(skew)
    skew.add_argument("--served", type=Path, metavar="DIR", help="alerts of a backtest, not those published")
    skew.add_argument("--json", action="store_true", help="for machines")
    skew.set_defaults(command=guarded(_skew))


def _export(pipeline: Pipeline, arguments: argparse.Namespace) -> int:
    period = period_of(arguments)
    with progress() as show:
        done = export(
            pipeline,
            feed_of(arguments, pipeline, period),
            period,
            arguments.out,
            label=label_of(arguments, feature_plan(pipeline)),
            profiles=profile_store(pipeline),
            on_events=show,
        )
    if arguments.json:
        said = {"file": str(arguments.out), "rows": done.rows, "rejected": dict(done.rejected)}
        print(json.dumps(said))
        return Exit.OK
    print(f"{done.rows:,} events with their features are in {arguments.out}")
    if done.rejected:
        reasons = (f"{count:,} {reason}" for reason, count in done.rejected.items())
        print(f"left out: {', '.join(reasons)}")
    return Exit.OK


def _skew(pipeline: Pipeline, arguments: argparse.Namespace) -> int:
    period = period_of(arguments)
    served = _served(pipeline, arguments).within(period, arguments.partitions)
    replay = Replay(pipeline, feed_of(arguments, pipeline, period), period, profiles=profile_store(pipeline))
    with progress() as show:
        found = recomputed(replay, set(served.alerts), show)
    result = compare(served.alerts.values(), found)
    if arguments.json:
        print(json.dumps({**asdict(result), "share": result.share}))
    else:
        print("\n".join(lines(result)))
    return Exit.OK if result.share == 0 else Exit.UNHEALTHY


def _served(pipeline: Pipeline, arguments: argparse.Namespace) -> Published:
    if arguments.served is not None:
        return read_backtest(arguments.served, pipeline.source.topic)
    return read_published(pipeline, earliest_ms(pipeline, period_of(arguments).from_us), alerts_only=True)
