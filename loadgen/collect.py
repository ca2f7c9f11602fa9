"""Reads scores, alerts and dead letters back and matches them with what was sent."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from numpy.typing import NDArray

from loadgen.outcomes import Outcomes
from schemas.codec import Codec

OutputKind = Literal["scores", "alerts", "dead_letters"]
DEAD_LETTER_REASON = "penstock.reason"
DEAD_LETTER_PARTITION = "penstock.source.partition"
DEAD_LETTER_OFFSET = "penstock.source.offset"
_TAKE_AT_MOST = 5_000
_DIGEST_AT = 2_000  # records; decoding in bulk is what makes reading cheap
_DIGEST_EVERY_S = 0.1
_LOOK_FOR_TOPICS_EVERY_S = 1.0
_NEWEST_ALERTS = 20
_TIMEOUT_S = 10.0


class CollectError(Exception):
    """The output topics cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One output topic of one scored stream."""

    kind: OutputKind
    outcomes: Outcomes
    codec: Codec  # of scores or alerts; of the source events for dead letters
    id_field: str  # event id in the columns of that codec


class Collector:
    """Owns the consumer: a plain reader of all partitions, without a group."""

    def __init__(
        self,
        bootstrap: str,
        outputs: Mapping[str, Output],
        *,
        properties: Mapping[str, Any] | None = None,
        fetch_wait_ms: int = 100,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start at the present end of each topic; topics that appear later are read from their beginning.

        Args:
            bootstrap: Kafka's address.
            outputs: by topic.
            properties: further librdkafka settings.
            fetch_wait_ms: how long a broker may hold an empty fetch; 5 on the embedded bus.
            now_s: the clock that the ledger's origin was read from.
        """
        self._consumer = Consumer(
            {
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": fetch_wait_ms,
                "fetch.queue.backoff.ms": 20,
                "queued.max.messages.kbytes": 32_768,
                **(properties or {}),
                "bootstrap.servers": bootstrap,
                "group.id": "penstock-loadgen-reader",  # never joined; the client insists on one
                "enable.auto.commit": False,
                "enable.partition.eof": False,
            }
        )
        self._outputs = outputs
        self._now_s = now_s
        self._assigned: set[str] = set()
        self._looked_s = float("-inf")
        self._raw: dict[str, list[tuple[list[Message], float]]] = {topic: [] for topic in outputs}
        self._raw_count = 0
        self._digested_s = now_s()
        self._later: list[_Found] = []  # outcomes whose receipt has not come yet
        self.newest_alerts: deque[dict[str, Any]] = deque(maxlen=_NEWEST_ALERTS)
        self._find_topics(at_end=True)

    def read(self, wait_s: float) -> int:
        """Take what is there, waiting at most `wait_s` for the first record; return the number of records.

        Raises:
            CollectError: Kafka refuses to be read.
        """
        if len(self._assigned) < len(self._outputs):
            self._find_topics(at_end=False)
        # consume(n, t) waits all of t unless n records come: wait for one, then take what is already here.
        messages = self._take(1, wait_s)
        messages += self._take(_TAKE_AT_MOST, 0.0) if messages else []
        now_s = self._now_s()
        by_topic: dict[str, list[Message]] = {}
        for message in messages:
            error = message.error()
            if error is not None:
                _raise_if_serious(error)
                continue
            by_topic.setdefault(message.topic(), []).append(message)
        for topic, taken in by_topic.items():
            self._raw[topic].append((taken, now_s))
        self._raw_count += len(messages)
        if self._raw_count >= _DIGEST_AT or (self._raw_count and now_s - self._digested_s > _DIGEST_EVERY_S):
            self.digest()
        return len(messages)

    def digest(self, *, final: bool = False) -> None:
        """Decode what was taken and count it.

        Args:
            final: count outcomes without a receipt as foreign, instead of waiting for the receipt.
        """
        later, self._later = self._later, []
        for topic, parts in self._raw.items():
            if parts:
                self._raw[topic] = []
                messages = [message for taken, _ in parts for message in taken]
                read_s = np.repeat([at_s for _, at_s in parts], [len(taken) for taken, _ in parts])
                later.extend(self._digest_topic(self._outputs[topic], messages, read_s))
        for found in later:
            self._settle(found, final)
        self._raw_count = 0
        self._digested_s = self._now_s()

    def close(self) -> None:
        """Leave Kafka."""
        self._consumer.close()

    def _take(self, n: int, wait_s: float) -> list[Message]:
        if not self._assigned:
            time.sleep(min(wait_s, 0.05))
            return []
        return list(self._consumer.consume(n, wait_s))

    def _find_topics(self, *, at_end: bool) -> None:
        if not at_end and self._now_s() - self._looked_s < _LOOK_FOR_TOPICS_EVERY_S:
            return
        self._looked_s = self._now_s()
        fresh: list[TopicPartition] = []
        for topic in self._outputs.keys() - self._assigned:
            try:
                known = self._consumer.list_topics(topic, timeout=_TIMEOUT_S).topics[topic]
            except KafkaException as error:
                raise CollectError(f"Kafka does not answer: {error}") from error
            if known.error is not None or not known.partitions:
                continue
            for number in known.partitions:
                partition = TopicPartition(topic, number)
                low, high = self._consumer.get_watermark_offsets(partition, timeout=_TIMEOUT_S)
                partition.offset = high if at_end else low
                fresh.append(partition)
            self._assigned.add(topic)
        if fresh:
            self._consumer.incremental_assign(fresh)

    def _digest_topic(
        self, output: Output, messages: list[Message], read_s: NDArray[np.float64]
    ) -> "list[_Found]":
        outcomes = output.outcomes
        values = [message.value() for message in messages]
        if output.kind == "alerts":
            outcomes.alert_records += len(messages)
            # Only what can be shown is decoded: alerts are nested, and decoding them is slow.
            newest = output.codec.decode(values[-_NEWEST_ALERTS:])
            self.newest_alerts.extend(newest.table.to_pylist())
            return []
        if output.kind == "dead_letters":
            return [self._dead_letters(output, messages, values, read_s)]
        decoded = output.codec.decode(values)
        outcomes.unreadable += len(decoded.rejects)
        table = decoded.table
        return [
            _Found(
                outcomes=outcomes,
                number=_numbers(table.column(output.id_field)),
                partition=table.column("source_partition").to_numpy(zero_copy_only=False).astype(np.int64),
                offset=table.column("source_offset").to_numpy(zero_copy_only=False).astype(np.int64),
                read_s=read_s[decoded.rows],
                score=table.column("score").to_numpy(zero_copy_only=False).astype(np.float32),
                reasons=None,
            )
        ]

    def _dead_letters(
        self, output: Output, messages: list[Message], values: list[bytes | None], read_s: NDArray[np.float64]
    ) -> "_Found":
        headers = [dict(message.headers() or []) for message in messages]
        number = np.full(len(messages), -1, np.int64)
        if not output.outcomes.ledger.by_source:
            decoded = output.codec.decode(values)
            number[decoded.rows] = _numbers(decoded.table.column(output.id_field))
        return _Found(
            outcomes=output.outcomes,
            number=number,
            partition=np.array([_integer(h.get(DEAD_LETTER_PARTITION)) for h in headers], np.int64),
            offset=np.array([_integer(h.get(DEAD_LETTER_OFFSET)) for h in headers], np.int64),
            read_s=read_s,
            score=None,
            reasons=[_text(h.get(DEAD_LETTER_REASON)) for h in headers],
        )

    def _settle(self, found: "_Found", final: bool) -> None:
        ledger = found.outcomes.ledger
        if not ledger.by_source:
            found.count(ledger.index_of(found.number))
            return
        index = ledger.index_at(found.partition, found.offset)
        settled = np.ones(len(index), bool) if final else index >= 0
        if not settled.all():
            self._later.append(found.rows(~settled))
        found.rows(settled).count(index[settled])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Found:
    """Scores (`score`) or dead letters (`reasons`) as columns."""

    outcomes: Outcomes
    number: NDArray[np.int64]
    partition: NDArray[np.int64]
    offset: NDArray[np.int64]
    read_s: NDArray[np.float64]
    score: NDArray[np.float32] | None
    reasons: list[str] | None

    def rows(self, mask: NDArray[np.bool_]) -> "_Found":
        return _Found(
            outcomes=self.outcomes,
            number=self.number[mask],
            partition=self.partition[mask],
            offset=self.offset[mask],
            read_s=self.read_s[mask],
            score=None if self.score is None else self.score[mask],
            reasons=None if self.reasons is None else np.array(self.reasons, object)[mask].tolist(),
        )

    def count(self, index: NDArray[np.int64]) -> None:
        if self.score is not None:
            self.outcomes.add_scores(index, self.score, self.read_s)
        else:
            self.outcomes.add_dead_letters(index, self.read_s, self.reasons or [])


def _numbers(ids: pa.Array) -> NDArray[np.int64]:
    """Turn decimal ids into integers, (n,); -1 for anything else."""
    try:
        return np.asarray(pc.cast(ids, pa.int64()).to_numpy(zero_copy_only=False), np.int64)
    except (pa.ArrowInvalid, TypeError):
        texts: Sequence[str] = [str(text) for text in ids.to_pylist()]
        return np.array([_integer(text.encode()) for text in texts], np.int64)


def _integer(text: bytes | str | None) -> int:
    raw = text.encode() if isinstance(text, str) else text
    # 18 digits fit 64 bits; a longer id is none of ours.
    return int(raw) if raw and raw.isdigit() and len(raw) <= 18 else -1


def _text(raw: bytes | str | None) -> str:
    if raw is None:
        return "missing"
    return raw if isinstance(raw, str) else raw.decode("utf-8", "replace")


def _raise_if_serious(error: KafkaError) -> None:
    # Transport hiccups repair themselves; what is left is authorisation or a topic that is gone.
    if error.fatal() or (
        not error.retriable() and error.code() not in (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT)
    ):
        raise CollectError(error.str())
