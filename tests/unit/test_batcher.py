"""A batch leaves for one of four reasons, and no offset stays behind."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import Codec
from tests.builders import Message, batch, event_schema, features, records, table_rows
from worker.batch import Batch, join
from worker.batcher import Batcher, BatchPolicy
from worker.decode import DecodePlan, decode


def batcher(
    *, max_rows: int = 10, max_bytes: int = 1000, max_wait_ms: float = 5.0, eager: bool = False
) -> Batcher:
    """A batcher of a small policy."""
    return Batcher(BatchPolicy(max_rows=max_rows, max_bytes=max_bytes, max_wait_ms=max_wait_ms, eager=eager))


def test_nothing_leaves_when_nothing_came() -> None:
    empty = batcher(eager=True)

    assert not empty.is_waiting
    assert empty.reason(1e9) is None
    assert empty.room == 10
    assert empty.wait_ms(0.0, 100.0) == 100.0


def test_a_full_batch_leaves_at_once() -> None:
    waiting = batcher(max_rows=3)
    waiting.add(batch([1, 2]), 10, 0.0, is_idle=False)
    assert waiting.reason(0.0) is None
    assert waiting.room == 1

    waiting.add(batch([3]), 5, 0.0, is_idle=False)

    assert waiting.reason(0.0) == "rows"
    assert len(waiting) == 3
    assert waiting.room == 1  # a poll asks for at least one


def test_a_heavy_batch_leaves_at_once() -> None:
    waiting = batcher(max_bytes=100)
    waiting.add(batch([1]), 99, 0.0, is_idle=False)
    assert waiting.reason(0.0) is None

    waiting.add(batch([2]), 1, 0.0, is_idle=False)

    assert waiting.reason(0.0) == "bytes"


def test_a_partial_batch_leaves_when_its_first_row_has_waited() -> None:
    waiting = batcher(max_wait_ms=5.0)
    waiting.add(batch([1]), 1, 100.0, is_idle=True)
    waiting.add(batch([2]), 1, 104.0, is_idle=True)

    assert waiting.reason(104.9) is None
    assert waiting.wait_ms(104.0, 100.0) == pytest.approx(1.0)
    assert waiting.wait_ms(200.0, 100.0) == 0.0
    assert waiting.reason(105.0) == "wait"


def test_an_eager_batch_leaves_when_nothing_more_is_waiting() -> None:
    waiting = batcher(eager=True)
    waiting.add(batch([1]), 1, 0.0, is_idle=False)
    assert waiting.reason(0.0) is None

    waiting.add(batch([2]), 1, 0.0, is_idle=True)

    assert waiting.reason(0.0) == "idle"


def test_the_wait_begins_anew_with_the_next_batch() -> None:
    waiting = batcher(max_wait_ms=5.0)
    waiting.add(batch([1]), 900, 0.0, is_idle=False)
    waiting.take()

    assert not waiting.is_waiting
    waiting.add(batch([2]), 900, 50.0, is_idle=False)

    assert waiting.reason(54.0) is None
    assert waiting.reason(55.0) == "wait"
    assert len(waiting.take()) == 1


@pytest.mark.parametrize("eager", [True, False])
def test_a_part_of_only_rejected_records_leaves_too_and_carries_its_offsets(eager: bool) -> None:
    waiting = batcher(eager=eager, max_wait_ms=5.0)
    waiting.add(batch([], next_offsets={3: 17}), 40, 0.0, is_idle=True)

    assert waiting.is_waiting
    assert len(waiting) == 0
    assert waiting.reason(5.0) == ("idle" if eager else "wait")
    assert waiting.take().events.next_offsets == {3: 17}


def test_rejected_records_count_by_their_bytes() -> None:
    waiting = batcher(max_bytes=100)
    waiting.add(batch([], next_offsets={3: 17}), 100, 0.0, is_idle=False)

    assert waiting.reason(0.0) == "bytes"


def test_joined_parts_keep_their_order_and_the_later_offsets() -> None:
    whole = join(
        [
            batch([5, 6], offset=[10, 11], keys=[b"a", b"b"], next_offsets={0: 12, 1: 4}),
            batch([], next_offsets={0: 15}),
            batch(
                [7], offset=[15], keys=[b"c"], partition=[2], next_offsets={0: 15, 2: 16}, complete_us={2: 9}
            ),
        ]
    )

    assert len(whole) == 3
    assert whole.events.records.keys.to_list() == [b"a", b"b", b"c"]
    assert whole.events.records.offset.tolist() == [10, 11, 15]
    assert whole.events.records.partition.tolist() == [0, 0, 2]
    assert whole.events.next_offsets == {0: 15, 1: 4, 2: 16}
    assert whole.events.complete_us == {2: 9}
    assert [whole.events.records[row].offset for row in range(3)] == [10, 11, 15]
    assert [r["id"] for r in table_rows(whole.events.table)] == ["e10", "e11", "e15"]
    assert whole.features.scalars[:, 0].tolist() == [5.0, 6.0, 7.0]


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=8))
def test_every_column_of_a_joined_batch_stays_beside_the_others(sizes: list[int]) -> None:
    parts, offset = [], 0
    for size in sizes:
        times = list(range(offset, offset + size))
        made = batch(times, offset=times, next_offsets={0: offset + size})
        kept = features(
            made.features.scalars,
            sequences={"s": np.array(times, np.float32).reshape(-1, 1, 1)},
            lookup_age_ms=times,
            late=[t % 2 == 0 for t in times],
        )
        parts.append(Batch(events=made.events, features=kept))
        offset += size

    whole = join(parts)

    times = list(range(offset))
    assert whole.events.event_us.tolist() == times
    assert whole.features.scalars[:, 0].tolist() == times
    assert whole.features.sequences["s"][:, 0, 0].tolist() == times
    assert whole.features.lookup_age_ms.tolist() == times
    assert whole.features.late.tolist() == [t % 2 == 0 for t in times]
    assert whole.events.table.num_rows == offset
    assert whole.events.next_offsets == {0: offset}


def test_tables_of_fast_slow_and_empty_chunks_join() -> None:
    """A chunk with one bad record takes another way through the codec; its columns must still fit."""
    schema = event_schema(amount=["null", "double"])
    codec = Codec(schema, "single_object")
    plan = DecodePlan(key="card", event_time="time", time_unit_us=1000, max_future_us=None, finite=())
    good = codec.encode_rows([{"id": "e", "time": 5, "card": "c", "amount": None}])[0]
    chunks: list[list[bytes | None]] = [
        [good, good],
        [good, b"junk", good + b"\0"],
        [b"junk"],
        [],
        [None, good],
    ]
    parts = []
    for values in chunks:
        polled = records([Message(record_value=v, record_key=b"c") for v in values])
        events, _ = decode(polled, codec, plan, 0)
        parts.append(Batch(events=events, features=features(np.zeros((len(events), 0)))))

    whole = join(parts)

    assert len(whole) == 4
    assert isinstance(whole.events.table, pa.RecordBatch)
    assert whole.events.table.column("amount").null_count == 4
