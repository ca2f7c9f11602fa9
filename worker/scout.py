"""What Kafka knows of the input topic, asked beside the loop: what is committed, what is still held."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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

from worker.background import in_background
from worker.exits import Exit, StopWorker

_TIMEOUT_S = 10.0
WITHOUT_IDS = "mockCluster"  # librdkafka's own broker: it never answers what a topic's id is
_MADE_FOR = "partitions="  # in the metadata of every commit: the topic's partition count


class UndecidedError(Exception):
    """The broker answers, but not with the group's offsets: a transaction with such is not decided."""


class Scout:
    """A client of the group that is no member of it; one thread at a time uses it.

    It is a client of its own because calls that ask may not return while another thread goes on calling
    consume() on the same one (confluent-kafka 2.16.1: the first answer came when that loop ended).
    """

    def __init__(self, config: dict[str, Any], topic: str, any_client: dict[str, Any]) -> None:
        """Open nothing yet.

        Args:
            config: of a consumer of the group.
            topic: the input topic.
            any_client: what any client needs to be let in.
        """
        self._config = config
        self._any_client = any_client
        self._topic = topic
        self._client: Any = None  # opened when first needed

    def committed(self) -> dict[int, int | None]:
        """Next offset of the group for every partition of the topic; None where it never committed.

        Raises:
            KafkaException: no answer in time.
            UndecidedError: not while some transaction with offsets is undecided.
            StopWorker: the topic has another number of partitions than when the group last committed.
        """
        with self._asking() as client:
            known = client.list_topics(self._topic, timeout=_TIMEOUT_S).topics[self._topic]
            if known.error is not None:
                raise KafkaException(known.error)
            count = len(known.partitions)
            asked = [TopicPartition(self._topic, p) for p in range(count)]
            try:
                found = client.committed(asked, timeout=_TIMEOUT_S)
            except KafkaException as error:
                if error.args[0].code() != KafkaError._TIMED_OUT:
                    raise
                raise UndecidedError(
                    f"the offsets of the group are not known: {error.args[0].str()}"
                ) from error
            for tp in found:
                if tp.error is not None:
                    raise KafkaException(tp.error)
                _check_count(self._topic, count, tp)
        return {tp.partition: tp.offset if tp.offset >= 0 else None for tp in found}

    def bounds(self, partition: int) -> tuple[int, int]:
        """Oldest offset still held and the next one to be written; KafkaException without an answer."""
        with self._asking() as client:
            (low,) = offsets_at(client, self._topic, [partition], OFFSET_BEGINNING, _TIMEOUT_S)
            (high,) = offsets_at(client, self._topic, [partition], OFFSET_END, _TIMEOUT_S)
        return low, high

    def topic_id(self) -> str:
        """What tells this topic from any other that has or had its name; "" where the broker knows no ids.

        Raises:
            KafkaException: no answer in time.
        """
        with self._asking() as client:
            known = client.list_topics(self._topic, timeout=_TIMEOUT_S)
        if (known.cluster_id or "").startswith(WITHOUT_IDS):  # None where the broker has not said
            return ""
        admin = AdminClient({**self._any_client, "log_level": 0})
        asked = admin.describe_topics(TopicCollection([self._topic]), request_timeout=_TIMEOUT_S)
        return str(asked[self._topic].result(_TIMEOUT_S + 1).topic_id)

    @contextmanager
    def _asking(self) -> Iterator[Any]:
        """The client; a new one after an error.

        One that asked while its broker was away went on timing out for a minute after it was back, while
        others were answered at once.
        """
        client, self._client = self._client or Consumer(self._config), None
        try:
            yield client
        except BaseException:
            in_background(client.close, "close scout")
            raise
        self._client = client


def offsets_at(
    client: Any, topic: str, partitions: list[int], timestamp_ms: int, timeout_s: float
) -> list[int]:
    """The first offset of each partition that is not older; OFFSET_BEGINNING and OFFSET_END are times too.

    Not get_watermark_offsets(), which has no time-out of its own once its request is on the way.

    Returns:
        In the order of partitions; -1: there is none.

    Raises:
        KafkaException: no answer in time, or an error of any partition.
    """
    asked = [TopicPartition(topic, p, timestamp_ms) for p in partitions]
    found = {tp.partition: tp for tp in client.offsets_for_times(asked, timeout=timeout_s)}
    for tp in found.values():
        if tp.error is not None:
            raise KafkaException(tp.error)
    return [int(found[p].offset) for p in partitions]


def commit_offsets(topic: str, next_offsets: dict[int, int], count: int) -> list[TopicPartition]:
    """The offsets of a commit, each with the number of partitions that the topic has."""
    return [TopicPartition(topic, p, offset, f"{_MADE_FOR}{count}") for p, offset in next_offsets.items()]


def _check_count(topic: str, count: int, committed: TopicPartition) -> None:
    """Keys keep their partition only while the topic keeps its number of partitions."""
    said = committed.metadata or ""
    made_for, _, _ = said.removeprefix(_MADE_FOR).partition(" ")  # after it the name of the commit
    if not said.startswith(_MADE_FOR) or made_for == str(count):
        return
    raise StopWorker(
        Exit.CONFIG,
        f"topic {topic!r} has {count} partitions, and had {made_for} when this group "
        f"last committed: its keys have moved, and features of one key would be spread over two partitions. "
        f"Way out: create a topic with {count} partitions, copy the records into it by key and in order, and "
        f"set source.topic and kafka.group to new names (docs/operating.md)",
    )
