"""Which model version serves: changes on a Kafka topic, and the one decision that all readers draw from them.

The topic has one partition, so every reader sees changes in one order. A change says which revision it was
made from, in its number: it is in force if that was the last one, and is passed over if another change came
before it. So two people, or two guards, cannot both be right, and every worker that has read as far knows the
same routing. Changes have keys of their own and survive compaction: they are the history, too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any
from uuid import uuid4

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from worker.source import NO_TOPIC

ACTIONS = ("promote", "canary", "shadow", "rollback", "pin", "unpin")
_PARTITION = 0
_REMEMBERED = 10  # versions that rollbacks can go to, one after the other
_ANSWER_WITHIN_S = 20.0


class ControlError(Exception):
    """A change that cannot be made, or a topic that does not answer: what was found, what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """Which version scores which event."""

    champion: str  # scores every event that the challenger does not
    challenger: str | None = None
    is_shadow: bool = False  # the challenger's scores go to their own topic and decide nothing
    share: float = 0.0  # of the keys that the challenger scores, by a hash that never changes: 0 to 1
    before: tuple[str, ...] = ()  # the champions before this one, the last one last: where a rollback goes
    is_pinned: bool = False  # no poll of the repository changes it


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One line of the history."""

    pipeline: str
    revision: int  # one more than that of the change it was made from
    action: str  # one of ACTIONS
    routing: Routing
    by: str
    why: str
    at_ms: int

    def encode(self) -> bytes:
        """As JSON, to be read by people as well."""
        return json.dumps(asdict(self)).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What one worker says of itself."""

    pipeline: str
    worker: str
    revision: int  # of the routing that it has taken up
    champion: str
    challenger: str | None
    refused: str  # why it does not serve the newest revision; "": it does
    at_ms: int

    def encode(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self)).encode()


def decode(value: bytes) -> Change | Status:
    """A record of the topic.

    Raises:
        ValueError: it is none of ours.
    """
    try:
        written = json.loads(value)
        if "worker" in written:
            return Status(**_known(Status, written))
        known = _known(Routing, written["routing"])
        routing = Routing(**{**known, "before": tuple(known["before"])})
        return Change(**{**_known(Change, written), "routing": routing})
    except (TypeError, KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"no record of the control topic: {error}") from error


def _known(kind: type[Change | Routing | Status], written: Mapping[str, Any]) -> dict[str, Any]:
    """Without what a newer version of ours has added: the change counts all the same."""
    return {field.name: written[field.name] for field in fields(kind) if field.name in written}


@dataclass(slots=True)
class Decided:
    """What has been read of the topic, and what follows from it."""

    changes: dict[str, list[Change]]  # of each pipeline those in force, the last one last
    statuses: dict[tuple[str, str], Status]  # by pipeline and worker
    passed_over: int = 0  # changes made from a revision that was not the last any more

    def take(self, key: bytes, value: bytes | None) -> Change | None:
        """Take in one record; returns a change that is in force from now on.

        Raises:
            ValueError: see `decode`; nothing has changed.
        """
        if value is None:  # a worker that has left
            kind, pipeline, worker = (*key.decode(errors="replace").split(" "), "", "")[:3]
            if kind == "status":
                self.statuses.pop((pipeline, worker), None)
            return None
        record = decode(value)
        if isinstance(record, Status):
            self.statuses[record.pipeline, record.worker] = record
            return None
        history = self.changes.setdefault(record.pipeline, [])
        # A topic whose beginning is gone begins with whatever is left.
        if history and record.revision != history[-1].revision + 1:
            self.passed_over += 1
            return None
        history.append(record)
        return record

    def routing(self, pipeline: str) -> Change | None:
        """The change that is in force; None: there was none, and the pipeline file decides."""
        history = self.changes.get(pipeline)
        return history[-1] if history else None

    def in_force(self, pipeline: str, at_start: str) -> Routing:
        """What serves: by the last change, or as long as there is none the version of the pipeline file."""
        last = self.routing(pipeline)
        return last.routing if last else Routing(champion=at_start)


