"""Brokers may come and go; what must never be skipped or mixed up stops the worker, which says why."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from benchmarks.workers import create_topics, running, start_worker, topics_of
from tests.pipeline.streams import PARTITIONS, Reader, alone, assert_same, fill, transactions, undisturbed
from tests.services import Service
from tests.services.lossy_wire import LossyWire
from tests.services.mock_cluster import Api
from worker import source as source_module
from worker.exits import Exit, StopWorker
from worker.source import Source, consumer_config

EVENTS = 6_000
WITHIN_S = 180.0
SILENT_MS = "10000"
pytestmark = [pytest.mark.kafka, pytest.mark.redis]


def services(kafka: str, redis_url: str, delivery: str = "exactly_once") -> dict[str, str]:
    """Where a worker process finds them."""
    return {
        "PENSTOCK_KAFKA": kafka,
        "PENSTOCK_STORE": redis_url,
        "PENSTOCK_DELIVERY": delivery,
        "PENSTOCK_DEVICE": "cpu",
    }


def test_thirty_seconds_without_any_broker_are_survived(
    own_broker: Service, redis_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    """The broker is killed in the middle of the stream; nothing exits, nothing is lost or doubled."""
    kafka, env = own_broker.address, services(own_broker.address, redis_url)
    records, half = transactions(EVENTS, seed=21), EVENTS // 2
    prefixes = {mode: f"{topic_prefix}{mode}." for mode in ("exactly_once", "at_least_once")}
    for prefix in prefixes.values():
        create_topics(kafka, topics_of(prefix, PARTITIONS))
    expected = undisturbed(kafka, env, tmp_path, records)
    files, readers = {}, {}
    for mode, prefix in prefixes.items():
        folder = tmp_path / mode
        folder.mkdir()
        files[mode] = alone(folder, prefix, batching={"max_rows": 64}, delivery={"mode": mode})
        readers[mode] = Reader(kafka, prefix)

    def send(part: slice) -> None:
        for prefix in prefixes.values():
            fill(kafka, f"{prefix}transactions", *(column[part] for column in records))

    with running([[file] for file in files.values()], tmp_path, env) as workers:
        send(slice(half))
        for reader in readers.values():
            reader.read_until(lambda found: len(found.times_seen) > half // 4)
        own_broker.kill()
        time.sleep(30.0)
        own_broker.start()
        send(slice(half, None))
        found = {mode: reader.read_all(EVENTS, WITHIN_S) for mode, reader in readers.items()}
        for worker in workers:
            assert worker.process.poll() is None, worker.tail()
    for reader in readers.values():
        reader.close()

    assert_same(found["exactly_once"], expected, EVENTS)
    assert found["at_least_once"].scores == expected.scores


@pytest.mark.parametrize(
    ("mode", "hangs_s"),
    [("exactly_once", 0.5), ("at_least_once", 0.5), ("exactly_once", 17.0)],
    ids=["exactly_once", "at_least_once", "after a commit was given up"],
)
def test_a_worker_asked_to_stop_while_kafka_hangs_leaves_within_ten_seconds_and_loses_nothing(
    own_broker: Service, redis_url: str, topic_prefix: str, tmp_path: Path, mode: str, hangs_s: float
) -> None:
    kafka, env = own_broker.address, services(own_broker.address, redis_url, mode)
    create_topics(kafka, topics_of(topic_prefix, PARTITIONS))
    records = transactions(EVENTS, seed=23)
    expected = undisturbed(kafka, env, tmp_path, records)
    # Small batches, so that some have been sent and wait for their commit whenever it hangs.
    file = alone(tmp_path, topic_prefix, batching={"max_rows": 16}, delivery={"commit_interval": "100ms"})
    reader = Reader(kafka, topic_prefix)

    worker = start_worker([file], tmp_path / "worker.log", env)
    try:
        worker.wait_until_ready()
        fill(kafka, f"{topic_prefix}transactions", *records)
        reader.read_until(lambda found: len(found.times_seen) > 0)
        own_broker.pause()
        time.sleep(hangs_s)
        begun_s = time.monotonic()
        code = worker.stop(20.0)
        took_s = time.monotonic() - begun_s
    finally:
        own_broker.resume()
        worker.process.kill()
        worker.process.wait(10)
    with running([[file]], tmp_path, env):
        found = reader.read_all(EVENTS, WITHIN_S)
    reader.close()

    assert code == Exit.KAFKA, worker.tail()
    assert took_s < 11.0, worker.tail()  # what a busy machine adds to ten seconds
    assert found.scores == expected.scores
    if mode == "exactly_once":
        assert_same(found, expected, EVENTS)


def test_partitions_added_to_the_input_stop_the_worker_with_the_way_out(
    kafka_bootstrap: str, redis_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    create_topics(kafka_bootstrap, topics_of(topic_prefix, 2))
    topic = f"{topic_prefix}transactions"
    env = services(kafka_bootstrap, redis_url)
    file = alone(tmp_path, topic_prefix, kafka={"properties": {"topic.metadata.refresh.interval.ms": 1000}})
    records = transactions(500, seed=22)
    fill(kafka_bootstrap, topic, *records)
    reader = Reader(kafka_bootstrap, topic_prefix)

    worker = start_worker([file], tmp_path / "worker.log", env)
    try:
        reader.read_all(len(records[0]))
        admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
        admin.create_partitions([NewPartitions(topic, 4)])[topic].result(30)
        code = worker.process.wait(WITHIN_S)
    finally:
        worker.process.kill()
        worker.process.wait(10)
        reader.close()

    assert code == Exit.CONFIG, worker.tail()
    assert "has 4 partitions, and had 2" in worker.tail()
    assert "Way out" in worker.tail()


def test_a_deleted_input_topic_stops_the_worker_and_is_named(
    kafka_bootstrap: str, redis_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    create_topics(kafka_bootstrap, topics_of(topic_prefix, 2))
    topic = f"{topic_prefix}transactions"
    file = alone(
        tmp_path,
        topic_prefix,
        kafka={
            "properties": {
                "topic.metadata.refresh.interval.ms": 1000,
                "topic.metadata.propagation.max.ms": 1000,
            }
        },
    )

    with running([[file]], tmp_path, services(kafka_bootstrap, redis_url)) as (worker,):
        admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
        admin.delete_topics([topic])[topic].result(30)
        code = worker.process.wait(WITHIN_S)

    assert code == Exit.KAFKA, worker.tail()
    assert f"{topic}' does not exist any more" in worker.tail()


def cut(kafka: str, topic: str, partition: int, before: int) -> None:
    """Remove the oldest records of a partition, as retention does."""
    admin = AdminClient({"bootstrap.servers": kafka})
    (future,) = admin.delete_records([TopicPartition(topic, partition, before)]).values()
    future.result(30)


@pytest.mark.parametrize("policy", ["stop", "skip_and_count"])
@pytest.mark.parametrize("when", ["away", "standing still", "away, and the group has forgotten its offsets"])
def test_records_that_retention_removed_unread_are_never_skipped_in_silence(
    kafka_bootstrap: str, redis_url: str, topic_prefix: str, tmp_path: Path, policy: str, when: str
) -> None:
    create_topics(kafka_bootstrap, topics_of(topic_prefix, 1))
    topic = f"{topic_prefix}transactions"
    env = services(kafka_bootstrap, redis_url)
    file = alone(tmp_path, topic_prefix, source={"when_skipped": policy}, state={"write_interval": "50ms"})
    keys, values = transactions(600, seed=23)
    reader = Reader(kafka_bootstrap, topic_prefix)
    fill(kafka_bootstrap, topic, keys[:200], values[:200])
    worker = start_worker([file], tmp_path / "worker.log", env)
    try:
        reader.read_all(200)
        if when == "standing still":
            os.kill(worker.process.pid, signal.SIGSTOP)
        else:
            worker.stop()
        if "forgotten" in when:
            admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
            admin.delete_consumer_groups([f"{topic_prefix}fraud"])[f"{topic_prefix}fraud"].result(30)
        fill(kafka_bootstrap, topic, keys[200:], values[200:])
        cut(kafka_bootstrap, topic, 0, 300)
        if when == "standing still":
            os.kill(worker.process.pid, signal.SIGCONT)
        else:
            worker = start_worker([file], tmp_path / "second.log", env)
        if policy == "stop":
            code = worker.process.wait(WITHIN_S)
        else:
            found = reader.read_all(500)
            skipped = re.findall(r"^penstock_skipped_total\S* (\S+)", worker.metrics(), re.MULTILINE)
    finally:
        worker.process.kill()
        worker.process.wait(10)
        reader.close()

    if policy == "stop":
        assert code == Exit.KAFKA, worker.tail()
        assert "100 offsets would get no outcome" in worker.tail()
        return
    assert sorted(found.times_seen) == [(0, offset) for offset in [*range(200), *range(300, 600)]]
    assert all(found.flags[(0, offset)][1] for offset in range(300, 600)), "the gap makes windows incomplete"
    assert '"offsets": 100' in worker.log.read_text()
    assert skipped == ["100.0"]


def test_a_topic_made_anew_is_begun_anew_however_long_it_is_by_then(
    kafka_bootstrap: str, redis_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    """What the store remembers of the old one would pass for progress in the new one."""
    create_topics(kafka_bootstrap, topics_of(topic_prefix, 1))
    topic = f"{topic_prefix}transactions"
    env = services(kafka_bootstrap, redis_url)
    file = alone(tmp_path, topic_prefix)
    keys, values = transactions(900, seed=31)
    fill(kafka_bootstrap, topic, keys[:300], values[:300])
    reader = Reader(kafka_bootstrap, topic_prefix)
    with running([[file]], tmp_path, env):
        reader.read_all(300)
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    admin.delete_topics([topic])[topic].result(30)
    wait_until_gone(admin, topic)
    create_topics(kafka_bootstrap, {topic: 1})
    fill(kafka_bootstrap, topic, keys[300:], values[300:])
    calm = undisturbed(kafka_bootstrap, env, tmp_path, (keys[300:], values[300:]), partitions=1)

    with running([[file]], tmp_path, env):
        found = reader.read_until(lambda found: found.times_seen.total() >= 900)
    reader.close()

    assert [found.times_seen[(0, offset)] for offset in range(600)] == [2] * 300 + [1] * 300
    assert found.scores == calm.scores


def wait_until_gone(admin: AdminClient, topic: str) -> None:
    """A topic that was deleted may be listed for a moment."""
    deadline_s = time.monotonic() + 30
    while topic in admin.list_topics(timeout=10).topics:
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def test_a_group_that_begins_at_the_latest_event_keeps_to_where_it_began(
    kafka_bootstrap: str, redis_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    """Records that come while nobody runs are not before the beginning of one that ran before."""
    create_topics(kafka_bootstrap, topics_of(topic_prefix, 1))
    topic = f"{topic_prefix}transactions"
    env = services(kafka_bootstrap, redis_url)
    file = alone(tmp_path, topic_prefix, source={"start": "latest"})
    keys, values = transactions(500, seed=32)
    fill(kafka_bootstrap, topic, keys[:200], values[:200])
    group = Consumer({"bootstrap.servers": kafka_bootstrap, "group.id": f"{topic_prefix}fraud"})
    worker = start_worker([file], tmp_path / "first.log", env)
    try:
        deadline_s = time.monotonic() + WITHIN_S
        committed = -1
        while committed != 200:
            assert time.monotonic() < deadline_s, worker.tail()
            time.sleep(0.1)
            with suppress(KafkaException):  # a broker that has just begun may know no coordinator yet
                committed = group.committed([TopicPartition(topic, 0)], timeout=10)[0].offset
    finally:
        worker.process.kill()
        worker.process.wait(10)
        group.close()
    fill(kafka_bootstrap, topic, keys[200:], values[200:])

    reader = Reader(kafka_bootstrap, topic_prefix)
    with running([[file]], tmp_path, env):
        found = reader.read_all(300)
    reader.close()

    assert sorted(found.times_seen) == [(0, offset) for offset in range(200, 500)]


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_killed_static_member_is_let_in_again_once_the_group_has_forgotten_it(
    kafka_bootstrap: str, redis_url: str, topic_prefix: str, tmp_path: Path, protocol: str
) -> None:
    """With KIP-848 the broker refuses its instance id until the session of the dead one has ended."""
    create_topics(kafka_bootstrap, topics_of(topic_prefix, 4))
    env = services(kafka_bootstrap, redis_url)
    records = transactions(1200, seed=25)
    topic = f"{topic_prefix}transactions"
    kafka = {"static_membership": True, "protocol": protocol}
    file = alone(tmp_path, topic_prefix, kafka=kafka, delivery={"worker_id": "a"})
    reader = Reader(kafka_bootstrap, topic_prefix)
    fill(kafka_bootstrap, topic, *(part[:600] for part in records))
    first = start_worker([file], tmp_path / "first.log", env)
    try:
        reader.read_all(600)
    finally:
        first.process.kill()
        first.process.wait(10)

    fill(kafka_bootstrap, topic, *(part[600:] for part in records))
    with running([[file]], tmp_path, env):
        found = reader.read_all(1200)
    reader.close()

    assert found.doubled == []


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_of_two_live_workers_with_one_instance_id_one_ends_and_says_so(
    kafka_bootstrap: str,
    topic_prefix: str,
    unique_name: str,
    monkeypatch: pytest.MonkeyPatch,
    protocol: str,
) -> None:
    topic = f"{topic_prefix}transactions"
    create_topics(kafka_bootstrap, {topic: 1})
    monkeypatch.setattr(source_module, "_SHUT_OUT_MS", 5000.0)
    config = {"bootstrap.servers": kafka_bootstrap, "log_level": "0"}
    members: list[Source] = []

    def join_group() -> list[int]:
        assigned: list[int] = []
        members.append(
            Source(consumer_config(config, group=unique_name, protocol=protocol, instance_id="same"), topic)
        )
        members[-1].subscribe(assigned.extend, lambda _: None, lambda _: None)
        return assigned

    def poll_until(is_so: Callable[[], object]) -> None:
        deadline_s = time.monotonic() + WITHIN_S
        while not is_so():
            assert time.monotonic() < deadline_s
            for member in members:
                member.poll(10, 20.0, 0.0)

    first = join_group()
    poll_until(lambda: first)
    join_group()
    with pytest.raises(StopWorker, match="instance") as end:
        poll_until(lambda: False)
    for member in members:
        member.close()

    assert end.value.code == Exit.FENCED


def test_a_lane_to_be_given_up_by_an_answer_that_was_lost_moves_within_the_poll_interval(
    kafka_bootstrap: str, topic_prefix: str, unique_name: str
) -> None:
    topic, has = f"{topic_prefix}transactions", {"deaf": set[int](), "new": set[int]()}
    create_topics(kafka_bootstrap, {topic: 2})
    members: list[Source] = []

    def join_group(name: str, bootstrap: str) -> None:
        config = {"bootstrap.servers": bootstrap, "log_level": "0", "max.poll.interval.ms": SILENT_MS}
        members.append(Source(consumer_config(config, group=unique_name, protocol="consumer"), topic))
        gone = has[name].difference_update
        members[-1].subscribe(has[name].update, gone, gone)

    def poll_until(is_so: Callable[[], object]) -> None:
        deadline_s = time.monotonic() + WITHIN_S
        while not is_so():
            assert time.monotonic() < deadline_s, has
            for member in members:
                member.poll(10, 20.0, 0.0)

    with LossyWire(kafka_bootstrap) as wire:
        join_group("deaf", wire.bootstrap)
        poll_until(lambda: len(has["deaf"]) == 2)
        wire.deaf_to = Api.CONSUMER_GROUP_HEARTBEAT
        join_group("new", kafka_bootstrap)
        hears_again_s = time.monotonic() + 3.0
        poll_until(lambda: time.monotonic() > hears_again_s)
        assert not has["new"], "it waits for the other"
        wire.deaf_to = None
        poll_until(lambda: len(has["deaf"]) == len(has["new"]) == 1)
        for member in members:
            member.close()


def test_a_static_member_gets_its_lanes_back_without_a_rebalance(
    kafka_bootstrap: str, redis_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    create_topics(kafka_bootstrap, topics_of(topic_prefix, 4))
    env = services(kafka_bootstrap, redis_url)
    records = transactions(1200, seed=24)
    topic = f"{topic_prefix}transactions"
    files = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        files.append(
            alone(folder, topic_prefix, kafka={"static_membership": True}, delivery={"worker_id": name})
        )
    reader = Reader(kafka_bootstrap, topic_prefix)

    with running([[files[0]], [files[1]]], tmp_path, env) as (first, second):
        fill(kafka_bootstrap, topic, *(part[:600] for part in records))
        reader.read_all(600)
        taken = second.log.read_text().count('"lane taken"')
        assert first.stop() == Exit.OK
        with running([[files[0]]], tmp_path / "a", env):
            fill(kafka_bootstrap, topic, *(part[600:] for part in records))
            found = reader.read_all(1200)
            assert second.log.read_text().count('"lane taken"') == taken, "the other kept its own"
    reader.close()

    assert found.doubled == []
