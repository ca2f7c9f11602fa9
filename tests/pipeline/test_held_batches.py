"""Batches scored while a commit is under way wait for its end, and are then published in their order."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from benchmarks.workers import create_topics, topics_of
from tests.pipeline.streams import PARTITIONS, Reader, alone, assert_same, fill, transactions, undisturbed
from worker import sink as sink_module
from worker.assemble import assemble, store_opener
from worker.commits import end_transaction
from worker.config import load_pipeline
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
