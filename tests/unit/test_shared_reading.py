"""Requests that are read together are told what each would be told alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.workers import REPOSITORY as ROOT
from schemas.schema import load_schema
from worker.config import load_pipeline
from worker.json_events import EventReader
from worker.plan import decode_plan, feature_plan
from worker.shared_reading import Read, SharedReading, parts_of

NOW_US = time.time_ns() // 1000


@pytest.fixture(scope="module")
def reader() -> EventReader:
    pipeline = load_pipeline(ROOT / "pipelines" / "fraud.yaml", {"PENSTOCK_KAFKA": "nowhere:1"})
    schema = load_schema(pipeline.source.schema_ref, pipeline.base)
    plan = decode_plan(pipeline, schema, feature_plan(pipeline).finite)
    return EventReader(schema, plan, pipeline.source.topic, "murmur2", 6)


def event(number: int) -> dict[str, Any]:
    return {
        "transaction_id": f"t{number}",
        "event_time": NOW_US // 1000 - number,
        "customer_id": f"C{number % 7}",
        "terminal_id": "T1",
        "amount": 1.0 + number,
    }


ROWS = st.one_of(
    st.integers(0, 99).map(event),
    st.sampled_from([{}, 7, {**event(1), "amount": "much"}, {**event(1), "customer_id": None}]),
)


def same(found: Read, expected: Read) -> bool:
    (events, refused), (others, why) = found, expected
    return (
        events.table.equals(others.table)
        and np.array_equal(events.event_us, others.event_us)
        and np.array_equal(events.records.offset, others.records.offset)
        and np.array_equal(events.records.partition, others.records.partition)
        and events.records.keys.to_list() == others.records.keys.to_list()
        and refused == why
    )


@settings(deadline=None, max_examples=60)
@given(requests=st.lists(st.lists(ROWS, min_size=1, max_size=4), min_size=1, max_size=8))
def test_each_request_is_told_what_it_would_be_told_alone(
    reader: EventReader, requests: list[list[Any]]
) -> None:
    found = parts_of(reader, requests, NOW_US)

    assert all(same(part, reader.read(rows, NOW_US)) for part, rows in zip(found, requests, strict=True))


class Counting:
    """The reader, and how many rows each of its calls had; one row makes it fail."""

    def __init__(self, reader: EventReader) -> None:
        self._reader = reader
        self.calls: list[int] = []

    def read(self, rows: Sequence[Any], now_us: int) -> Read:
        self.calls.append(len(rows))
        if "breaks" in rows:
            raise RuntimeError("a bug")
        return self._reader.read(rows, now_us)


async def together(shared: SharedReading, requests: Sequence[Sequence[Any]]) -> list[Any]:
    asked = [shared.read(rows, NOW_US) for rows in requests]
    return await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 10)


def test_what_is_here_at_the_same_moment_is_read_in_one_call(reader: EventReader) -> None:
    counting = Counting(reader)
    requests = [[event(number)] for number in range(20)]

    found = asyncio.run(together(SharedReading(counting), requests))  # type: ignore[arg-type]

    assert counting.calls == [20]
    assert all(same(part, reader.read(rows, NOW_US)) for part, rows in zip(found, requests, strict=True))


def test_a_request_that_breaks_the_reader_breaks_it_for_itself_alone(reader: EventReader) -> None:
    counting = Counting(reader)
    requests: list[list[Any]] = [[event(1)], ["breaks"], [event(2)]]

    found = asyncio.run(together(SharedReading(counting), requests))  # type: ignore[arg-type]

    assert isinstance(found[1], RuntimeError)
    assert same(found[0], reader.read(requests[0], NOW_US))
    assert same(found[2], reader.read(requests[2], NOW_US))


def test_a_crowd_is_read_in_several_calls(reader: EventReader) -> None:
    counting = Counting(reader)

    asyncio.run(together(SharedReading(counting), [[event(n)] * 100 for n in range(5)]))  # type: ignore[arg-type]

    assert counting.calls == [200, 200, 100]
