"""Columns of records hold what the records were, whatever is taken, joined or packed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.spans import equal, joined, spans_of, text_spans
from tests.builders import Message, records
from worker.commits import Sent
from worker.records import joined_records, pack_headers, unpack_headers

TEXTS = st.lists(st.none() | st.text(max_size=6), max_size=12)
HEADERS = st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=5)), max_size=5)
MESSAGES = st.lists(
    st.builds(
        Message,
        record_value=st.none() | st.binary(max_size=8),
        record_key=st.none() | st.binary(max_size=8),
        record_headers=st.none() | HEADERS,
        record_partition=st.integers(0, 3),
        record_offset=st.integers(0, 2**62),
    ),
    max_size=8,
)


@given(HEADERS)
def test_headers_come_back_as_they_were(headers: list[tuple[str, bytes | None]]) -> None:
    assert unpack_headers(pack_headers(headers)) == headers


@given(st.lists(MESSAGES, min_size=1, max_size=3), st.data())
def test_taken_and_joined_records_are_the_same_records(
    parts: list[list[Message]], data: st.DataObject
) -> None:
    whole = joined_records([records(part) for part in parts])
    messages = [message for part in parts for message in part]
    rows = data.draw(st.lists(st.integers(0, len(messages) - 1))) if messages else []

    taken = whole.take(np.array(rows, np.int64))

    assert len(whole) == len(messages)
    for row, at in enumerate(rows):
        record, message = taken[row], messages[at]
        assert (record.value, record.key) == (message.record_value, message.record_key)
        assert record.headers == list(message.record_headers or [])
        assert (record.partition, record.offset) == (message.record_partition, message.record_offset)


@settings(deadline=None)  # the first one compiles
@given(TEXTS, TEXTS)
def test_texts_are_compared_as_bytes_and_missing_ones_equal_nothing(
    some: list[str | None], others: list[str | None]
) -> None:
    n = min(len(some), len(others))
    some, others = some[:n], others[:n]
    ours = spans_of([None if text is None else text.encode() for text in some])

    same = equal(ours, text_spans(pa.array(others, pa.string())))

    assert same.tolist() == [a is not None and a == b for a, b in zip(some, others, strict=True)]


@given(TEXTS, st.integers(0, 12), st.integers(0, 12))
def test_a_slice_of_texts_is_that_slice(texts: list[str | None], start: int, length: int) -> None:
    found = text_spans(pa.array(texts, pa.string()).slice(start, length))

    wanted = texts[start : start + length]
    assert [found.get(row) for row in range(len(found))] == [
        None if text is None else text.encode() for text in wanted
    ]


@given(st.lists(st.lists(st.none() | st.binary(max_size=4), max_size=4), min_size=1, max_size=4))
def test_joined_spans_are_all_of_them(parts: list[list[bytes | None]]) -> None:
    found = joined([spans_of(part) for part in parts])

    assert [found.get(row) for row in range(len(found))] == [value for part in parts for value in part]


@given(st.lists(st.none() | st.binary(max_size=6), max_size=12), st.data())
def test_what_is_kept_apart_is_the_same_in_a_buffer_of_its_own(
    values: list[bytes | None], data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.integers(0, len(values) - 1))) if values else []
    taken = spans_of(values).take(np.array(rows, np.int64))

    apart = taken.apart()

    assert [apart.get(row) for row in range(len(rows))] == [values[row] for row in rows]
    assert len(apart.data) == sum(len(values[row] or b"") for row in rows)
    whole = spans_of(values).apart()
    assert [whole.get(row) for row in range(len(values))] == values


def test_records_of_one_call_are_told_apart_by_topic_key_value_and_headers() -> None:
    headers: list[tuple[str, bytes | None]] = [("name", b"1"), ("name", None)]
    values: list[bytes | None] = [b"a", None, b"", b"a"]
    keys: list[bytes | None] = [b"k", b"k", None, b"k"]
    packed = spans_of([None, None, None, pack_headers(headers)])
    sent = Sent("topic", spans_of(values), spans_of(keys), packed)

    told = list(sent.each())
    left = sent.without({told[0], told[2]})

    assert told == [
        ("topic", b"k", b"a", ()),
        ("topic", b"k", None, ()),
        ("topic", None, b"", ()),
        ("topic", b"k", b"a", tuple(headers)),
    ]
    assert list(left.each()) == list(left.apart().each()) == [told[1], told[3]]