class ControlLog:
    """Reads the topic from its beginning and goes on; a topic that is not there yet is empty."""

    def __init__(self, properties: Mapping[str, Any], topic: str) -> None:
        self.topic = topic
        self.decided = Decided({}, {})
        self._log = structlog.get_logger(topic=topic)
        self._consumer = Consumer(
            {
                **properties,
                "group.id": "penstock-control",  # never joined: the partition is assigned by hand
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 100,
                "log_level": 2,
            }
        )
        self._next = 0
        self._assign()

    def _assign(self) -> None:
        self._consumer.assign([TopicPartition(self.topic, _PARTITION, self._next or OFFSET_BEGINNING)])

    def poll(self, wait_s: float) -> tuple[list[Change], bool]:
        """Changes in force that came meanwhile, and whether the end of the topic was seen.

        Raises:
            ControlError: Kafka refuses.
        """
        found: list[Change] = []
        is_end = False
        for message in self._consumer.consume(100, wait_s):
            error = message.error()
            if error is not None:
                if error.code() in NO_TOPIC:
                    is_end = True
                    time.sleep(wait_s)
                    self._assign()
                elif error.code() == KafkaError._PARTITION_EOF:
                    is_end = True
                elif not error.retriable() and error.code() not in (
                    KafkaError._TRANSPORT,
                    KafkaError._ALL_BROKERS_DOWN,
                ):
                    raise ControlError(f"control topic {self.topic}: {error.str()}")
                continue
            is_end, self._next = False, message.offset() + 1
            try:
                change = self.decided.take(message.key() or b"", message.value())
            except ValueError as unreadable:
                self._log.warning("passed over", offset=message.offset(), why=str(unreadable))
                continue
            if change is not None:
                found.append(change)
        return found, is_end

    def read_to_end(self, within_s: float = _ANSWER_WITHIN_S) -> Decided:
        """Everything that is there now.

        Raises:
            ControlError: Kafka did not answer in time, or refuses.
        """
        give_up_s = time.monotonic() + within_s
        is_end = False
        while not is_end:
            _, is_end = self.poll(0.1)
            if not is_end and time.monotonic() > give_up_s:
                raise ControlError(f"control topic {self.topic}: not read to its end within {within_s:g} s")
        return self.decided

    def has_topic(self, name: str) -> bool:
        """Whether there is a topic of this name.

        Raises:
            ControlError: Kafka does not answer.
        """
        try:
            topics = self._consumer.list_topics(name, timeout=_ANSWER_WITHIN_S).topics
        except KafkaException as error:
            raise ControlError(f"topic {name}: {error.args[0].str()}") from error
        return bool(topics[name].partitions)

    def close(self) -> None:
        """Let go of connections."""
        self._consumer.close()


class ControlWriter:
    """Writes changes and statuses."""

    def __init__(self, properties: Mapping[str, Any], topic: str) -> None:
        self.topic = topic
        self._producer = Producer({**properties, "enable.idempotence": True, "linger.ms": 0, "log_level": 2})

    def change(self, change: Change) -> None:
        """Offer a change; whether it is in force the topic says.

        Raises:
            ControlError: it may not have arrived.
        """
        # Of a key of its own: a change that came too late must not take the place of the one before it.
        self._write(f"{change.pipeline} {change.revision:08} {uuid4().hex[:8]}", change.encode())

    def status(self, status: Status) -> None:
        """Say what a worker serves, in its own time."""
        self._produce(_status_key(status.pipeline, status.worker), status.encode(), None)

    def leave(self, pipeline: str, worker: str) -> None:
        """A worker ends; not waited for for long."""
        self._produce(_status_key(pipeline, worker), None, None)
        self._producer.flush(1.0)

    def _write(self, key: str, value: bytes) -> None:
        failed: list[KafkaError] = []
        self._produce(key, value, lambda error, _: failed.append(error) if error else None)
        left = self._producer.flush(_ANSWER_WITHIN_S)
        if failed or left:
            why = failed[0].str() if failed else f"not acknowledged within {_ANSWER_WITHIN_S:g} s"
            raise ControlError(f"control topic {self.topic}: {why}")

    def _produce(self, key: str, value: bytes | None, on_delivery: Any) -> None:
        try:
            self._producer.produce(self.topic, value, key, partition=_PARTITION, on_delivery=on_delivery)
            self._producer.poll(0)
        except (KafkaException, BufferError) as error:
            raise ControlError(f"control topic {self.topic}: {error}") from error


