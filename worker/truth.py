"""Joins labels with scores and alerts beside the scoring loop, and publishes how good the scores were."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import structlog
from confluent_kafka import KafkaException

from feature_cache.cases import Cases, Fact
from feature_cache.store import StoreUnavailableError
from schemas.codec import Codec
from schemas.registry import RegistryError
from worker.decide import DecisionPolicy
from worker.exits import StopWorker
from worker.facts import FactPlan, Taken, alert_facts, label_facts, score_facts
from worker.truth_apply import Partition, apply_facts
from worker.truth_metrics import TruthMeter
from worker.truth_reader import Reader
from worker.truth_rows import current_rows
from worker.truth_topic import FiguresTopic, Row, key_of

CHUNK = 500  # records a turn: what is in memory, and how long a script may keep the store
_WAIT_S = 0.25
_AGAIN_S = 0.5
_COMMIT_S = 5.0
_SURELY_S = 60.0  # published so often even if nothing has changed: another member may have written older ones
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TruthParts:
    """What the join of one pipeline is made of."""

    pipeline: str
    plan: FactPlan
    policy: DecisionPolicy | None
    codecs: Mapping[str, Codec]  # of each topic
    kinds: Mapping[str, str]  # of each topic: score, alert, label
    scores_topic: str
    cases: Cases
    meter: TruthMeter
    open_reader: Callable[[threading.Event], Reader]
    figures: FiguresTopic


class TruthJoin:
    """The join of one pipeline, as one member of its group; one thread runs it."""

    def __init__(self, parts: TruthParts) -> None:
        self.name = f"{parts.pipeline}-truth"
        self._parts = parts
        self._log = structlog.get_logger(pipeline=parts.pipeline)
        self._published: dict[str, Row] | None = None  # None: somebody else does
        self._keys: set[str] = set()  # that the topic has
        self._looked_s = self._published_s = self._committed_s = -float("inf")

    def run(self, stop: threading.Event) -> None:
        """Read, join and publish until stop.

        Raises:
            StopWorker, KafkaException, StoreRefusedError: it cannot go on.
        """
        reader = self._parts.open_reader(stop)
        reader.subscribe()
        try:
            while not stop.is_set():
                messages = reader.poll(CHUNK, _WAIT_S)
                if messages:
                    self._join(reader, messages, stop)
                now_s = time.monotonic()
                if now_s - self._committed_s > _COMMIT_S:
                    self._committed_s = now_s
                    reader.commit()
                self._look(reader, now_s)
        finally:
            reader.close()
            self._parts.figures.close()

    def _join(self, reader: Reader, messages: list[Any], stop: threading.Event) -> None:
        by_topic: dict[str, list[Any]] = {}
        ends: dict[Partition, int] = {}
        for message in messages:
            by_topic.setdefault(message.topic(), []).append(message)
            partition = message.topic(), message.partition()
            ends[partition] = max(message.offset() + 1, ends.get(partition, 0))
        for topic, here in by_topic.items():
            counted = partial(self._parts.meter.applied, self._parts.kinds[topic])
            facts = _patiently(partial(self._facts, topic, here), stop, self._log)
            if facts is None:
                return
            give = partial(apply_facts, self._parts.cases, facts, reader.marks, ends, reader.name, counted)
            is_whole = _patiently(give, stop, self._log)
            if is_whole is None:
                return
            if not is_whole:
                self._read_again(reader)
                return
        reader.next_offset.update(ends)

    def _facts(self, topic: str, messages: list[Any]) -> list[tuple[Partition, Fact]]:
        taken = self._taken(topic, messages)
        kind = self._parts.kinds[topic]
        for reason, count in taken.rejected.items():
            self._parts.meter.rejected(kind, count)
            self._log.info("truth passes over records", kind=kind, reason=reason, records=count)
        return [
            ((topic, messages[row].partition()), fact)
            for row, fact in zip(taken.rows, taken.facts, strict=True)
        ]

    def _taken(self, topic: str, messages: list[Any]) -> Taken:
        codec, plan = self._parts.codecs[topic], self._parts.plan
        values = [m.value() for m in messages]
        now_ms = time.time_ns() // 1_000_000
        made_ms = [at if (at := m.timestamp()[1]) > 0 else now_ms for m in messages]
        if self._parts.kinds[topic] == "label":
            return label_facts(codec, values, made_ms, [(m.partition(), m.offset()) for m in messages], plan)
        read = score_facts if self._parts.kinds[topic] == "score" else alert_facts
        return read(codec, values, made_ms, plan)

    def _read_again(self, reader: Reader) -> None:
        self._parts.meter.read_again()
        self._log.warning("truth reads again", why="the store has lost some of what it was given")
        reader.read_again()

    def _look(self, reader: Reader, now_s: float) -> None:
        """Now and then: see whether the store has all that we gave it, and publish the figures if so."""
        parts = self._parts
        if now_s - self._looked_s < parts.plan.truth.publish_interval_ms / 1000:
            return
        self._looked_s = now_s
        try:
            if not reader.is_whole():
                self._read_again(reader)
            elif reader.owns(parts.scores_topic, 0):
                self._publish(now_s)
            elif self._published is not None:  # somebody else does from now on
                self._published = None
                parts.meter.show([])
        except StoreUnavailableError as error:
            self._log.warning("truth waits", why=str(error))

    def _publish(self, now_s: float) -> None:
        """Publish and show the figures: who has the first partition of the scores does."""
        parts = self._parts
        now_us = time.time_ns() // 1000
        rows = current_rows(parts.cases, parts.plan.truth, parts.policy, parts.pipeline, now_us)
        parts.meter.show(rows)
        if self._published is None:
            try:
                self._published, self._keys = {}, parts.figures.keys()
            except (StopWorker, KafkaException) as error:  # at the start it was there: it comes back
                self._log.warning("figures of truth not published", why=str(error))
                return
        told = {key_of(row): row for row in rows}
        if _undated(told) != _undated(self._published) or now_s - self._published_s > _SURELY_S:
            if parts.figures.publish(rows, self._keys - told.keys()):
                self._published, self._published_s, self._keys = told, now_s, set(told)
            else:
                self._log.warning("figures of truth not published", topic=parts.plan.truth.topic)


def _undated(rows: dict[str, Row]) -> dict[str, Row]:
    return {key: {**row, "computed_at": 0} for key, row in rows.items()}


def _patiently(call: Callable[[], Result], stop: threading.Event, log: Any) -> Result | None:
    """Call until the store, or the schema registry, answers; None: we are to stop before it does."""
    waits = False
    while True:
        try:
            return call()
        except (StoreUnavailableError, RegistryError) as error:
            if not waits:
                log.warning("truth waits", why=str(error))
            waits = True
        if stop.wait(_AGAIN_S):
            return None
