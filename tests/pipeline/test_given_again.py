"""A client that gives a record twice, as librdkafka does now and then: one outcome all the same."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from benchmarks.workers import create_topics, topics_of
from tests.pipeline.streams import PARTITIONS, Reader, alone, assert_same, fill, transactions, undisturbed
from worker.again import first_again
from worker.assemble import assemble, store_opener
from worker.config import load_pipeline
from worker.fetched import Fetched
from worker.records import Records, joined_records
from worker.run import Worker

EVENTS = 900
REPEATS = 3
# Each part may come in one poll, and the first has nothing before it that could be repeated.
PARTS = REPEATS + 1
WITHIN_S = 60.0


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 20)), max_size=30))
def test_the_first_record_that_does_not_follow_those_before_it_is_found(
    places: list[tuple[int, int]],
) -> None:
    expected, least = -1, {0: 0, 1: 5, 2: 0}
    for row, (partition, offset) in enumerate(places):
        if offset < least[partition]:
            expected = row
            break
        least[partition] = offset + 1
    next_offset = np.array([0, 5, 0])
    columns = np.array(places, np.int64).reshape(-1, 2).T

    assert first_again(columns[0].astype(np.int32), columns[1].copy(), next_offset) == expected
    assert next_offset.tolist() == list(least.values())


class _Repeating:
    """What is fetched, `REPEATS` times with the last record of the poll before at its begin."""

    def __init__(self, fetch: Any) -> None:
        self._fetch = fetch
        self._last: Records | None = None
        self.repeated = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fetch, name)

    def poll(self, *arguments: Any) -> Fetched:
        """See PlainFetch."""
        fetched: Fetched = self._fetch.poll(*arguments)
        if fetched.records is None:
            return fetched
        again, self._last = self._last, None
        if again is None or self.repeated >= REPEATS:
            self._last = fetched.records.take(np.array([len(fetched.records) - 1]))
            return fetched
        self.repeated += 1
        return replace(fetched, records=joined_records([again, fetched.records]))


@pytest.mark.kafka
@pytest.mark.redis
def test_a_record_that_the_client_gives_twice_has_one_outcome_and_counts_once(
    kafka_bootstrap: str, redis_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    env = {"PENSTOCK_KAFKA": kafka_bootstrap, "PENSTOCK_STORE": redis_url, "PENSTOCK_DEVICE": "cpu"}
    create_topics(kafka_bootstrap, topics_of(topic_prefix, PARTITIONS))
    records = transactions(EVENTS, seed=51)
    registry, stop = CollectorRegistry(), threading.Event()
    worker = Worker(assemble(load_pipeline(alone(tmp_path, topic_prefix), env), store_opener(), registry))
    repeating: Any = _Repeating(worker.line.source._fetch)
    worker.line.source._fetch = repeating
    reader = Reader(kafka_bootstrap, topic_prefix)

    thread = threading.Thread(target=worker.run, args=(stop,))
    thread.start()
    for begin in range(0, EVENTS, EVENTS // PARTS):
        part = slice(begin, begin + EVENTS // PARTS)
        fill(kafka_bootstrap, f"{topic_prefix}transactions", records[0][part], records[1][part])
        found = reader.read_all(part.stop, WITHIN_S)
    stop.set()
    thread.join(WITHIN_S)
    reader.close()

    assert repeating.repeated == REPEATS
    assert_same(found, undisturbed(kafka_bootstrap, env, tmp_path, records), EVENTS)
    cause = {"pipeline": "fraud", "cause": "GivenAgainError"}
    assert registry.get_sample_value("penstock_recoveries_total", cause)
