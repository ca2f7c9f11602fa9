"""How long records have waited for a consumer group, asked from outside of it: it may have no member."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaError, KafkaException, TopicPartition

from worker.background import in_background
from worker.config import Pipeline
from worker.exits import Exit, StopWorker
from worker.group_offsets import committed_marks
from worker.read_back import outsider
from worker.refusals import Refusals
from worker.rights import unauthorized
from worker.scout import offsets_at
from worker.source import consumer_config

ANSWER_S = 5.0  # of each request; five in a row stay below the 30 s after which a loop counts as stuck
_LEAST_S = 0.001  # a record that waits is never zero seconds old, whatever the clocks say
# One record a partition is enough: a broker gives whole batches, and the client must not fetch ahead.
_FRUGAL = {"fetch.message.max.bytes": 1024, "queued.min.messages": 1, "queued.max.messages.kbytes": 1024}


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What of one partition the group has not committed."""

    partition: int
    committed: int | None  # next offset of the group; None: it never committed
    end: int  # where a reader of committed records is at the end
    records: int  # at most so many wait: offsets from the oldest on, with markers and aborted records
    seconds: float  # age of the oldest record that waits, by its Kafka timestamp; 0: none does


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """From `start` on there is nothing to read before `offset`, and what is there."""

    start: int
    offset: int
    at_ms: int | None  # timestamp of the record at offset; None: it is where the partition ended


class Backlog:
    """Asks for one pipeline; one thread at a time uses it.

    The difference of two offsets does not say whether a record waits. Where producers use transactions, their
    markers take offsets too, and so do aborted records: a group that has read everything stays one or more
    behind the end for ever. So the first record that a reader would be given is looked for, and remembered
    until the group has passed it. Where nothing new came nothing is fetched again.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        """Open nothing yet."""
        self.pipeline = pipeline
        self._refusals = Refusals()
        config = consumer_config(
            pipeline.kafka.client_properties(), group=pipeline.kafka.group, protocol=pipeline.kafka.protocol
        )
        self._config = {**config, "error_cb": self._refusals.note, "log_level": 0}
        self._clients: tuple[Any, Any] | None = None
        self._known: dict[int, Known] = {}

    def measure(self, wall_ms: int) -> list[Waiting]:
        """What waits in every partition of the input.

        Args:
            wall_ms: the time now.

        Raises:
            StopWorker: Kafka did not answer, the topic does not exist, or a right is missing.
        """
        topic, group = self.pipeline.source.topic, self.pipeline.kafka.group
        try:
            with self._asking() as (plain, reader):
                return self._measure(plain, reader, wall_ms)
        except KafkaException as error:
            said = error.args[0]
            # Below zero are the client's own: that it had no answer is less than why.
            refused = self._refusals.reason if said.code() < 0 else ""
            why = refused or unauthorized(said, topic=topic, group=group) or said.str()
            raise StopWorker(Exit.KAFKA, f"{topic}: the lag of {group} is not known: {why}") from error

    def _measure(self, plain: Any, reader: Any, wall_ms: int) -> list[Waiting]:
        topic = self.pipeline.source.topic
        found = plain.list_topics(topic, timeout=ANSWER_S).topics[topic]
        if found.error is not None:
            raise KafkaException(found.error)
        partitions = sorted(found.partitions)
        marks = committed_marks(plain, topic, partitions, ANSWER_S)
        committed = {mark.partition: mark.offset if mark.offset >= 0 else None for mark in marks}
        low = dict(
            zip(partitions, offsets_at(reader, topic, partitions, OFFSET_BEGINNING, ANSWER_S), strict=True)
        )
        end = dict(zip(partitions, offsets_at(reader, topic, partitions, OFFSET_END, ANSWER_S), strict=True))
        # A group that never committed begins where the file says; at the end nothing of what is there waits.
        new = low if self.pipeline.source.start == "earliest" else end
        starts = {p: max(low[p], new[p] if (c := committed[p]) is None else c) for p in partitions}
        self._known = self._look(reader, starts, end)
        return [_waiting(p, committed[p], end[p], self._known[p], wall_ms) for p in partitions]

    def _look(self, reader: Any, starts: Mapping[int, int], ends: Mapping[int, int]) -> dict[int, Known]:
        """The first record from each start on, asked for only where it is not known from before."""
        recalled = {p: recall(self._known.get(p), start, ends[p]) for p, start in starts.items()}
        wanted = {p: offset for p, offset in recalled.items() if isinstance(offset, int)}
        known = {p: each for p, each in recalled.items() if isinstance(each, Known)}
        for partition, (offset, at_ms) in _first_records(reader, self.pipeline.source.topic, wanted).items():
            known[partition] = Known(start=starts[partition], offset=offset, at_ms=at_ms)
        return known

    @contextmanager
    def _asking(self) -> Iterator[tuple[Any, Any]]:
        """Two clients; new ones after an error, since one whose broker was away may go on timing out.

        Committed offsets are asked for without waiting for a transaction that is under way: a busy worker
        always has one. Ends are those of a reader of committed records, which is what the worker is.
        """
        clients, self._clients = self._clients, None
        if clients is None:
            self._refusals.forget()
            more = {"enable.partition.eof": True, "auto.offset.reset": "earliest", **_FRUGAL}
            plain = outsider(self._config, "read_uncommitted")
            clients = plain, outsider(self._config, "read_committed", **more)
        try:
            yield clients
        except BaseException:
            for client in clients:
                client.poll(0)  # runs error_cb
                in_background(client.close, "close backlog")
            raise
        self._clients = clients

    def close(self) -> None:
        """Let go of the connections."""
        for client in self._clients or ():
            client.close()
        self._clients = None


def recall(before: Known | None, start: int, end: int) -> Known | int:
    """What is known of a partition already, or the offset that it must be read from.

    Args:
        before: what was found the last time.
        start: where the group goes on.
        end: of what can be read.
    """
    if before is None or not before.start <= start <= before.offset <= end:
        return start if start < end else Known(start=start, offset=start, at_ms=None)
    is_there = before.at_ms is not None or before.offset == end
    return before if is_there else before.offset


def _first_records(reader: Any, topic: str, wanted: Mapping[int, int]) -> dict[int, tuple[int, int | None]]:
    """Offset and timestamp of the first record from each offset on; the end and None where there is none.

    Raises:
        KafkaException: not all partitions answered in time.
    """
    if not wanted:
        return {}
    found: dict[int, tuple[int, int | None]] = {}
    reader.assign([TopicPartition(topic, partition, offset) for partition, offset in wanted.items()])
    try:
        give_up_s = time.monotonic() + ANSWER_S
        while len(found) < len(wanted):
            if time.monotonic() > give_up_s:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "a partition cannot be read in time"))
            for message in reader.consume(len(wanted), 0.05):
                error, partition, offset = message.error(), message.partition(), message.offset()
                is_end = error is not None and error.code() == KafkaError._PARTITION_EOF
                if error is not None and not is_end:
                    if not error.retriable():
                        raise KafkaException(error)
                elif partition in wanted and offset >= wanted[partition]:  # else of a former assignment
                    found.setdefault(partition, (offset, None if is_end else message.timestamp()[1]))
    finally:
        reader.unassign()
    return found


def _waiting(partition: int, committed: int | None, end: int, known: Known, wall_ms: int) -> Waiting:
    records, seconds = 0, 0.0
    if known.at_ms is not None:
        records, seconds = max(1, end - known.offset), max(_LEAST_S, (wall_ms - known.at_ms) / 1000)
    return Waiting(partition=partition, committed=committed, end=end, records=records, seconds=seconds)
