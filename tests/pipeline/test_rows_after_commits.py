"""Rows reach the store after the commit that covers them, also where the group puts a commit off."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from benchmarks.workers import create_topics, topics_of
from feature_cache.store import LaneMeta, MemoryStore
from tests.pipeline.streams import PARTITIONS, Reader, alone, fill, transactions
from worker.assemble import assemble, store_opener
from worker.config import load_pipeline
from worker.run import Worker
from worker.sink import Sink

EVENTS = 4_000
WITHIN_S = 60.0


@pytest.mark.kafka
@pytest.mark.parametrize("mode", ["at_least_once", "exactly_once"])
def test_rows_are_never_stored_ahead_of_a_commit_that_the_group_puts_off(
    kafka_bootstrap: str, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    create_topics(kafka_bootstrap, topics_of(topic_prefix, PARTITIONS))
    fill(kafka_bootstrap, f"{topic_prefix}transactions", *transactions(EVENTS, seed=61))
    begun: list[tuple[str, int, int]] = []  # lane's topic, partition and offset, of the commit under way
    committed: dict[str, int] = defaultdict(int)  # by lane
    written: list[tuple[str, int, int]] = []  # lane, watermark, and what was committed then
    put_off = 0

    def noted(self: Sink, offsets: list[Any], consumer: Any, begin: Any = Sink.begin_commit) -> None:
        begun[:] = [(place.topic, place.partition, place.offset) for place in offsets]
        begin(self, offsets, consumer)

    def ended(self: Sink, end: Any = Sink.end_commit) -> bool:
        """Every other commit is done, and said not to be: what it covers is committed again with the next."""
        nonlocal put_off
        is_done = bool(end(self))
        if begun and put_off % 2 == 0:
            put_off += 1
            return False
        if begun and is_done:
            put_off += 1
            for topic, partition, offset in begun:
                committed[f"{topic}:{partition}"] = offset
            begun.clear()
        return is_done

    def store(
        self: MemoryStore, lane: str, expected: LaneMeta, new: LaneMeta, keys: Sequence[bytes], rows: Any
    ) -> bool:
        written.append((lane, new.watermark, committed[lane.partition(":")[2]]))
        return bool(write(self, lane, expected, new, keys, rows))

    write = MemoryStore.write
    monkeypatch.setattr(Sink, "begin_commit", noted)
    monkeypatch.setattr(Sink, "end_commit", ended)
    monkeypatch.setattr(MemoryStore, "write", store)
    env = {"PENSTOCK_KAFKA": kafka_bootstrap, "PENSTOCK_DEVICE": "cpu"}
    file = alone(
        tmp_path,
        topic_prefix,
        batching={"max_rows": 64},
        delivery={"mode": mode, "commit_interval": "5ms"},
        state={"store": "memory://", "write_interval": "1ms"},
    )
    worker = Worker(assemble(load_pipeline(file, env), store_opener(), CollectorRegistry()))
    reader, stop = Reader(kafka_bootstrap, topic_prefix), threading.Event()
    thread = threading.Thread(target=worker.run, args=(stop,))
    thread.start()
    reader.read_all(EVENTS, WITHIN_S)
    stop.set()
    thread.join(WITHIN_S)
    reader.close()

    assert put_off > 4
    assert len(written) > 2 * PARTITIONS
    assert [each for each in written if each[1] > each[2]] == []
    newest = {lane: watermark for lane, watermark, _ in written}
    assert sum(newest.values()) == EVENTS  # and the last rows are stored before the worker is gone
