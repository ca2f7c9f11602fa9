"""What commands that replay events have in common: where the events come from, and which are of interest."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from confluent_kafka import KafkaException

from feature_cache.store import Store
from worker.assemble import store_opener
from worker.config import ConfigError, Pipeline, load_pipeline
from worker.dlq_commands import since_ms
from worker.exits import Exit
from worker.key_types import parse_duration_us
from worker.logs import configure_logs
from worker.plan import FeaturePlan, feature_plan
from worker.replay import OpenFeed, Period
from worker.replay_files import from_files
from worker.replay_log import from_log
from worker.replay_table import Label
from worker.secret import redact
from worker.service import exit_code

Progress = Callable[[int, int], None]  # events since the last call, and the event time reached


def add_events(parser: argparse.ArgumentParser) -> None:
    """Say where events come from and which are of interest."""
    parser.add_argument("file", type=Path, metavar="FILE", help="pipeline file")
    add_inputs(parser)
    parser.add_argument(
        "--from",
        dest="since",
        type=event_time_us,
        metavar="TIME",
        help="event time: 2026-01-31 (UTC), or 7d: so long ago",
    )
    parser.add_argument(
        "--to", dest="until", type=event_time_us, metavar="TIME", help="event time, not included"
    )
    parser.add_argument(
        "--partitions",
        type=_partitions,
        metavar="0-3,7",
        help="of the topic that the pipeline reads: only these",
    )


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Say which files hold the events."""
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="Parquet or Avro file with the pipeline's events, or with those of the pipeline NAME that it "
        "looks up; may be repeated. Without any, the topics are read",
    )


def add_label(parser: argparse.ArgumentParser) -> None:
    """Say where the truth about events is."""
    parser.add_argument(
        "--label",
        metavar="[NAME.]FIELD",
        help="field with the truth: of the event, or of the one of the same id that the pipeline NAME reads",
    )
    parser.add_argument(
        "--label-delay",
        type=_duration_us,
        default=0,
        metavar="7d",
        help="how long after an event its own label is known",
    )


def period_of(arguments: argparse.Namespace) -> Period:
    """Which events are of interest."""
    everything = Period()
    return Period(
        from_us=everything.from_us if arguments.since is None else arguments.since,
        to_us=everything.to_us if arguments.until is None else arguments.until,
    )


def label_of(arguments: argparse.Namespace, plan: FeaturePlan) -> Label | None:
    """Where the truth is; None: nobody says."""
    if arguments.label is None:
        return None
    return Label.parse(arguments.label, plan, arguments.label_delay)


def feed_of(arguments: argparse.Namespace, pipeline: Pipeline, period: Period) -> OpenFeed:
    """The files that are named, or the log.

    Raises:
        ConfigError: a file is not there, or for a pipeline that is not known.
    """
    if not arguments.input:
        return from_log(pipeline, period, arguments.partitions)
    if arguments.partitions is not None:
        raise ConfigError("--partitions: found --input, expected the log: a file is one partition")
    return files_of(arguments, pipeline)


def files_of(arguments: argparse.Namespace, pipeline: Pipeline) -> OpenFeed:
    """The files that are named.

    Raises:
        ConfigError: a file is not there, or for a pipeline that is not known.
    """
    plan = feature_plan(pipeline)
    names = [pipeline.name, *dict.fromkeys(lookup.owner.name for lookup in plan.lookups)]
    files: dict[str, list[Path]] = {name: [] for name in names}
    for text in arguments.input:
        name, is_named, path = text.partition("=")
        if not is_named or (name not in names and Path(text).exists()):
            name, path = pipeline.name, text
        if name not in names:
            raise ConfigError(f"--input: found pipeline {name!r}, expected {' or '.join(names)}")
        if not Path(path).is_file():
            raise ConfigError(f"--input: found {path!r}, expected a file")
        files[name].append(Path(path))
    label = label_of(arguments, plan) if "label" in arguments else None
    extra = {} if label is None else {label.owner or pipeline.name: [label.field]}
    return from_files(files, extra)


def profile_store(pipeline: Pipeline) -> Store | None:
    """Where profile rows are, read only; None where the pipeline reads none."""
    if not feature_plan(pipeline).profiles:
        return None
    return store_opener()(str(pipeline.state.store))


def guarded(command: Callable[[Pipeline, argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """The command on a loaded file; an error that a person can mend is one line and its exit code."""

    def run(arguments: argparse.Namespace) -> int:
        pipeline = load_pipeline(arguments.file)
        configure_logs(pipeline.secrets, (), is_terminal=sys.stderr.isatty())
        try:
            return command(pipeline, arguments)
        except Exception as error:
            code, said = explained(error)
            print(redact(said, pipeline.secrets), file=sys.stderr)
            return code

    return run


def explained(error: Exception) -> tuple[Exit, str]:
    """The exit code and one line of an error that a person can mend; any other is raised again."""
    code = exit_code(error)
    if code is Exit.BUG:
        raise error
    return code, f"Kafka: {error.args[0].str()}" if isinstance(error, KafkaException) else str(error)


@contextmanager
def progress() -> Iterator[Progress]:
    """Show on a terminal how far a replay has come; elsewhere say nothing."""
    if not sys.stderr.isatty():
        yield lambda _events, _event_us: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} events, at {task.description}"))
    with Bar(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("the beginning", total=None)

        def show(events: int, time_us: int) -> None:
            bar.update(task, advance=events, description=f"{shown_time(time_us):.16s}")

        yield show


def shown_time(time_us: int) -> str:
    """An event time as text, UTC."""
    return datetime.fromtimestamp(time_us / 1_000_000, UTC).isoformat(timespec="seconds")


def event_time_us(text: str) -> int:
    """An event time of the command line, see since_ms."""
    return since_ms(text) * 1000


def positive(text: str) -> int:
    """A whole number of the command line, at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number of at least 1")
    return int(text)


def _duration_us(text: str) -> int:
    try:
        return parse_duration_us(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected 12h, 7d") from error


def _partitions(text: str) -> list[int]:
    found: set[int] = set()
    for part in text.split(","):
        first, is_range, last = part.partition("-")
        if not first.isdecimal() or (is_range and not last.isdecimal()):
            raise argparse.ArgumentTypeError(f"found {text!r}, expected partitions such as 0-3,7")
        found.update(range(int(first), int(last or first) + 1))
    return sorted(found)
