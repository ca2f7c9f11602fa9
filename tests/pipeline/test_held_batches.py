"""While a commit is under way the loop scores on, and sends where the commit does not cover that."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from prometheus_client import CollectorRegistry

from benchmarks.workers import create_topics, topics_of
from tests.pipeline.streams import PARTITIONS, Reader, alone, assert_same, fill, transactions, undisturbed
from worker import run as run_module
from worker import sink as sink_module
from worker.assemble import assemble, store_opener
from worker.commits import end_transaction
from worker.config import load_pipeline
from worker.native_send import NativeSend
from worker.run import HELD_AT_MOST, Worker
from worker.sink import Sink

EVENTS = 12_000
WITHIN_S = 60.0


@pytest.mark.kafka
@pytest.mark.redis
def test_while_a_commit_is_under_way_batches_are_scored_and_nothing_is_sent(
    kafka_bootstrap: str, redis_url: str, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {"PENSTOCK_KAFKA": kafka_bootstrap, "PENSTOCK_STORE": redis_url, "PENSTOCK_DEVICE": "cpu"}
    create_topics(kafka_bootstrap, topics_of(topic_prefix, PARTITIONS))
    records = transactions(EVENTS, seed=53)
    records[1][:500:10] = [b"junk"] * 50  # dead letters are sent as they are found
    fill(kafka_bootstrap, f"{topic_prefix}transactions", *records)
    under_way, sent_meanwhile, most_held = threading.Event(), 0, 0

    def slowly(*arguments: Any) -> None:
        under_way.set()
        time.sleep(0.2)
        try:
            end_transaction(*arguments)
        finally:
            under_way.clear()

    def counted(self: Sink, *arguments: Any, send: Any = Sink._send) -> None:
        nonlocal sent_meanwhile, most_held
        sent_meanwhile += under_way.is_set()
        send(self, *arguments)

    def noted(self: Worker, publish_held: Any = Worker._publish_held) -> None:
        nonlocal most_held
        most_held = max(most_held, len(self._held))
        publish_held(self)

    monkeypatch.setattr(sink_module, "end_transaction", slowly)
    monkeypatch.setattr(Sink, "_send", counted)
    monkeypatch.setattr(Worker, "_publish_held", noted)
    file = alone(tmp_path, topic_prefix, batching={"max_rows": 256}, delivery={"commit_interval": "20ms"})
    worker = Worker(assemble(load_pipeline(file, env), store_opener(), CollectorRegistry()))
    reader, stop = Reader(kafka_bootstrap, topic_prefix), threading.Event()
    thread = threading.Thread(target=worker.run, args=(stop,))
    thread.start()
    found = reader.read_all(EVENTS, WITHIN_S)
    stop.set()
    thread.join(WITHIN_S)
    reader.close()
    monkeypatch.undo()

    assert most_held == HELD_AT_MOST
    assert sent_meanwhile == 0
    assert_same(found, undisturbed(kafka_bootstrap, env, tmp_path, records), EVENTS)


@pytest.mark.kafka
@pytest.mark.redis
def test_in_at_least_once_outputs_go_on_and_offsets_wait_until_those_before_them_are_acknowledged(
    kafka_bootstrap: str, redis_url: str, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {"PENSTOCK_KAFKA": kafka_bootstrap, "PENSTOCK_STORE": redis_url, "PENSTOCK_DEVICE": "cpu"}
    create_topics(kafka_bootstrap, topics_of(topic_prefix, PARTITIONS))
    records = transactions(EVENTS, seed=54)
    fill(kafka_bootstrap, f"{topic_prefix}transactions", *records)
    is_acknowledged = threading.Event()

    def late(self: NativeSend, under_way: Any = NativeSend.under_way) -> int:
        return int(under_way(self)) if is_acknowledged.is_set() else 1

    monkeypatch.setattr(NativeSend, "under_way", late)
    monkeypatch.setattr(run_module, "LATE_COMMIT_MS", WITHIN_S * 1000)
    delivery = {"mode": "at_least_once", "commit_interval": "20ms"}
    state = {"write_interval": "50ms"}  # rows wait for the commit, and nothing waits for them
    file = alone(tmp_path, topic_prefix, batching={"max_rows": 256}, delivery=delivery, state=state)
    pipeline = load_pipeline(file, env)
    worker = Worker(assemble(pipeline, store_opener(), CollectorRegistry()))
    reader, stop = Reader(kafka_bootstrap, topic_prefix), threading.Event()
    group = Consumer({"bootstrap.servers": kafka_bootstrap, "group.id": pipeline.kafka.group})
    places = [TopicPartition(f"{topic_prefix}transactions", partition) for partition in range(PARTITIONS)]

    def committed() -> int:
        return sum(max(0, place.offset) for place in group.committed(places, timeout=WITHIN_S))

    thread = threading.Thread(target=worker.run, args=(stop,))
    thread.start()
    try:
        found = reader.read_all(EVENTS, WITHIN_S)
        assert committed() == 0
        is_acknowledged.set()
        give_up_s = time.monotonic() + WITHIN_S
        while committed() < EVENTS and time.monotonic() < give_up_s:
            time.sleep(0.05)
        assert committed() == EVENTS
    finally:
        is_acknowledged.set()
        stop.set()
        thread.join(WITHIN_S)
    reader.close()
    group.close()
    monkeypatch.undo()
    assert_same(found, undisturbed(kafka_bootstrap, env, tmp_path, records), EVENTS)


@pytest.mark.kafka
@pytest.mark.parametrize("mode", ["exactly_once", "at_least_once"])
def test_where_nothing_more_comes_what_was_scored_is_committed_before_its_interval_is_over(
    kafka_bootstrap: str, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    env = {"PENSTOCK_KAFKA": kafka_bootstrap, "PENSTOCK_DEVICE": "cpu"}
    create_topics(kafka_bootstrap, topics_of(topic_prefix, PARTITIONS))
    fill(kafka_bootstrap, f"{topic_prefix}transactions", *transactions(500, seed=55))
    ticks = itertools.count()  # a clock of turns: a machine that stands still for a while does not move it
    begun: list[tuple[int, int]] = []
    committed = threading.Event()

    def noted(self: Sink, offsets: list[Any], consumer: Any, begin: Any = Sink.begin_commit) -> None:
        begun.append((next(ticks), sum(place.offset for place in offsets)))
        begin(self, offsets, consumer)
        if begun[-1][1] == 500:
            committed.set()

    monkeypatch.setattr(Sink, "begin_commit", noted)
    delivery = {"mode": mode, "commit_interval": "2s"}
    file = alone(tmp_path, topic_prefix, delivery=delivery, state={"store": "memory://"})
    line = assemble(load_pipeline(file, env), store_opener(), CollectorRegistry())
    worker = Worker(line, now_ms=lambda: float(next(ticks)))
    stop = threading.Event()
    thread = threading.Thread(target=worker.run, args=(stop,))
    thread.start()
    assert committed.wait(WITHIN_S)
    stop.set()
    thread.join(WITHIN_S)

    ends = [tick for tick, offsets in begun if offsets == 500]
    starts = [tick for tick, offsets in begun if offsets < 500] or [0]
    assert ends[0] - starts[-1] < 2000
