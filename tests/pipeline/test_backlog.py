"""What `penstock lag` says on a real Kafka: whether a record waits, and for how long."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from benchmarks.workers import REPOSITORY, create_topics
from tests.conftest import MakeTopics
from tests.pipeline.streams import alone
from tests.services import Service
from worker import backlog as backlog_module
from worker.backlog import Backlog, Waiting
from worker.config import load_pipeline

pytestmark = pytest.mark.kafka
WITHIN_S = 60.0
NOBODY = Waiting(partition=0, committed=None, end=0, records=0, seconds=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A topic of one partition, and the lag of a group that reads it."""

    kafka: str
    topic: str
    group: str
    file: Path
    backlog: Backlog

    def lag(self, now_ms: int | None = None) -> Waiting:
        """What waits in partition 0."""
        (only,) = self.backlog.measure(now_ms or time.time_ns() // 1_000_000)
        return only

    def send(self, count: int, *, age_ms: int = 0, transaction: str | None = None) -> None:
        """Records so old; with `commit`, `abort` or `leave open` in a transaction that ends so."""
        config = {"bootstrap.servers": self.kafka, "linger.ms": 0}
        producer = Producer({**config, **({"transactional.id": self.topic} if transaction else {})})
        if transaction:
            producer.init_transactions(30)
            producer.begin_transaction()
        at_ms = time.time_ns() // 1_000_000 - age_ms
        for n in range(count):
            producer.produce(self.topic, b"%d" % n, b"k", timestamp=at_ms)
        assert producer.flush(30) == 0
        if transaction == "commit":
            producer.commit_transaction(30)
        elif transaction == "abort":
            producer.abort_transaction(30)

    def commit(self, offset: int) -> None:
        """As the group: everything before this offset is done."""
        client = Consumer({"bootstrap.servers": self.kafka, "group.id": self.group})
        client.commit(offsets=[TopicPartition(self.topic, 0, offset)], asynchronous=False)
        client.close()

    def end(self) -> int:
        """The next offset to be written."""
        partition = TopicPartition(self.topic, 0)
        admin = AdminClient({"bootstrap.servers": self.kafka})
        return int(admin.list_offsets({partition: OffsetSpec.latest()})[partition].result(30).offset)


@pytest.fixture
def given(
    kafka_bootstrap: str, make_topics: MakeTopics, topic_prefix: str, tmp_path: Path
) -> Iterator[Input]:
    """An empty input topic, and a pipeline whose group has never read it."""
    topic = make_topics("transactions", 1)
    file = alone(tmp_path, topic_prefix)
    pipeline = load_pipeline(file, {"PENSTOCK_KAFKA": kafka_bootstrap})
    backlog = Backlog(pipeline)
    yield Input(kafka=kafka_bootstrap, topic=topic, group=pipeline.kafka.group, file=file, backlog=backlog)
    backlog.close()


def test_a_topic_without_records_and_a_group_without_offsets_wait_for_nothing(given: Input) -> None:
    assert given.lag() == NOBODY


def test_a_record_waits_from_its_own_time_until_the_group_has_passed_it(given: Input) -> None:
    given.send(2, age_ms=40_000)
    given.send(1, age_ms=10_000)

    first = given.lag()
    given.commit(2)
    second = given.lag()
    given.commit(3)

    assert (first.committed, first.end, first.records) == (None, 3, 3)
    assert 40.0 <= first.seconds < 40.0 + WITHIN_S
    assert (second.committed, second.records) == (2, 1)
    assert 10.0 <= second.seconds < first.seconds
    assert given.lag() == Waiting(partition=0, committed=3, end=3, records=0, seconds=0.0)


def test_markers_of_transactions_are_no_lag_and_the_next_record_is(
    given: Input, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[dict[int, int]] = []
    first_records = backlog_module._first_records

    def counted(reader: Any, topic: str, wanted: Mapping[int, int]) -> Any:
        read.extend([dict(wanted)] if wanted else [])
        return first_records(reader, topic, wanted)

    monkeypatch.setattr(backlog_module, "_first_records", counted)
    given.send(5, transaction="commit")
    given.commit(5)  # as a worker does: the offset after the last record

    asked = [given.lag() for _ in range(3)]
    assert read == [{0: 5}]  # the marker is looked at once
    given.send(1, transaction="commit")
    woken = given.lag()

    assert given.end() == 8  # 5 records, a marker, a record, a marker
    assert [(each.end, each.records, each.seconds) for each in asked] == [(6, 0, 0.0)] * 3
    assert woken.seconds > 0
    assert woken.records == 2  # at most: the marker after it has an offset too


def test_aborted_records_wake_nobody(given: Input) -> None:
    given.send(3)
    given.commit(3)
    given.send(20, transaction="abort")

    assert given.lag().seconds == 0.0
    given.send(1)
    waiting = given.lag()
    assert waiting.seconds > 0
    assert waiting.records == 1


def test_a_record_of_a_transaction_that_is_open_cannot_be_read_and_so_does_not_wait(given: Input) -> None:
    given.send(1, transaction="leave open")

    assert given.lag().seconds == 0.0
    given.send(1, transaction="commit")  # the same id: the open one is aborted first
    assert given.lag().seconds > 0


def test_a_group_that_begins_at_the_latest_event_has_nothing_to_catch_up_on(
    given: Input, kafka_bootstrap: str, topic_prefix: str, tmp_path: Path
) -> None:
    given.send(3)
    file = alone(tmp_path, topic_prefix, source={"start": "latest"})
    backlog = Backlog(load_pipeline(file, {"PENSTOCK_KAFKA": kafka_bootstrap}))

    assert [each.seconds for each in backlog.measure(0)] == [0.0]
    given.commit(2)
    assert [each.records for each in backlog.measure(0)] == [1]
    backlog.close()


def test_records_that_retention_removed_do_not_wait_any_more(given: Input) -> None:
    given.send(4)
    given.commit(1)
    assert given.lag().records == 3

    admin = AdminClient({"bootstrap.servers": given.kafka})
    for future in admin.delete_records([TopicPartition(given.topic, 0, 4)]).values():
        future.result(30)

    assert given.lag().seconds == 0.0


def test_a_clock_behind_the_producers_does_not_hide_that_a_record_waits(given: Input) -> None:
    given.send(1)

    assert given.lag(now_ms=1).seconds > 0


def test_offsets_that_go_back_make_records_wait_again(given: Input) -> None:
    given.send(4)
    given.commit(4)
    assert given.lag().records == 0
    given.commit(1)
    assert given.lag().records == 3


def test_an_undecided_commit_of_a_worker_holds_the_answer_up_no_longer_than_any_other(given: Input) -> None:
    given.send(3)
    given.commit(1)
    producer = Producer({"bootstrap.servers": given.kafka, "transactional.id": given.group})
    member = Consumer({"bootstrap.servers": given.kafka, "group.id": given.group})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.send_offsets_to_transaction(
        [TopicPartition(given.topic, 0, 3)], member.consumer_group_metadata(), 30
    )

    assert given.lag().committed == 1
    producer.commit_transaction(30)
    give_up_s = time.monotonic() + 30
    while given.lag().committed == 1 and time.monotonic() < give_up_s:  # its marker is on its way
        time.sleep(0.1)
    assert given.lag().committed == 3
    member.close()


def test_who_asks_is_no_member_of_the_group(given: Input) -> None:
    given.send(1)
    given.lag()

    admin = AdminClient({"bootstrap.servers": given.kafka})
    group = admin.describe_consumer_groups([given.group])[given.group].result(30)
    assert group.members == []


def test_the_command_says_it_once_as_a_table_or_as_json(given: Input) -> None:
    given.send(2, age_ms=90_000)

    shown = _penstock(given, "lag", str(given.file))
    line = json.loads(_penstock(given, "lag", str(given.file), "--json"))

    assert re.search(r"^fraud: [\d,.]+ s behind \(topic \S+, group \S+\)$", shown, re.MULTILINE)
    assert (line["pipeline"], line["partition"], line["records"], line["committed"]) == ("fraud", 0, 2, None)
    assert line["seconds"] >= 90


def test_served_lag_goes_away_with_the_broker_and_comes_back_with_it(
    own_broker: Service, topic_prefix: str, tmp_path: Path
) -> None:
    file = alone(tmp_path, topic_prefix)
    create_topics(own_broker.address, {f"{topic_prefix}transactions": 1})
    producer = Producer({"bootstrap.servers": own_broker.address})
    producer.produce(f"{topic_prefix}transactions", b"v", b"k")
    assert producer.flush(30) == 0
    log = tmp_path / "lag.log"
    environment = {**os.environ, "PENSTOCK_KAFKA": own_broker.address, "PENSTOCK_ADMIN_PORT": "0"}
    command = [sys.executable, "-m", "worker.cli", "lag", str(file), "--serve", "--every", "200ms"]
    with log.open("wb") as sink:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=sink, stderr=sink)
    try:
        address = _until(lambda: re.search(r'"address": ?"([^"]+)"', log.read_text()), log)[1]
        seconds = re.compile(r'^penstock_backlog_seconds{.*pipeline="fraud"} (\S+)$', re.MULTILINE)

        def page(path: str) -> tuple[int, str]:
            try:
                with urllib.request.urlopen(f"{address}{path}", timeout=10) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()

        assert float(_until(lambda: seconds.search(page("/metrics")[1]), log)[1]) > 0
        assert page("/readyz")[0] == 200
        own_broker.pause()
        _until(lambda: page("/readyz")[0] == 503, log)
        while_away = page("/metrics")[1]
        health = page("/healthz")[0]
        own_broker.resume()
        _until(lambda: seconds.search(page("/metrics")[1]), log)
        process.send_signal(signal.SIGTERM)
        code = process.wait(WITHIN_S)
    finally:
        process.kill()
        process.wait()

    assert seconds.search(while_away) is None
    assert 'penstock_backlog_known{pipeline="fraud"} 0.0' in while_away
    assert health == 200  # it waits, and no supervisor should restart it for that
    assert code == 0


def _penstock(given: Input, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "worker.cli", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PENSTOCK_KAFKA": given.kafka},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _until(found: Callable[[], Any], log: Path) -> Any:
    deadline_s = time.monotonic() + WITHIN_S
    while not (result := found()):
        assert time.monotonic() < deadline_s, log.read_text()[-2000:]
        time.sleep(0.1)
    return result
