"""A filled topic, a self-contained fraud pipeline, and the outcomes read back from Kafka."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.workers import create_topics, pipeline_file, running, topics_of
from schemas.codec import Codec
from schemas.schema import load_schema
from schemas.table import to_table

START_MS = 1_760_000_000_000  # 2025-10-09
PARTITIONS = 6
STREAM_EVENTS, STREAM_PARTS, STREAM_SEED = 9_000, 3, 41  # of a Stream
# The broker waits this long for a killed member before it gives its lanes to another; its least is 6 s.
SOON_MISSED = {"properties": {"session.timeout.ms": 6000, "heartbeat.interval.ms": 1000}}
Place = tuple[int, int]  # source partition and offset: what identifies a record whatever it says


def transactions(
    count: int, *, seed: int = 0, customers: int = 200, odd_share: float = 0.0, odd_amount: float = 0.0
) -> tuple[list[bytes], list[bytes]]:
    """Keys and values of transactions over forty days, in event-time order; a share has the odd amount."""
    rng = np.random.default_rng(seed)
    schema = load_schema("transaction")
    customer = [f"C{i}" for i in rng.integers(0, customers, count).tolist()]
    table = to_table(
        schema,
        {
            "transaction_id": [f"{seed}-{i}" for i in range(count)],
            "event_time": np.sort(rng.integers(0, 40 * 86_400_000, count)) + START_MS,
            "customer_id": customer,
            "terminal_id": [f"T{i}" for i in rng.integers(0, 300, count).tolist()],
            "amount": np.where(
                np.random.default_rng(seed + 1).random(count) < odd_share,
                odd_amount,
                np.round(rng.gamma(2.0, 40.0, count), 2),
            ),
        },
    )
    return [key.encode() for key in customer], Codec(schema, "single_object").encode(table)


def fill(kafka: str, topic: str, keys: list[bytes], values: list[bytes]) -> None:
    """Produce records and wait until all are acknowledged."""
    failed: list[str] = []
    producer = Producer(
        {
            "bootstrap.servers": kafka,
            "partitioner": "murmur2_random",
            "enable.idempotence": True,
            "linger.ms": 5,
            "delivery.report.only.error": True,
            "on_delivery": lambda error, _: failed.append(str(error)),
        }
    )
    for key, value in zip(keys, values, strict=True):
        while True:
            try:
                producer.produce(topic, value, key)
                break
            except BufferError:
                producer.poll(0.05)
    assert producer.flush(60) == 0
    assert not failed, failed[:3]


def alone(folder: Path, prefix: str, **sections: dict[str, Any]) -> Path:
    """The fraud pipeline without its lookup: the terminal's features are windows of the customer's own.

    Nothing but the input topic then decides a score, so two workers can be compared exactly.
    """

    def change(document: dict[str, Any]) -> None:
        document["features"]["terminal"] = dict(document["features"]["customer"])
        document["decision"]["severities"] = {"warning": 0.2, "critical": 0.6}
        for name, section in sections.items():
            document[name] = {**(document.get(name) or {}), **section}

    return pipeline_file("fraud", folder, prefix, change)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """What can be read (committed) from the output topics, by place in the source."""

    scores: dict[Place, float] = field(default_factory=dict)
    flags: dict[Place, tuple[bool, bool, bool]] = field(default_factory=dict)
    alerts: dict[Place, tuple[str, str]] = field(default_factory=dict)
    reasons: dict[Place, list[tuple[str, float | None]]] = field(default_factory=dict)  # and contributions
    dead_letters: dict[Place, str] = field(default_factory=dict)
    times_seen: Counter[Place] = field(default_factory=Counter)
    ids: dict[Place, str] = field(default_factory=dict)
    changed: list[Place] = field(default_factory=list)  # repeated with another score or event id

    @property
    def doubled(self) -> list[Place]:
        """Records with more than one outcome."""
        return [place for place, times in self.times_seen.items() if times > 1]


class Reader:
    """Reads the outputs of a pipeline from their beginning, as far as they are committed."""

    def __init__(self, kafka: str, prefix: str, pipeline: str = "fraud") -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": kafka,
                "group.id": f"{prefix}reader",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 20,
            }
        )
        self._kinds = {f"{prefix}{pipeline}.{kind}": kind for kind in ("scores", "alerts", "dead-letters")}
        self._codecs = {kind: Codec(load_schema(kind[:-1]), "single_object") for kind in ("scores", "alerts")}
        self.outcomes = Outcomes()
        self._next_offset: dict[tuple[str, int], int] = {}
        topics = self._consumer.list_topics(timeout=10).topics
        self._consumer.assign(
            [TopicPartition(topic, p, 0) for topic in self._kinds for p in topics[topic].partitions]
        )

    def read(self, wait_s: float = 0.2) -> int:
        """Take what is there; returns how many records."""
        messages = [m for m in self._consumer.consume(5000, wait_s) if self._is_new(m)]
        for kind in ("scores", "alerts", "dead-letters"):
            here = [m for m in messages if self._kinds[m.topic()] == kind]
            if kind == "dead-letters":
                self._note_dead_letters(here)
            elif here:
                self._note(kind, self._codecs[kind].decode([m.value() for m in here]).table.to_pylist())
        return len(messages)

    def _is_new(self, message: Any) -> bool:
        """Whether it is a record not seen before: a client may give some again when its broker comes back."""
        if message.error() is not None:
            return False
        place = message.topic(), message.partition()
        is_new = message.offset() >= self._next_offset.get(place, 0)
        if is_new:
            self._next_offset[place] = message.offset() + 1
        return bool(is_new)

    def read_until(self, enough: Callable[[Outcomes], bool], timeout_s: float = 90.0) -> Outcomes:
        """Read until the outcomes are enough; fails when they are not in time."""
        deadline_s = time.monotonic() + timeout_s
        while not enough(self.outcomes):
            assert time.monotonic() < deadline_s, (
                f"{len(self.outcomes.times_seen)} outcomes after {timeout_s} s"
            )
            self.read()
        return self.outcomes

    def read_all(self, count: int, timeout_s: float = 90.0) -> Outcomes:
        """Read until `count` records have an outcome, and then whatever still comes."""
        self.read_until(lambda found: len(found.times_seen) >= count, timeout_s)
        while self.read(0.5):
            pass
        return self.outcomes

    def scores(self, count: int, timeout_s: float = 90.0) -> list[dict[str, Any]]:
        """The first `count` score records as they are, instead of as outcomes."""
        return self.scores_and_alerts(count, timeout_s)[0]

    def scores_and_alerts(
        self, count: int, timeout_s: float = 90.0
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The first `count` score records, and the alerts that came with them, as they are."""
        found: dict[str, list[dict[str, Any]]] = {"scores": [], "alerts": []}
        deadline_s = time.monotonic() + timeout_s
        is_more = True
        while len(found["scores"]) < count or is_more:
            assert time.monotonic() < deadline_s, (
                f"{len(found['scores'])} of {count} scores after {timeout_s} s"
            )
            messages = [m for m in self._consumer.consume(5000, 0.2) if m.error() is None]
            is_more = bool(messages)
            for kind, codec in self._codecs.items():
                if values := [m.value() for m in messages if self._kinds[m.topic()] == kind]:
                    found[kind] += codec.decode(values).table.to_pylist()
        return found["scores"], found["alerts"]

    def close(self) -> None:
        """Let go of the connection."""
        self._consumer.close()

    def _note(self, kind: str, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            place = (row["source_partition"], row["source_offset"])
            if kind == "alerts":
                self.outcomes.alerts[place] = (row["severity"], row["lifecycle"])
                told = [(reason["feature"], reason["contribution"]) for reason in row["reasons"]]
                self.outcomes.reasons[place] = told
                continue
            self.outcomes.times_seen[place] += 1
            said = (row["event_id"], row["score"])
            first = (self.outcomes.ids.get(place), self.outcomes.scores.get(place))
            if self.outcomes.times_seen[place] > 1 and said != first:
                self.outcomes.changed.append(place)
            self.outcomes.ids[place], self.outcomes.scores[place] = said
            self.outcomes.flags[place] = (row["late"], row["incomplete"], row["degraded"])

    def _note_dead_letters(self, messages: list[Any]) -> None:
        for message in messages:
            headers = dict(message.headers())
            place = (
                int(headers["penstock.source.partition"]),
                int(headers["penstock.source.offset"]),
            )
            self.outcomes.times_seen[place] += 1
            self.outcomes.dead_letters[place] = headers["penstock.reason"].decode()


class Stream:
    """Records sent in parts, and the outcomes awaited part by part."""

    def __init__(self, kafka: str, prefix: str, reader: Reader) -> None:
        self.records = transactions(STREAM_EVENTS, seed=STREAM_SEED)
        self._kafka, self._topic, self._reader = kafka, f"{prefix}transactions", reader
        self._sent = 0

    def send(self) -> None:
        """Send the next part."""
        end = self._sent + STREAM_EVENTS // STREAM_PARTS
        fill(self._kafka, self._topic, *(part[self._sent : end] for part in self.records))
        self._sent = end

    def wait(self) -> Outcomes:
        """Wait until everything sent has an outcome."""
        return self._reader.read_all(self._sent, timeout_s=120)


def undisturbed(
    kafka: str,
    env: dict[str, str],
    folder: Path,
    values: tuple[list[bytes], list[bytes]],
    partitions: int = PARTITIONS,
) -> Outcomes:
    """What one worker that nobody disturbs gives for the same records."""
    prefix = f"calm-{time.time_ns()}."
    create_topics(kafka, topics_of(prefix, partitions))
    fill(kafka, f"{prefix}transactions", *values)
    calm = folder / "calm"
    calm.mkdir()
    opened = Reader(kafka, prefix)
    with running([[alone(calm, prefix)]], calm, env):
        outcomes = opened.read_all(len(values[0]))
    opened.close()
    return outcomes


def assert_same(found: Outcomes, expected: Outcomes, events: int) -> None:
    """Every record exactly once, with the undisturbed score, flags and alerts, to the last bit."""
    assert len(found.times_seen) == events
    assert found.doubled == []
    assert found.scores == expected.scores
    assert found.flags == expected.flags
    assert found.alerts == expected.alerts
    assert found.reasons == expected.reasons
    assert all(told and told[0][1] is not None for told in found.reasons.values())
