"""Scores, alerts and labels from Kafka, from where the cases have seen all before."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from feature_cache.cases import Cases
from feature_cache.store import StoreUnavailableError
from worker.background import in_background
from worker.exits import Exit, StopWorker
from worker.read_back import outsider
from worker.refusals import Refusals
from worker.rights import unauthorized
from worker.scout import WITHOUT_IDS, offsets_at
from worker.truth_apply import Marks, Partition

_ANSWER_S = 10.0
_AGAIN_S = 0.5
_LEAVE_S = 5.0


class Reader:
    """The consumer, how far each of its partitions was read, and how far every shard has seen it.

    Only the thread that polls may call it. The offsets that are committed say how far behind we are, and
    nothing else: where to begin is in the marks of the cases.
    """

    def __init__(
        self, config: dict[str, Any], topics: Sequence[str], any_client: dict[str, Any], cases: Cases,
        horizon_ms: int, stop: threading.Event,
    ) -> None:  # fmt: skip
        self._refusals = Refusals()
        self._config = {**config, "error_cb": self._refusals.note}
        self._any_client = any_client
        self._topics = list(topics)
        self._cases = cases
        self._horizon_ms = horizon_ms
        self._stop = stop
        self._error: BaseException | None = None  # raised in a callback
        self._goes_back = False  # has to, and could not yet
        self._since_ms = OFFSET_BEGINNING  # where to begin, as a time; what is older is not taken any more
        self._log = structlog.get_logger(group=config["group.id"])
        self.consumer = Consumer(self._config)
        self.names: dict[str, str] = {}  # of each topic: its id, or its name where the broker knows no ids
        self.marks: Marks = {}  # of the partitions that are ours
        self.next_offset: dict[Partition, int] = {}  # all before it is in the cases
        self._committed: dict[Partition, int] = {}

    def subscribe(self) -> None:
        """Join the group. Errors of the callbacks are raised by `poll`."""
        self.consumer.subscribe(
            self._topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
        )

    def poll(self, room: int, wait_s: float) -> list[Any]:
        """Records of partitions that are ours, at most so many, after this time at most.

        Raises:
            StopWorker: somebody must mend something.
            KafkaException: reading failed for good.
        """
        if self._goes_back:
            self._go_back()
        messages = self.consumer.consume(room, wait_s)
        error, self._error = self._error, None
        if error is not None:
            raise error
        for message in messages:
            if message.error() is not None:
                self._judge(message.error())
        return [m for m in messages if m.error() is None and (m.topic(), m.partition()) in self.marks]

    def owns(self, topic: str, partition: int) -> bool:
        """Whether a partition is ours."""
        return (topic, partition) in self.marks

    def is_whole(self) -> bool:
        """Whether every shard still has all that it was given of our partitions.

        Raises:
            StoreUnavailableError: the store did not answer.
        """
        stored = self._cases.marks([self.name(partition) for partition in self.marks])
        return all(
            mark is not None and mark >= known
            for found, knowns in zip(stored, self.marks.values(), strict=True)
            for mark, known in zip(found, knowns, strict=True)
        )

    def read_again(self) -> None:
        """Go back, in every partition of ours, to what all shards have seen."""
        self._goes_back = True
        self._go_back()

    def _go_back(self) -> None:
        """In the middle of a rebalance the client may refuse; the next poll tries again."""
        ours = [TopicPartition(*partition) for partition in self.marks]
        held = {(tp.topic, tp.partition) for tp in self.consumer.assignment()}
        try:
            if old := [tp for tp in ours if (tp.topic, tp.partition) in held]:
                self.consumer.incremental_unassign(old)
            if ours:
                self.consumer.incremental_assign(self._taken(ours))
            self._goes_back = False
        except KafkaException as error:
            self._log.info("truth reads again a little later", why=error.args[0].str())

    def commit(self, *, is_last: bool = False) -> None:
        """Tell the group how far we are; without an answer unless it is the last time."""
        moved = [
            TopicPartition(*partition, offset)
            for partition, offset in self.next_offset.items()
            if self._committed.get(partition) != offset
        ]
        if not moved:
            return
        try:
            self.consumer.commit(offsets=moved, asynchronous=not is_last)
        except KafkaException as error:
            self._log.info("offsets of truth not committed", why=error.args[0].str())
        else:
            self._committed |= {(tp.topic, tp.partition): tp.offset for tp in moved}

    def close(self) -> None:
        """Leave the group; a broker that is away is not waited for."""
        leaving = in_background(self.consumer.close, "close truth")
        try:
            leaving.result(_LEAVE_S)
        except TimeoutError:
            self._log.warning("truth left the group without a word")

    def _assigned(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        with self._kept():
            consumer.incremental_assign(self._taken(partitions))

    def _revoked(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        with self._kept():
            self.commit(is_last=True)
            self._lost(consumer, partitions)

    def _lost(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        with self._kept():
            for tp in partitions:
                for known in (self.marks, self.next_offset, self._committed):
                    known.pop((tp.topic, tp.partition), None)
            consumer.incremental_unassign(partitions)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Keep an error for the caller of poll(): what passes through the client nothing can catch."""
        try:
            yield
        except BaseException as error:
            self._error = self._error or error

    def _taken(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        """The partitions with where to read each from; waits for the store and for Kafka until both say."""
        waits = False
        while True:
            try:
                return self._take(partitions)
            except (StoreUnavailableError, KafkaException) as error:
                if not waits:
                    self._log.warning("truth waits", why=str(error))
                waits = True
            if self._stop.wait(_AGAIN_S):
                return partitions  # never read: the loop ends

    def _take(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        self._learn_names({tp.topic for tp in partitions})
        taken = []
        with closing(outsider(self._config, "read_committed")) as client:
            for tp in partitions:
                name = self.name((tp.topic, tp.partition))
                (marks,) = self._cases.marks([name])
                start = _start(client, tp, marks, self._since_ms)
                if None in marks:
                    self._cases.begin(name, start)
                self.marks[tp.topic, tp.partition] = [start if mark is None else mark for mark in marks]
                self.next_offset[tp.topic, tp.partition] = start
                taken.append(TopicPartition(tp.topic, tp.partition, start))
        return taken

    def name(self, partition: Partition) -> str:
        """What the marks call a partition: a topic made anew under its name has others."""
        return f"{self.names[partition[0]]}:{partition[1]}"

    def _learn_names(self, needed: set[str]) -> None:
        admin = AdminClient({**self._any_client, "log_level": 0})
        if (admin.list_topics(timeout=_ANSWER_S).cluster_id or "").startswith(WITHOUT_IDS):
            self.names = {topic: topic for topic in self._topics}
            return  # nor does it look anything up by time
        self._since_ms = max(0, time.time_ns() // 1_000_000 - self._horizon_ms)
        asked = admin.describe_topics(TopicCollection(self._topics), request_timeout=_ANSWER_S)
        for topic, answer in asked.items():
            try:
                self.names[topic] = str(answer.result(_ANSWER_S + 1).topic_id)
            except KafkaException as error:
                # Nobody has written to it yet, and no partition of it is ours; or we ask a moment too early.
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART or topic in needed:
                    raise

    def _judge(self, error: Any) -> None:
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            # Retention was faster than we are, or the topic was made anew.
            self._log.warning("truth reads again", why=error.str())
            self.read_again()
        elif error.fatal():
            raise KafkaException(error)
        elif missing := unauthorized(error, topic=", ".join(self._topics), group=self._config["group.id"]):
            raise StopWorker(Exit.KAFKA, missing)
        elif self._refusals.is_definite:
            raise StopWorker(Exit.KAFKA, self._refusals.reason)


def _start(client: Any, tp: TopicPartition, marks: Sequence[int | None], since_ms: int) -> int:
    """Where to read a partition from: what some shard has not seen, or one horizon back."""
    (low,) = offsets_at(client, tp.topic, [tp.partition], OFFSET_BEGINNING, _ANSWER_S)
    (high,) = offsets_at(client, tp.topic, [tp.partition], OFFSET_END, _ANSWER_S)
    seen = [mark for mark in marks if mark is not None]
    if len(seen) == len(marks):
        return max(low, min(high, *seen))
    (first,) = offsets_at(client, tp.topic, [tp.partition], since_ms, _ANSWER_S)
    return max(low, first) if first >= 0 else high
