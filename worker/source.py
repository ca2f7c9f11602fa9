"""Records from Kafka, and which partitions they may come from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import structlog
from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, TopicPartition

from worker.again import first_again
from worker.background import in_background
from worker.exits import Exit, StopWorker
from worker.fetched import PlainFetch
from worker.native_fetch import NativeFetch, fetch_of
from worker.records import Records
from worker.refusals import Refusals
from worker.rights import unauthorized
from worker.timeouts import SESSION_MS

_METADATA_S = 10.0
_ASK_AGAIN_S = 1.0  # how soon a refused login ends the wait for metadata
_COMPLAIN_MS = 10_000.0
_SHUT_OUT_MS = 120_000.0  # well above any session timeout: whoever still has our instance id then is alive
_KNOCK_EVERY_S = 1.0
_SILENT_MS = 45_000  # a loop that has not polled for so long is stuck; /healthz says so after 30 s
_UNREADY_MS = 1000.0  # a partition that cannot be told where to read for longer is assigned anew
# The file gives one set of properties for both clients; librdkafka warns of those that are not a consumer's.
_PRODUCER_ONLY = (
    "acks",
    "batch.",
    "compression.",
    "delivery.",
    "linger.",
    "message.timeout.",
    "queue.buffering.",
)
Assigned = Callable[[list[int]], None]
Rebalanced = Callable[[Any, list[TopicPartition]], None]
# What no waiting mends. Anything else librdkafka goes on repairing by itself.
_HOPELESS = {
    KafkaError._AUTHENTICATION,
    KafkaError._BAD_MSG,
    KafkaError._SSL,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.UNSUPPORTED_VERSION,
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError.UNSUPPORTED_ASSIGNOR,
    KafkaError.INCONSISTENT_GROUP_PROTOCOL,
    KafkaError.GROUP_MAX_SIZE_REACHED,
}
NO_TOPIC = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
# A fatal error of the client says only in its text which one it is.
_UNRELEASED = KafkaError(KafkaError.UNRELEASED_INSTANCE_ID).str()
_EXPECTED = {KafkaError._PARTITION_EOF, KafkaError._MAX_POLL_EXCEEDED}


class OffsetsGoneError(Exception):
    """The topic does not hold the next offset of a partition any more, or was made anew."""


class GivenAgainError(Exception):
    """The client has given a record that it had given before, which librdkafka 2.16 does now and then."""


def consumer_config(
    properties: dict[str, str],
    *,
    group: str,
    protocol: str,
    instance_id: str | None = None,
    waits_at_most_ms: int = 0,
) -> dict[str, Any]:
    """Settings of the input consumer.

    Args:
        properties: of the pipeline file, over ours.
        group: the consumer group.
        protocol: classic or consumer.
        instance_id: makes it a static member.
        waits_at_most_ms: how long a batch may wait for something without a poll.
    """
    config: dict[str, Any] = {
        "group.id": group,
        "group.protocol": protocol,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # Where to begin is ours to say; an offset that is gone must be an error, never a silent leap.
        "auto.offset.reset": "error",
        # Also on plain topics: it is what makes the client wait for a predecessor's pending offsets.
        "isolation.level": "read_committed",
        "queued.max.messages.kbytes": 16384,
        "queued.min.messages": 20000,
        "fetch.queue.backoff.ms": 5,  # default 1000: a fast reader starves for a second
        "fetch.wait.max.ms": 50,
        "enable.partition.eof": False,
        "reconnect.backoff.max.ms": 1000,  # default 10 s: that long, a healed network goes unnoticed
        "topic.metadata.refresh.interval.ms": 30_000,  # default 5 min: that long, added partitions go unseen
    }
    if instance_id is not None:
        config["group.instance.id"] = instance_id
    if protocol == "classic":
        config["partition.assignment.strategy"] = "cooperative-sticky"
        config["session.timeout.ms"] = SESSION_MS
        # Default 3 s: that long a member may not know of a rebalance, whose every step waits for all members.
        config["heartbeat.interval.ms"] = 300
    config |= {name: value for name, value in properties.items() if not name.startswith(_PRODUCER_ONLY)}
    # Default 5 min: that long a stuck worker keeps its lanes. And that long, with KIP-848, a member that has
    # missed an answer of the group does not learn what to give up: the client (librdkafka 2.16) asks again,
    # the broker does not repeat itself, and nobody gets the lane until it throws the member out.
    least_ms = int(config.get("session.timeout.ms", 0))
    config.setdefault("max.poll.interval.ms", max(_SILENT_MS + waits_at_most_ms, least_ms))
    return config


class Source:
    """The consumer, and which of its partitions are held back; one thread polls it."""

    def __init__(
        self,
        config: dict[str, Any],
        topic: str,
        now_ms: Callable[[], float] = lambda: time.monotonic() * 1000,
    ) -> None:
        self.refusals = Refusals()
        self._config = {**config, "error_cb": self.refusals.note}
        self.consumer = Consumer(self._config)
        self._fetch = fetch_of(self.consumer, topic, now_ms)
        self._on_rebalance: dict[str, Rebalanced] = {}
        self._shut_out_ms: float | None = None  # since when another member has our instance id
        self._log = structlog.get_logger(topic=topic)
        self._topic = topic
        self._group = str(config["group.id"])
        self._now_ms = now_ms
        self._held: set[int] = set()  # assigned, and not to be read now
        self._gone: set[int] = set()  # taken from us during the poll under way
        self._ended: set[int] = set()  # the client reads them no further, and refuses to seek in them
        self._unready_ms: dict[int, float] = {}  # since when it has refused to
        self._next_offset = np.zeros(1, np.int64)  # by partition; the least that may come next
        first_again(np.zeros(0, np.int32), self._next_offset, self._next_offset)  # compiles
        self._error: BaseException | None = None  # raised in a callback
        self._complained_ms: dict[int, float] = {}  # error code to when it was last logged
        self.first_at_ms = now_ms()  # when the first record of the last poll was here, at the earliest
        self.is_drained = True  # the last poll took all that was here

    def partition_count(self) -> int:
        """Partitions of the input topic; StopWorker when it does not exist."""
        return partition_count(self.consumer, self._topic, self.refusals)

    def subscribe(self, on_assign: Assigned, on_revoke: Assigned, on_lost: Assigned) -> None:
        """Join the group. The callbacks run inside poll() and close(), which raise what they raise.

        Args:
            on_assign: partitions that are ours from now on; they are held until `start`.
            on_revoke: called while the partitions are still ours; commit before returning.
            on_lost: called when they already belong to somebody else; commit nothing.
        """

        def assign(consumer: Any, partitions: list[TopicPartition]) -> None:
            ours = [p.partition for p in partitions]
            self._shut_out_ms = None
            # Where to read from takes a while to find out, and other partitions go on meanwhile.
            consumer.incremental_assign([TopicPartition(self._topic, p, 0) for p in ours])
            with self._kept():
                self.hold(ours)
                on_assign(ours)

        def forget(on_end: Assigned) -> Callable[[Any, list[TopicPartition]], None]:
            def end(consumer: Any, partitions: list[TopicPartition]) -> None:
                ours = [p.partition for p in partitions]
                with self._kept():
                    on_end(ours)
                self._held -= set(ours)
                self._begun(ours)
                self._fetch.leave(ours)
                self._gone |= set(ours)
                consumer.incremental_unassign(partitions)

            return end

        self._on_rebalance = {"on_assign": assign, "on_revoke": forget(on_revoke), "on_lost": forget(on_lost)}
        self.consumer.subscribe([self._topic], **self._on_rebalance)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Keep an error for the caller of poll() or close().

        One that passes through the client on its way comes out as a KafkaError, which is no exception at all
        and which nothing catches (confluent-kafka 2.16.1).
        """
        try:
            yield
        except BaseException as error:
            self._error = self._error or error

    def _raise_kept(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def hold(self, partitions: Iterable[int]) -> None:
        """Read nothing of these partitions until `start`; what was fetched of them is thrown away."""
        new = set(partitions) - self._held
        self._held |= new
        if new:
            self.consumer.pause([TopicPartition(self._topic, p) for p in new])

    def start(self, partition: int, offset: int) -> bool:
        """Read a held partition from this offset; False when the client cannot yet: ask again."""
        place = TopicPartition(self._topic, partition, offset)
        try:
            if partition in self._ended:
                self.consumer.incremental_unassign([place])
                self.consumer.incremental_assign([place])
                self.consumer.pause([place])
                self._begun([partition])
                return False
            self.consumer.seek(place)
            self._comes_next(partition, offset)
            self._fetch.lead(partition)
            # Last: seeking discards what was fetched, resuming fetches from where was sought.
            self.consumer.resume([place])
        except KafkaException as error:
            if error.args[0].code() in (KafkaError._STATE, KafkaError._PREV_IN_PROGRESS):
                # Just after an assignment, for a moment; after an error that a pause threw away, for good.
                if self._now_ms() - self._unready_ms.setdefault(partition, self._now_ms()) > _UNREADY_MS:
                    self._ended.add(partition)
                return False
            raise
        self._begun([partition])
        self._held.discard(partition)
        return True

    def _comes_next(self, partition: int, offset: int) -> None:
        if partition >= len(self._next_offset):
            self._next_offset = np.resize(self._next_offset, partition + 1)
        self._next_offset[partition] = offset

    def _begun(self, partitions: list[int]) -> None:
        for partition in partitions:
            self._ended.discard(partition)
            self._unready_ms.pop(partition, None)

    def high_offset(self, partition: int) -> int:
        """The next offset to be written, as the last fetch told; -1 when not known yet."""
        _, high = self.consumer.get_watermark_offsets(TopicPartition(self._topic, partition), cached=True)
        return int(high) if high != OFFSET_INVALID else -1

    def poll(self, room: int, wait_ms: float, gather_ms: float) -> Records | None:
        """What is here, at most room records.

        Args:
            room: how many are wanted at most.
            wait_ms: how long to wait for the first.
            gather_ms: how long after the first was here to wait for more; 0 takes what is here already.

        Raises:
            OffsetsGoneError: a partition cannot be read on from where it is; take all lanes again.
            GivenAgainError: a record came that had come before; the same.
            StopWorker: reading cannot go on at all.
        """
        self._gone.clear()
        fetched = self._fetch.poll(room, wait_ms, gather_ms)
        self.first_at_ms = fetched.first_at_ms
        self._raise_kept()
        self.is_drained = fetched.count < room
        self._judge(fetched.errors)
        records, shut = fetched.records, self._held | self._gone
        if records is not None and shut:  # a callback may concern what came before it
            open_rows = np.flatnonzero(~np.isin(records.partition, list(shut)))
            records = records.take(open_rows) if len(open_rows) else None
        if records is not None:
            self._check_order(records)
        return records

    def _check_order(self, records: Records) -> None:
        row = first_again(records.partition, records.offset, self._next_offset)
        if row >= 0:
            partition, offset = int(records.partition[row]), int(records.offset[row])
            raise GivenAgainError(
                f"{self._topic} partition {partition}: the client gave offset {offset}, expected "
                f"{self._next_offset[partition]} or one after it"
            )

    def _judge(self, bad: list[tuple[KafkaError, int]]) -> None:
        for error, partition in bad:
            if error.code() == KafkaError._AUTO_OFFSET_RESET:
                self._ended.add(partition)
                if partition not in self._held:
                    raise OffsetsGoneError(f"{self._topic} partition {partition}: {error.str()}")
            elif error.fatal() or error.code() == KafkaError._FATAL:
                self._join_again(error)
            elif (missing := unauthorized(error, topic=self._topic, group=self._group)) is not None:
                raise StopWorker(Exit.KAFKA, missing)
            elif error.code() in _HOPELESS:
                raise StopWorker(Exit.KAFKA, f"reading failed: {error.str()}")
            elif error.code() in NO_TOPIC:
                self._check_topic()
            elif error.code() not in _EXPECTED:
                self._complain(error)

    def _join_again(self, fatal: KafkaError) -> None:
        """Knock with a new client while the group still knows a former self of ours, as after a SIGKILL."""
        now_ms = self._now_ms()
        if _UNRELEASED not in fatal.str() or self.consumer.assignment():
            raise StopWorker(Exit.FENCED, f"this member is out of the group for good: {fatal.str()}")
        if self._shut_out_ms is None:
            self._shut_out_ms = now_ms
            self._log.warning("waiting for the group to forget the last worker of this name")
        if now_ms - self._shut_out_ms > _SHUT_OUT_MS:
            raise StopWorker(
                Exit.FENCED,
                f"another live worker uses group instance id {self._config['group.instance.id']!r}: give "
                f"each its own delivery.worker_id",
            )
        time.sleep(_KNOCK_EVERY_S)
        self._fetch.close()
        in_background(self.consumer.close, "close")
        self.consumer = Consumer(self._config)
        self._fetch = fetch_of(self.consumer, self._topic, self._now_ms)
        self.consumer.subscribe([self._topic], **self._on_rebalance)

    def _check_topic(self) -> None:
        """Stop when the topic is really gone; a broker that just started may not know it yet."""
        try:
            found = self.consumer.list_topics(self._topic, timeout=_ASK_AGAIN_S).topics[self._topic]
        except KafkaException:  # it comes up again
            return
        if found.error is not None and found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise StopWorker(
                Exit.KAFKA,
                f"topic {self._topic!r} does not exist any more: it was deleted while being read. Create it "
                f"again and start the workers: they begin it anew; scores already published stay",
            )

    def _complain(self, error: Any) -> None:
        """Log what librdkafka is repairing, at most every ten seconds."""
        now_ms = self._now_ms()
        if now_ms - self._complained_ms.get(error.code(), -_COMPLAIN_MS) >= _COMPLAIN_MS:
            self._complained_ms[error.code()] = now_ms
            self._log.warning("Kafka is in trouble, going on", error=error.name(), detail=error.str())

    @property
    def fetch(self) -> PlainFetch | NativeFetch:
        """What polls at present; any thread may `wake` it."""
        return self._fetch

    def close(self) -> None:
        """Leave the group; runs on_revoke for what is still assigned."""
        self._fetch.close()
        self.consumer.close()
        self._raise_kept()


def partition_count(client: Any, topic: str, refusals: Refusals | None = None) -> int:
    """Partitions of a topic.

    Args:
        client: any client.
        topic: which topic.
        refusals: what the client's error_cb has noted.

    Raises:
        StopWorker: Kafka cannot be reached or does not let us in, or the topic does not exist.
    """
    found = _metadata(client, topic, refusals or Refusals())
    if found.error is not None and (missing := unauthorized(found.error, topic=topic)) is not None:
        raise StopWorker(Exit.KAFKA, missing)
    if not found.partitions:
        raise StopWorker(
            Exit.KAFKA, f"topic {topic!r} does not exist: create it, or mend the name in the file"
        )
    return len(found.partitions)


def _metadata(client: Any, topic: str, refusals: Refusals) -> Any:
    give_up_s = time.monotonic() + _METADATA_S
    while True:
        try:
            return client.list_topics(topic, timeout=_ASK_AGAIN_S).topics[topic]
        except KafkaException as error:
            client.poll(0)  # runs error_cb
            if refusals.is_definite or time.monotonic() >= give_up_s:
                why = refusals.reason or error.args[0].str()
                raise StopWorker(Exit.KAFKA, _no_broker(why, refusals.is_definite)) from error


def _no_broker(why: str, is_refusal: bool) -> str:
    if is_refusal:
        return f"Kafka does not let this worker in: {why}"
    return (
        f"no broker answered within {_METADATA_S:g} s ({why}): are kafka.bootstrap and, in kafka.properties, "
        f"security.protocol right?"
    )
