"""A commit of offsets keeps no poll waiting, and a poll that serves the group keeps no commit waiting."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from tests.conftest import MakeTopics
from tests.services.mock_cluster import Api, MockCluster
from worker.librdkafka import is_known
from worker.offset_commit import NativeCommit, PlainCommit, commit_of

WITHIN_S = 30.0
LATE_MS = 3000
Begin = Callable[[Any, list[TopicPartition]], NativeCommit | PlainCommit]
pytestmark = pytest.mark.skipif(not is_known(), reason="another version of the client: we use its own calls")
either = pytest.mark.parametrize("begin", [NativeCommit, PlainCommit])


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.kafka)])
def places(request: pytest.FixtureRequest, unique_name: str) -> tuple[str, str]:
    """Bootstrap and a topic of two partitions."""
    if request.param == "fake":
        return MockCluster({unique_name: 2}).bootstrap, unique_name
    make_topics: MakeTopics = request.getfixturevalue("make_topics")
    return request.getfixturevalue("kafka_bootstrap"), make_topics("offsets", 2)


@pytest.fixture
def member(places: tuple[str, str], unique_name: str) -> Iterator[Consumer]:
    """A member of a group that has both partitions."""
    opened = join(*places, unique_name)
    yield opened
    opened.close()


def join(bootstrap: str, topic: str, group: str, **callbacks: Any) -> Consumer:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False})
    consumer.subscribe([topic], **callbacks)
    give_up_s = time.monotonic() + WITHIN_S
    while len(consumer.assignment()) < 2:
        assert time.monotonic() < give_up_s
        consumer.consume(1, 0.1)
    return consumer


def committed(member: Consumer, topic: str) -> list[tuple[int, str]]:
    """Offset and metadata of each partition."""
    found = member.committed([TopicPartition(topic, 0), TopicPartition(topic, 1)], WITHIN_S)
    return [(each.offset, each.metadata or "") for each in found]


@either
def test_what_is_committed_is_what_the_group_goes_on_from(
    member: Consumer, places: tuple[str, str], begin: Begin
) -> None:
    _, topic = places
    for offset, metadata in ((3, "partitions=2"), (7, "partitions=2 ü"), (8, "")):
        wanted = [TopicPartition(topic, 0, offset, metadata), TopicPartition(topic, 1, offset + 1)]

        commit = begin(member, wanted)
        commit.result(WITHIN_S)

        assert commit.done()
        assert committed(member, topic) == [(offset, metadata), (offset + 1, "")]


def test_nothing_to_commit_is_committed_at_once(member: Consumer) -> None:
    commit = commit_of(member, [])

    commit.result(0.0)
    assert commit.done()


@either
def test_what_is_noted_with_an_offset_comes_back_as_it_was_written(
    member: Consumer, places: tuple[str, str], begin: Begin
) -> None:
    """However long it is, and whatever was in memory before it."""
    _, topic = places
    for length in range(1, 100):
        noted = ["x" * length, "y" * (100 - length)]
        begin(member, [TopicPartition(topic, i, 1, noted[i]) for i in range(2)]).result(WITHIN_S)

        assert [metadata for _, metadata in committed(member, topic)] == noted


@either
@pytest.mark.parametrize(
    "code", [KafkaError.REBALANCE_IN_PROGRESS, KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID]
)
def test_what_kafka_answers_is_raised_each_time_it_is_asked_for(
    unique_name: str, begin: Begin, code: int
) -> None:
    cluster = MockCluster({unique_name: 2})
    member = join(cluster.bootstrap, unique_name, unique_name)
    cluster.answer(Api.OFFSET_COMMIT, code)

    commit = begin(member, [TopicPartition(unique_name, 0, 1)])

    for _ in range(2):
        with pytest.raises(KafkaException) as caught:
            commit.result(WITHIN_S)
        assert caught.value.args[0].code() == code
    member.close()


def test_a_commit_that_is_not_answered_keeps_no_poll_waiting(unique_name: str) -> None:
    cluster = MockCluster({unique_name: 2})
    member = join(cluster.bootstrap, unique_name, unique_name)
    cluster.answer_late(Api.OFFSET_COMMIT, LATE_MS)
    commit = NativeCommit(member, [TopicPartition(unique_name, 0, 1)])

    member.consume(1, 0.0)

    assert not commit.done(), "the poll has not waited for it"
    with pytest.raises(TimeoutError):
        commit.result(0.1)
    commit.result(WITHIN_S)
    member.close()


@either
def test_a_partition_that_is_to_be_given_up_can_be_committed_first(
    places: tuple[str, str], unique_name: str, begin: Begin
) -> None:
    """In the callback that a poll runs: while it runs, the client lets no other thread in."""
    _, topic = places
    given_up: list[Exception | None] = []

    def give_up(member: Any, _: list[TopicPartition]) -> None:
        try:
            begin(member, [TopicPartition(topic, 0, 5), TopicPartition(topic, 1, 5)]).result(WITHIN_S / 3)
            given_up.append(None)
        except (KafkaException, TimeoutError) as error:
            given_up.append(error)

    member = join(*places, unique_name, on_revoke=give_up)
    member.unsubscribe()
    give_up_s = time.monotonic() + WITHIN_S
    while not given_up:
        assert time.monotonic() < give_up_s
        member.consume(1, 0.1)
    member.close()

    assert given_up == [None]


def test_one_that_nobody_waits_for_any_more_does_not_keep_the_consumer_from_closing(
    unique_name: str,
) -> None:
    cluster = MockCluster({unique_name: 2})
    member = join(cluster.bootstrap, unique_name, unique_name)
    cluster.answer_late(Api.OFFSET_COMMIT, LATE_MS)

    NativeCommit(member, [TopicPartition(unique_name, 0, 1)])  # and let go of
    member.close()
