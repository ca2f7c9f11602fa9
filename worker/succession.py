"""How a producer follows another of its transactional id: all that counts is there, and nothing else."""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from worker.commits import Commit, Sent, hand_over
from worker.read_back import outsider, read_back
from worker.refusals import Refusals

INIT_S = 30.0
_ASK_S = 20.0
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

    done: tuple[Commit, ...]  # acknowledged, and perhaps not everywhere: the last one, more after an outage
    wanted: Commit | None  # the one after them, whose fate is not known


def let_in(producer: Any, refusals: Refusals) -> None:
    """Let a new producer begin: the broker ends what others of its transactional id have begun.

    Raises:
        KafkaException: call it again with this producer if that may be repeated, with a new one otherwise.
    """
    producer.init_transactions(INIT_S)
    producer.poll(0)
    refusals.was_without_brokers = False  # no broker can have forgotten anything of this one yet


def follow(producer: Any, estate: Estate, will: Will) -> tuple[Commit, ...]:
    """Make everything count that was acknowledged, and nothing else, before the first transaction.

    The broker has let this producer in, and so has decided the last transaction of its predecessor. But a
    coordinator that begins again after a crash passes over every partition without a leader as if it had been
    deleted (Apache Kafka 4.3.1, TransactionMarkerChannelManager), and calls the transaction ended. What has
    no marker becomes part of the next transaction there: aborted outputs would count with its commit,
    acknowledged ones would go with its abort, and undecided offsets hold up everybody who asks for them.

    So whatever is open is aborted in all partitions of outputs, and then what was acknowledged is looked for
    and sent again where it is missing. The lost transaction was done if the group shows the name of its
    commit, or if any of its records is seen; then it is no different from the others.

    Args:
        producer: new, of the same transactional id, and let in.
        will: of its predecessor.

    Returns:
        What was found to be acknowledged, for the next will.

    Raises:
        KafkaException: begin again with a new producer and the same will.
    """
    try:
        return _settle(producer, estate, will)
    except SystemError as error:
        # Failed records are reported while the client's fatal error is on its way up (confluent-kafka 2.16).
        raise KafkaException(KafkaError(KafkaError._FAIL, str(error.__cause__))) from error
    except KafkaException as error:
        if error.args[0].code() != KafkaError._TIMED_OUT:
            raise
        raise KafkaException(KafkaError(KafkaError._FAIL, "what was left open is not ended yet")) from error


def discard(producer: Any) -> None:
    """Drop what a producer still holds; nothing of it may be sent beside its successor."""
    with suppress(KafkaException):
        producer.purge()
        producer.flush(_PURGE_S)


def _settle(producer: Any, estate: Estate, will: Will) -> tuple[Commit, ...]:
    with closing(outsider(estate.consumer, "read_uncommitted")) as client:  # waits for no undecided offsets
        shown = _shown(client, estate.source, will)
        _abort_outputs(producer, estate.topics)
        commits = will.done if will.wanted is None else (*will.done, will.wanted)
        looked_for = {each for commit in commits for sent in commit.sent for each in sent.each()}
        since_ms = min((commit.since_ms for commit in commits), default=0)
        seen = read_back(estate.consumer, estate.topics, since_ms, looked_for)
        done = will.done
        if will.wanted is not None and _was_done(will.wanted, shown, seen.identities):
            done = commits
        missing = _missing(done, seen.identities)
        if missing and seen.unread:
            _tell_what_is_unknown(missing, seen.unread)
            missing = []
        behind = _behind(done, shown)
        if not behind:
            _abort_offsets(producer, client, shown[0])
        elif will.wanted is not None and done is not commits:
            # Undecided offsets of what was not done would be committed too, if nothing took their place.
            covered = {tp.partition for tp in behind}
            behind += [shown[tp.partition] for tp in will.wanted.offsets if tp.partition not in covered]
        if behind or missing:
            _commit(producer, client, missing, [tp for tp in behind if tp.offset >= 0])
    return done


def _shown(client: Any, topic: str, will: Will) -> dict[int, TopicPartition]:
    """What the group has committed, of partition 0 and of those that the will is about."""
    commits = (*will.done, *([will.wanted] if will.wanted is not None else []))
    partitions = {0}.union(tp.partition for commit in commits for tp in commit.offsets)
    found = client.committed([TopicPartition(topic, p) for p in sorted(partitions)], timeout=_ASK_S)
    for tp in found:
        if tp.error is not None:
            raise KafkaException(tp.error)
    return {tp.partition: tp for tp in found}


def _was_done(commit: Commit, shown: dict[int, TopicPartition], seen: set[Any]) -> bool:
    if any(shown[tp.partition].metadata == tp.metadata for tp in commit.offsets):
        return True
    return any(identity in seen for sent in commit.sent for identity in sent.each())


def _behind(done: tuple[Commit, ...], shown: dict[int, TopicPartition]) -> list[TopicPartition]:
    """Acknowledged offsets that the group does not show: undecided, nobody can have gone on from there."""
    last = {tp.partition: tp for commit in done for tp in commit.offsets}
    return [tp for p, tp in last.items() if shown[p].offset < tp.offset]


def _missing(done: tuple[Commit, ...], seen: set[Any]) -> list[Sent]:
    left = [sent.without(seen) for commit in done for sent in commit.sent]
    return [sent for sent in left if len(sent.values)]


def _abort_outputs(producer: Any, topics: tuple[str, ...]) -> None:
    """End whatever is open in any partition; where all is well, that ends nothing."""
    producer.begin_transaction()
    for topic in topics:
        for partition in producer.list_topics(topic, timeout=_END_S).topics[topic].partitions:
            producer.produce(topic, b"", _NOTHING, partition=partition)
    if producer.flush(_END_S):
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "not every partition can be written to"))
    producer.abort_transaction(_END_S)


def _abort_offsets(producer: Any, client: Any, shown: TopicPartition) -> None:
    # What is committed already: it would change nothing, even if it were ever committed.
    as_is = TopicPartition(shown.topic, shown.partition, max(shown.offset, 0), shown.metadata or "")
    producer.begin_transaction()
    producer.send_offsets_to_transaction([as_is], client.consumer_group_metadata(), _END_S)
    producer.abort_transaction(_END_S)


def _commit(producer: Any, client: Any, sent: list[Sent], offsets: list[TopicPartition]) -> None:
    records = sum(len(each.values) for each in sent)
    structlog.get_logger().warning(
        "a broker forgot a part of an acknowledged commit: it is made again",
        outputs=records,
        offsets={tp.partition: tp.offset for tp in offsets},
    )
    producer.begin_transaction()
    for each in sent:
        hand_over(producer, each, _END_S)
    if offsets:
        producer.send_offsets_to_transaction(offsets, client.consumer_group_metadata(), _END_S)
    producer.commit_transaction(_END_S)


def _tell_what_is_unknown(missing: list[Sent], unread: tuple[str, ...]) -> None:
    structlog.get_logger().error(
        "whether acknowledged outputs are there cannot be seen, as these partitions cannot be read to their "
        "end: another producer's transaction is open there, or the right to read is missing",
        outputs=sum(len(each.values) for each in missing),
        partitions=unread,
    )
