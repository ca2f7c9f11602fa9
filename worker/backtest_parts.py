"""A backtest in several processes, each with some of the partitions, and their reports as one."""

from __future__ import annotations

import argparse
import multiprocessing
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path

from confluent_kafka import Consumer

from worker.backtest import STAGES, Ran, backtest, with_changes
from worker.config import ConfigError, Pipeline, load_pipeline
from worker.exits import Exit, StopWorker
from worker.logs import configure_logs
from worker.plan import feature_plan
from worker.replay_arguments import (
    Progress,
    explained,
    feed_of,
    label_of,
    period_of,
    profile_store,
)
from worker.replay_log import reader_config
from worker.source import partition_count


def changed(pipeline: Pipeline, arguments: argparse.Namespace) -> Pipeline:
    """The pipeline with the model and the thresholds that the arguments name; see `with_changes`."""
    return with_changes(pipeline, arguments.model, _thresholds(pipeline, arguments.threshold))


def part(pipeline: Pipeline, arguments: argparse.Namespace, out: Path, show: Progress) -> Ran:
    """The backtest of the partitions that the arguments name, in this process."""
    period = period_of(arguments)
    return backtest(
        pipeline,
        feed_of(arguments, pipeline, period),
        period,
        out,
        label=label_of(arguments, feature_plan(pipeline)),
        profiles=profile_store(pipeline),
        rows=arguments.batch_rows,
        on_events=show,
    )


def parts(pipeline: Pipeline, arguments: argparse.Namespace, out: Path) -> tuple[Ran, list[Path]]:
    """The backtest in `--processes` processes; returns what they did together, and their folders.

    Raises:
        ConfigError: the events are in files.
        StopWorker: one of them could not go on.
    """
    if arguments.input:
        raise ConfigError("--processes: found --input, expected the log: a file is one partition")
    shares = divided(_partitions(pipeline, arguments), arguments.processes)
    folders = [out / f"part-{number}" for number in range(len(shares))]
    options = {name: value for name, value in vars(arguments).items() if name != "command"}
    # Threads of librdkafka and ONNX Runtime do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(shares), mp_context=context) as pool:
        waiting = [
            pool.submit(_in_process, {**options, "partitions": share}, folder)
            for share, folder in zip(shares, folders, strict=True)
        ]
        done = [each.result() for each in waiting]
    for ran in done:
        if not isinstance(ran, Ran):
            raise StopWorker(*ran)
    return together([ran for ran in done if isinstance(ran, Ran)]), folders


def divided(partitions: Sequence[int], shares: int) -> list[list[int]]:
    """Partitions in at most so many shares, none empty, whose sizes differ by one at most."""
    return [list(partitions[number::shares]) for number in range(min(shares, len(partitions)))]


def together(parts: Sequence[Ran]) -> Ran:
    """What several processes did beside each other."""
    whole = Ran(model=parts[0].model, meaning=parts[0].meaning, device=parts[0].device)
    for ran in parts:
        whole.read += ran.read
        whole.scored += ran.scored
        whole.failed += ran.failed
        whole.rejected += ran.rejected
        whole.wall_s = max(whole.wall_s, ran.wall_s)
        whole.batch_rows += ran.batch_rows
        whole.batch_s += ran.batch_s
        for name, events in ran.looked_up.items():  # every part applies all of them
            whole.looked_up[name] = max(whole.looked_up.get(name, 0), events)
    whole.took_s = {stage: sum(ran.took_s.get(stage, 0.0) for ran in parts) for stage in STAGES}
    known_ms = [ran.oldest_produced_ms for ran in parts if ran.oldest_produced_ms >= 0]
    whole.oldest_produced_ms = min(known_ms, default=-1)
    return whole


def _partitions(pipeline: Pipeline, arguments: argparse.Namespace) -> list[int]:
    if arguments.partitions is not None:
        return list(arguments.partitions)
    with closing(Consumer(reader_config(pipeline))) as client:
        return list(range(partition_count(client, pipeline.source.topic)))


def _in_process(options: dict[str, object], folder: Path) -> Ran | tuple[Exit, str]:
    """One part, in a process of its own; an error that a person can mend as code and text."""
    arguments = argparse.Namespace(**options)
    try:
        pipeline = changed(load_pipeline(arguments.file), arguments)
        configure_logs(pipeline.secrets, (), is_terminal=sys.stderr.isatty())
        return part(pipeline, arguments, folder, lambda _events, _event_us: None)
    except Exception as error:
        return explained(error)


def _thresholds(pipeline: Pipeline, given: Sequence[str]) -> dict[str, float]:
    found = {}
    for text in given:
        match = re.fullmatch(r"(?:([^=]+)=)?([-+0-9.eE]+)", text)
        try:
            score = float(match[2]) if match else None
        except ValueError:
            score = None
        if match is None or score is None or pipeline.decision is None:
            expected = "[SEVERITY=]SCORE" if pipeline.decision else "a pipeline with a decision"
            raise ConfigError(f"--threshold: found {text!r}, expected {expected}")
        found[match[1] or next(iter(pipeline.decision.severities))] = score
    return found
