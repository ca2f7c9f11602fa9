"""What a commit makes count together, kept until it surely does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from schemas.spans import Spans
from worker.patience import ENDLESS, Answer, Patience
from worker.records import unpack_headers
from worker.transaction_errors import NOT_A_MEMBER, REBALANCING

QUEUE_FULL_WAIT_S = 0.1
_RETRIES = 3


class NotCommittedError(Exception):
    """What was sent since the last commit may not count; only the group's committed offsets tell.

    The lanes must be taken again and read from there.
    """

    def __init__(self, message: str, *, is_member: bool = True) -> None:
        super().__init__(message)
        self.is_member = is_member  # False: the group has probably given our lanes to somebody else


# Topic, key, value and headers. Outcomes of different records differ in their source. Those that two workers
# made of one record differ too, or one would take what the other did for its own: scores and alerts say when
# they were scored, dead letters in which commit.
Identity = tuple[str, bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]


class Sent(NamedTuple):
    """Records of one call."""

    topic: str
    values: Spans
    keys: Spans
    headers: Spans | None  # packed; None: they have none

    def each(self) -> Iterator[Identity]:
        """One after the other; topic, key, value and headers tell each of them from all others."""
        for row in range(len(self.values)):
            packed = self.headers.get(row) if self.headers else None
            headers = tuple(unpack_headers(packed)) if packed else ()
            yield self.topic, self.keys.get(row), self.values.get(row), headers

    def apart(self) -> Sent:
        """The same without the buffers that they share with others, to be kept for longer than those."""
        return self._replace(values=self.values.apart(), keys=self.keys.apart())

    def without(self, seen: set[Identity]) -> Sent:
        """Those that are not among these."""
        left = np.array([row for row, identity in enumerate(self.each()) if identity not in seen], np.int64)
        headers = self.headers.take(left) if self.headers else None
        return Sent(self.topic, self.values.take(left), self.keys.take(left), headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """Outputs and the offsets of their sources, in one transaction."""

    offsets: list[TopicPartition]  # in their metadata the commit's name
    sent: tuple[Sent, ...]
    since_ms: int  # wall clock before anything was sent


def named(offsets: list[TopicPartition], name: str) -> list[TopicPartition]:
    """The same offsets; where the group shows the name, this very commit was done."""
    return [
        TopicPartition(tp.topic, tp.partition, tp.offset, f"{tp.metadata or ''} commit={name}".strip())
        for tp in offsets
    ]


def hand_over(
    producer: Any,
    records: Sent,
    within_s: float,
    patience: Patience = ENDLESS,
    on_delivery: Callable[[Any, Any], None] | None = None,
) -> None:
    """Give records to the client, in order, as fast as it takes them.

    Raises:
        KafkaException: the client refuses, or had no room for one of them for so long.
    """
    for topic, key, value, headers in records.each():
        give_up_s = time.monotonic() + within_s
        while True:
            try:
                producer.produce(topic, value, key, headers=list(headers) or None, on_delivery=on_delivery)
                break
            except BufferError:
                if not patience.left_s(give_up_s):
                    raise full() from None
                producer.poll(QUEUE_FULL_WAIT_S)
    producer.poll(0)


def full() -> KafkaException:
    """The client has no room, and does not get any."""
    return KafkaException(KafkaError(KafkaError._QUEUE_FULL, "no room: the broker takes nothing any more"))


def end_transaction(producer: Any, offsets: list[TopicPartition], member: Any, give_up_s: float) -> None:
    """Send the offsets and commit. Calls have no time-out of their own, as librdkafka asks.

    Args:
        give_up_s: of the monotonic clock; nothing is committed later.

    Raises:
        KafkaException: one of the calls failed, and may not be repeated.
        TimeoutError: it was too late to commit, and nothing is committed.
    """
    _retried(lambda: producer.send_offsets_to_transaction(offsets, member))
    if time.monotonic() >= give_up_s:  # nobody waits for it any more, or the whole process stood still
        raise TimeoutError("too late, a successor decides")
    _retried(producer.commit_transaction)


def are_committed(end: Answer, patience: Patience, give_up_s: float) -> bool:
    """Wait for a commit of offsets. Outputs are acknowledged: the producer is well whatever is answered.

    Returns:
        False: the group is in the middle of a rebalance; commit again soon.

    Raises:
        NotCommittedError: see there.
    """
    try:
        patience.answer(end, give_up_s)
    except KafkaException as error:
        code = error.args[0].code()
        if code in REBALANCING:
            return False
        raise NotCommittedError(error.args[0].str(), is_member=code not in NOT_A_MEMBER) from error
    except TimeoutError as error:
        raise NotCommittedError(f"commit of offsets: {error}") from error
    return True


def _retried(call: Callable[[], Any]) -> None:
    """Repeat a call that may be; with the same arguments, as it must be."""
    for left in reversed(range(_RETRIES)):
        try:
            call()
            return
        except KafkaException as error:
            said = error.args[0]
            if not left or said.fatal() or said.txn_requires_abort() or not said.retriable():
                raise
