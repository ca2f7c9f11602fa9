"""A backtest by a consumer group: members that come and go divide the partitions, each of which is done once.

Invariants: the group is of this backtest alone, never the pipeline's; a partition is marked as done, by an
offset committed, only after its files are whole and in place; what a member left unfinished, another begins
anew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

import structlog
from confluent_kafka import Consumer, KafkaException, TopicPartition

from worker.backtest import Ran
from worker.backtest_parts import part
from worker.config import ConfigError, Pipeline
from worker.group_offsets import committed_marks
from worker.replay_arguments import Progress
from worker.replay_log import reader_config
from worker.source import partition_count

RAN_FILE = "ran.json"
_ANSWER_S = 10.0
_LOOK_S = 0.5  # between two looks at who is done, while others are at work


class _GivenAway(Exception):
    """The partition went to another member while it was replayed here."""


def group_name(text: str) -> str:
    """A name of the command line that can stand in the name of a group."""
    if not re.fullmatch(r"[A-Za-z0-9._-]+", text):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected letters, digits, '.', '_' or '-'")
    return text


def in_group(pipeline: Pipeline, arguments: argparse.Namespace, out: Path, show: Progress) -> None:
    """Replay partitions as a member of the group, each into a folder of its own, until all of them are done.

    Raises:
        ConfigError: the group is at work on another backtest.
        KafkaException, StopWorker: Kafka does not answer.
    """
    for name in ("input", "partitions"):
        if getattr(arguments, name):
            raise ConfigError(f"--group: found --{name} as well, expected the log and all of its partitions")
    out.mkdir(parents=True, exist_ok=True)
    with closing(Member(pipeline, arguments, out, show)) as member:
        while member.turn():
            pass


class Member:
    """One of those that divide the partitions of a backtest."""

    def __init__(self, pipeline: Pipeline, arguments: argparse.Namespace, out: Path, show: Progress) -> None:
        """Join."""
        self._pipeline, self._arguments, self._out, self._show = pipeline, arguments, out, show
        self._topic, self._what = pipeline.source.topic, _what(pipeline, arguments)
        self._log = structlog.get_logger(group=arguments.group)
        self._mine: set[int] = set()
        config = reader_config(pipeline)
        # What is being replayed stays where it is when somebody joins, as far as that is fair.
        config |= {"partition.assignment.strategy": "cooperative-sticky", "enable.partition.eof": False}
        self._consumer = Consumer({**config, "group.id": group_id(pipeline, arguments.group)})
        self._partitions = range(partition_count(self._consumer, self._topic))
        self._unfinished()  # before anybody is disturbed
        self._consumer.subscribe(
            [self._topic], on_assign=self._gained, on_revoke=self._gave, on_lost=self._gave
        )

    def turn(self) -> bool:
        """Replay one partition, or wait a moment; False: all are done."""
        unfinished = self._unfinished()
        if not unfinished:
            return False
        self._consumer.poll(_LOOK_S)
        ours = sorted(self._mine & unfinished)
        if ours:
            try:
                self._replay(ours[0])
            except _GivenAway:
                self._log.warning("given to another member, who begins it anew", partition=ours[0])
        return True

    def close(self) -> None:
        """Leave; what is unfinished goes to the others."""
        self._consumer.close()

    def _unfinished(self) -> set[int]:
        marks = committed_marks(self._consumer, self._topic, self._partitions, _ANSWER_S)
        for mark in marks:
            if mark.offset >= 0 and mark.metadata != self._what:
                raise ConfigError(
                    f"--group {self._arguments.group}: found a backtest with other arguments, expected the "
                    f"same model, thresholds, period and label (a time such as 7d differs by when it was "
                    f"asked for: give dates); or choose another name"
                )
        return {mark.partition for mark in marks if mark.offset < 0}

    def _replay(self, partition: int) -> None:
        folder = self._out / folder_name(partition)
        making = self._out / f".{folder.name}.{uuid4().hex[:8]}"
        place = TopicPartition(self._topic, partition)
        _, end = self._consumer.get_watermark_offsets(place, timeout=_ANSWER_S)

        def go_on(events: int, event_us: int) -> None:
            self._consumer.poll(0)
            if partition not in self._mine:
                raise _GivenAway
            self._show(events, event_us)

        chosen = argparse.Namespace(**{**vars(self._arguments), "partitions": [partition]})
        try:
            ran = part(self._pipeline, chosen, making, go_on)
            go_on(0, 0)
            (making / RAN_FILE).write_text(json.dumps(asdict(ran)))
            shutil.rmtree(folder, ignore_errors=True)  # of one who died before it said so; the same bytes
            making.rename(folder)
        finally:
            shutil.rmtree(making, ignore_errors=True)
        try:
            mark = TopicPartition(self._topic, partition, end, metadata=self._what)
            self._consumer.commit(offsets=[mark], asynchronous=False)
        except KafkaException as error:  # no member any more: who has it now does it again
            self._log.warning("done, and not noted", partition=partition, error=error.args[0].str())

    def _gained(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        consumer.incremental_assign(partitions)
        consumer.pause(partitions)  # the group says who does what; replays read for themselves
        self._mine |= {each.partition for each in partitions}

    def _gave(self, _: Any, partitions: list[TopicPartition]) -> None:
        self._mine -= {each.partition for each in partitions}


def group_id(pipeline: Pipeline, name: str) -> str:
    """Of the consumer group in Kafka; its prefix is that of the pipeline's own, for access rights."""
    return f"{pipeline.kafka.group}-backtest-{name}"


def folder_name(partition: int) -> str:
    """Where the outcomes of a partition are, under `--out`."""
    return f"partition-{partition}"


def found_parts(out: Path) -> dict[int, Path]:
    """The folders of partitions that are done, by partition."""
    folders = {int(each.name.partition("-")[2]): each for each in out.glob("partition-*")}
    return {partition: folders[partition] for partition in sorted(folders)}


def missing_parts(pipeline: Pipeline, done: Iterable[int]) -> list[int]:
    """Partitions of the topic whose outcomes are elsewhere."""
    with closing(Consumer(reader_config(pipeline))) as client:
        return sorted(set(range(partition_count(client, pipeline.source.topic))) - set(done))


def read_ran(folder: Path) -> Ran:
    """What was done for a partition.

    Raises:
        ConfigError: the folder is not one of a backtest's.
    """
    try:
        written = json.loads((folder / RAN_FILE).read_text())
        return Ran(**{**written, "rejected": Counter(written["rejected"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{folder}: {error}, expected {RAN_FILE} of a backtest by a group") from error


def _what(pipeline: Pipeline, arguments: argparse.Namespace) -> str:
    """What is computed, short: members of one group must be about the same."""
    assert pipeline.model is not None
    severities = list(pipeline.decision.severities.items()) if pipeline.decision else []
    said = (pipeline.name, pipeline.policy_version, pipeline.model.name, pipeline.model.version, severities)
    asked = (arguments.since, arguments.until, arguments.label, arguments.label_delay)
    return hashlib.sha256(repr((said, asked)).encode()).hexdigest()[:16]