def _status_key(pipeline: str, worker: str) -> str:
    return f"status {pipeline} {worker}"


def create_control_topic(properties: Mapping[str, Any], topic: str) -> bool:
    """Make the topic as it has to be: one partition, compacted, where it is not there; False: it was.

    Raises:
        ControlError: it cannot be made.
    """
    admin = AdminClient({**properties, "log_level": 2})
    new = NewTopic(topic, 1, -1, config={"cleanup.policy": "compact"})
    future = admin.create_topics([new], request_timeout=_ANSWER_WITHIN_S)[topic]
    try:
        future.result(_ANSWER_WITHIN_S + 1)
    except TimeoutError as error:
        raise ControlError(f"control topic {topic}: no answer within {_ANSWER_WITHIN_S:g} s") from error
    except KafkaException as error:
        if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        raise ControlError(f"control topic {topic}: cannot be made: {error.args[0].str()}") from error
    return True


def next_change(
    decided: Decided, pipeline: str, at_start: str, action: str, *, by: str, why: str, **new: Any
) -> Change:
    """The change of this action from what is in force.

    Args:
        at_start: the version that the pipeline file names, in force as long as nothing was changed.
        new: `version`, and `share` of a canary or shadow.

    Raises:
        ControlError: there is nothing to change.
    """
    last = decided.routing(pipeline)
    now = decided.in_force(pipeline, at_start)
    routing = _changed(now, action, new.get("version"), float(new.get("share", 1.0)))
    if routing == now:
        raise ControlError(f"{pipeline}: nothing to change: {describe(now)}")
    return Change(
        pipeline=pipeline,
        revision=(last.revision if last else 0) + 1,
        action=action,
        routing=routing,
        by=by,
        why=why,
        at_ms=time.time_ns() // 1_000_000,
    )


def _changed(now: Routing, action: str, version: str | None, share: float) -> Routing:
    if action in ("pin", "unpin"):
        return replace(now, is_pinned=action == "pin")
    if action == "rollback":
        if now.challenger is not None:
            return replace(now, challenger=None, is_shadow=False, share=0.0)
        if not now.before:
            raise ControlError(f"nothing to go back to: {describe(now)}, and no version was before it")
        return Routing(champion=now.before[-1], before=now.before[:-1], is_pinned=now.is_pinned)
    assert version is not None
    if action == "promote":
        before = now.before if version == now.champion else (*now.before, now.champion)
        return Routing(champion=version, before=before[-_REMEMBERED:], is_pinned=now.is_pinned)
    if version == now.champion:
        raise ControlError(f"version {version} serves already, and cannot be compared with itself")
    return replace(now, challenger=version, is_shadow=action == "shadow", share=share)


def describe(routing: Routing) -> str:
    """One line for people."""
    words = f"version {routing.champion} serves"
    if routing.challenger is not None:
        what = "is shadowed on" if routing.is_shadow else "scores"
        words += f", {routing.challenger} {what} {routing.share:.4g} of the keys"
    return words + (", pinned" if routing.is_pinned else "")


def history(decided: Decided, pipeline: str) -> tuple[Change, ...]:
    """What was changed, the oldest first."""
    return tuple(decided.changes.get(pipeline, ()))
