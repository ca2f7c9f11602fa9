"""Trace contexts are found and passed on as W3C Trace Context says, whatever else the headers hold."""

from __future__ import annotations

import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.spans import spans_of
from worker.records import Headers, pack_headers, unpack_headers
from worker.trace_context import Parent, parent_in, parents_of, parse, taken_on
from worker.trace_kernels import STATE_BYTES

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{SPAN}-01".encode()
OURS = 0x00F067AA0BA902B7


def traceparents() -> st.SearchStrategy[bytes]:
    """Some that are right, and some with one byte changed, cut off or too many."""

    def joined(version: str, trace: str, span: str, flags: str, rest: str) -> bytes:
        return f"{version}-{trace}-{span}-{flags}{rest}".encode()

    def digits(count: int) -> st.SearchStrategy[str]:
        return st.text("0123456789abcdef", min_size=count, max_size=count) | st.just("0" * count)

    right = st.builds(
        joined,
        st.sampled_from(["00", "00", "01", "cc", "ff"]),
        digits(32),
        digits(16),
        st.sampled_from(["00", "01", "02", "03", "ff", "fe"]),
        st.sampled_from(["", "", "-", "-more", "x"]),
    )
    changed = st.builds(
        lambda text, at, byte: text[: at % len(text)] + bytes([byte]) + text[at % len(text) + 1 :],
        right,
        st.integers(0, 70),
        st.integers(0, 255),
    )
    return right | changed | right.map(lambda text: text[:-1]) | st.binary(max_size=60)


def headers() -> st.SearchStrategy[Headers]:
    name = st.sampled_from(["traceparent", "tracestate", "Traceparent", "traceparen", "other", ""])
    value = st.none() | traceparents() | st.binary(max_size=8) | st.just(b"a=1,b=2") | st.just(b"x" * 513)
    return st.lists(st.tuples(name, value), max_size=5)


@settings(deadline=None)  # the first one compiles
@given(st.lists(st.none() | headers(), max_size=8))
def test_columns_of_headers_say_of_each_record_what_its_headers_alone_say(
    records: list[Headers | None],
) -> None:
    packed = spans_of([None if each is None else pack_headers(each) for each in records])

    found = parents_of(packed, np.ones(len(records), np.bool_))

    alone = {row: parent for row, each in enumerate(records) if each and (parent := parent_in(each))}
    assert ({} if found is None else {row: found[row] for row in found.rows.tolist()}) == alone


@settings(deadline=None)
@given(st.lists(headers(), min_size=1, max_size=8), st.data())
def test_what_is_passed_on_names_the_own_span_in_the_records_trace(
    records: list[Headers], data: st.DataObject
) -> None:
    packed = spans_of([pack_headers(each) for each in records])
    found = parents_of(packed, np.ones(len(records), np.bool_))
    rows = data.draw(st.lists(st.integers(0, len(records) - 1), unique=True).map(sorted))
    if found is None:
        return

    sent = found.headers(np.array(rows, np.int64), OURS)

    parents = [parent_in(records[row]) for row in rows]
    if sent is None:
        assert not any(parents)
        return
    for at, (row, parent) in enumerate(zip(rows, parents, strict=True)):
        said = sent.get(at)
        if parent is None:
            assert said is None
            continue
        assert said is not None
        state = dict(records[row]).get("tracestate")
        is_passed_on = state is not None and 0 < len(state) <= STATE_BYTES
        assert unpack_headers(said) == [
            ("traceparent", b"00-%032x-%016x-%02x" % (parent.trace_id, OURS, parent.flags & 3)),
            *([("tracestate", state)] if is_passed_on else []),
        ]
        assert unpack_headers(said)[0] == taken_on([], parent, OURS)[0]


@pytest.mark.parametrize(
    ("text", "is_sampled"),
    [
        (SAMPLED, True),
        (SAMPLED[:-1] + b"0", False),  # not sampled
        (SAMPLED[:-1] + b"3", True),
        (b"01" + SAMPLED[2:] + b"-what-a-later-version-adds", True),
        (b"01" + SAMPLED[2:] + b"without a dash", False),
        (SAMPLED + b"-more", False),  # version 00 ends here
        (b"ff" + SAMPLED[2:], False),
        (SAMPLED.upper(), False),
        (SAMPLED.replace(TRACE.encode(), b"0" * 32), False),
        (SAMPLED.replace(SPAN.encode(), b"0" * 16), False),
        (b"", False),
        (string.ascii_letters.encode() + b"---", False),
    ],
)
def test_a_traceparent_counts_when_it_is_one_and_its_trace_is_sampled(text: bytes, is_sampled: bool) -> None:
    column = parents_of(spans_of([pack_headers([("traceparent", text)])]), np.ones(1, np.bool_))

    assert (parse(text) is not None) == is_sampled
    assert (column is not None) == is_sampled
    if column is not None:
        assert column[0] == Parent(int(TRACE, 16), int(SPAN, 16), column[0].flags)


def test_records_that_are_not_looked_at_have_no_parent() -> None:
    packed = spans_of([pack_headers([("traceparent", SAMPLED)])] * 3)

    found = parents_of(packed, np.array([False, True, False]))

    assert found is not None
    assert found.rows.tolist() == [1]
    assert parents_of(packed, np.zeros(3, np.bool_)) is None


def test_the_last_of_two_traceparents_counts() -> None:
    twice: Headers = [("traceparent", SAMPLED), ("traceparent", SAMPLED[:-1] + b"0")]

    assert parent_in(twice) is None
    assert parent_in(twice[::-1]) is not None
    assert taken_on(twice[::-1], Parent(1, 2, 1), 3) == [("traceparent", b"00-%032x-%016x-01" % (1, 3))]
