"""How a producer follows another of its transactional id: let in, and with nothing of the other left open."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

INIT_S = 30.0
_ASK_S = 5.0
_END_S = 20.0
_PURGE_S = 5.0
_NOTHING = b"penstock.nothing"  # key of records that only readers of aborted transactions ever see


@dataclass(frozen=True, slots=True, kw_only=True)
class Estate:
    """Where a transaction of ours can have left something."""

    consumer: dict[str, Any]  # settings of the input consumer
    source: str  # the input topic, whose offsets are committed
    topics: tuple[str, ...]  # every topic of outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Will:
    """What a producer leaves to its successor."""

    done: list[TopicPartition]  # offsets of its last commit that was acknowledged
    wanted: list[TopicPartition]  # offsets of the commit after that, whose fate is not known


def follow(producer: Any, pause_s: float, estate: Estate | None, will: Will) -> None:
    """Be let in as the successor of a producer whose last transaction's fate is not known.

    The broker then has decided that transaction. But a coordinator that begins again after a crash passes
    over every partition without a leader as if it had been deleted (Apache Kafka 4.3.1,
    TransactionMarkerChannelManager), and calls the transaction ended. What has no marker becomes part of
    our next transaction there: aborted outputs would count with its commit, and undecided offsets hold up
    everybody who asks for them. So what was acknowledged and is not shown is committed again, and if nothing
    is missing, a transaction over every partition is aborted. Where all is well, that ends nothing.

    Args:
        producer: new, of the same transactional id.
        pause_s: time to wait before.
        estate: None leaves out the second part.
        will: if exactly what it wanted is committed, the lost transaction was, and what it left open must be
            committed with our next one.

    Raises:
        KafkaException: call it again with this producer after a time-out, with a new one after anything else.
    """
    time.sleep(pause_s)
    producer.init_transactions(INIT_S)
    if estate is None:
        return
    try:
        if not _is_repeated(producer, estate, will.done) and not _are_committed(estate, will.wanted):
            _abort_everywhere(producer, estate)
    except KafkaException as error:
        if error.args[0].code() != KafkaError._TIMED_OUT:
            raise
        raise KafkaException(KafkaError(KafkaError._FAIL, "what was left open is not ended yet")) from error


def discard(producer: Any) -> None:
    """Drop what a producer still holds; nothing of it may be sent beside its successor."""
    with suppress(KafkaException):
        producer.purge()
        producer.flush(_PURGE_S)


def _is_repeated(producer: Any, estate: Estate, done: list[TopicPartition]) -> bool:
    """Commit again what was acknowledged, if the offsets lack it: nobody can have gone on from there."""
    if not done:
        return False
    client = _client(estate, "read_uncommitted")  # waits for no undecided offsets
    try:
        asked = [TopicPartition(tp.topic, tp.partition) for tp in done]
        shown = {tp.partition: tp.offset for tp in client.committed(asked, timeout=_END_S)}
        missing = [tp for tp in done if shown[tp.partition] < tp.offset]
        if missing:
            producer.begin_transaction()
            producer.send_offsets_to_transaction(missing, client.consumer_group_metadata(), _END_S)
            producer.commit_transaction(_END_S)
    finally:
        client.close()
    return bool(missing)


def _are_committed(estate: Estate, offsets: list[TopicPartition]) -> bool:
    if not offsets:
        return False
    client = _client(estate, "read_committed")
    try:
        found = client.committed([TopicPartition(tp.topic, tp.partition) for tp in offsets], timeout=_ASK_S)
    except KafkaException:  # also when they are undecided: then nothing of it is committed
        return False
    finally:
        client.close()
    return {tp.partition: tp.offset for tp in found} == {tp.partition: tp.offset for tp in offsets}


def _abort_everywhere(producer: Any, estate: Estate) -> None:
    client = _client(estate, "read_uncommitted")  # waits for no undecided offsets
    try:
        # What is committed already: it would change nothing, even if it were ever committed.
        (tp,) = client.committed([TopicPartition(estate.source, 0)], timeout=_END_S)
        as_is = TopicPartition(tp.topic, tp.partition, max(tp.offset, 0), tp.metadata or "")
        producer.begin_transaction()
        for topic in estate.topics:
            for partition in producer.list_topics(topic, timeout=_END_S).topics[topic].partitions:
                producer.produce(topic, b"", _NOTHING, partition=partition)
        _flush(producer)
        producer.send_offsets_to_transaction([as_is], client.consumer_group_metadata(), _END_S)
        producer.abort_transaction(_END_S)
    finally:
        client.close()


def _flush(producer: Any) -> None:
    try:
        left = producer.flush(_END_S)
    except SystemError as error:
        # Failed records are reported while the client's fatal error is on its way up (confluent-kafka 2.16).
        raise KafkaException(KafkaError(KafkaError._FAIL, str(error.__cause__))) from error
    if left:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "not every partition can be written to"))


def _client(estate: Estate, isolation: str) -> Any:
    """A client of the group that is no member of it."""
    config = {name: value for name, value in estate.consumer.items() if name != "group.instance.id"}
    return Consumer({**config, "isolation.level": isolation})
