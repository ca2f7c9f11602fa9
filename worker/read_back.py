"""Which of our outputs their readers can see."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition

from worker.commits import Identity
from worker.scout import offsets_at

_ANSWER_S = 20.0
_PATIENCE_S = 30.0  # longer than a transaction of somebody else may last
_CLOCKS_DIFFER_MS = 10_000  # where the broker's clock makes the records' timestamps
_AT_ONCE = 1000
_OF_MEMBERS = {"group.instance.id", "group.protocol", "group.remote.assignor"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was found."""

    identities: set[Identity]
    unread: tuple[str, ...]  # partitions whose end was not reached


def outsider(config: dict[str, Any], isolation: str, **more: Any) -> Any:
    """A client of the group that is no member of it, with either group protocol.

    With `group.protocol: consumer` it would bring a member id that the group has never heard of, and offsets
    that it sends would be refused.
    """
    nobody = {name: value for name, value in config.items() if name not in _OF_MEMBERS}
    return Consumer({**nobody, "isolation.level": isolation, **more})


def read_back(
    config: dict[str, Any], topics: tuple[str, ...], since_ms: int, looked_for: set[Identity]
) -> Seen:
    """Look for these records in everything committed since then.

    Args:
        config: settings of the input consumer.
        topics: of outputs; of our own nothing may be undecided there.
        since_ms: wall clock of this machine.
        looked_for: reading ends early when all of them are found.

    Raises:
        KafkaException: Kafka did not answer in time, or refused.
    """
    found: set[Identity] = set()
    if not looked_for:
        return Seen(identities=found, unread=())
    with closing(outsider(config, "read_uncommitted")) as client:
        starts, ends = _range(client, topics, since_ms - _CLOCKS_DIFFER_MS)
    more = {"enable.partition.eof": True, "auto.offset.reset": "earliest"}
    with closing(outsider(config, "read_committed", **more)) as client:
        client.assign(starts)
        give_up_s = time.monotonic() + _PATIENCE_S
        while ends and len(found) < len(looked_for) and time.monotonic() < give_up_s:
            messages = client.consume(1, 0.2)
            messages += client.consume(_AT_ONCE, 0.0) if messages else []
            for message in messages:
                where, read_to = (message.topic(), message.partition()), _read_to(message)
                if message.error() is None:
                    identity = _identity(message)
                    if identity in looked_for:
                        found.add(identity)
                if where in ends:
                    give_up_s = time.monotonic() + _PATIENCE_S
                    if read_to >= ends[where]:
                        del ends[where]
    is_all_found = len(found) == len(looked_for)
    return Seen(identities=found, unread=() if is_all_found else tuple(f"{t}-{p}" for t, p in ends))


def _range(
    client: Any, topics: tuple[str, ...], since_ms: int
) -> tuple[list[TopicPartition], dict[tuple[str, int], int]]:
    """Where to begin in each partition that has something since then, and the offset to reach."""
    starts: list[TopicPartition] = []
    ends: dict[tuple[str, int], int] = {}
    for topic in topics:
        partitions = list(client.list_topics(topic, timeout=_ANSWER_S).topics[topic].partitions)
        firsts = offsets_at(client, topic, partitions, max(since_ms, 0), _ANSWER_S)
        lasts = offsets_at(client, topic, partitions, OFFSET_END, _ANSWER_S)
        for partition, first, end in zip(partitions, firsts, lasts, strict=True):
            if 0 <= first < end:
                starts.append(TopicPartition(topic, partition, first))
                ends[topic, partition] = end
    return starts, ends


def _read_to(message: Any) -> int:
    """Offset up to which its partition has been read; -1 when the client only reports some trouble."""
    error = message.error()
    if error is None:
        return int(message.offset()) + 1
    if error.code() == KafkaError._PARTITION_EOF:  # markers and what was aborted come as no messages
        return int(message.offset())
    if error.fatal():
        raise KafkaException(error)
    return -1


def _identity(message: Any) -> Identity:
    return message.topic(), message.key(), message.value(), tuple(message.headers() or ())
