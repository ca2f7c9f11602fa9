"""Decode accounts for every record: an event, a reject with its reason, or a time marker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import Codec
from schemas.schema import Schema
from tests.builders import NOW_MS, NOW_US, Headers, Message, event_schema, records, table_rows
from worker import decode as decode_module
from worker.batch import Events, Rejected
from worker.decode import TIME_MARKER, DecodePlan, decode, time_unit_us
from worker.records import Record

HOUR_US = 3_600_000_000
GOOD_MS = NOW_US // 1000
I64 = 2**63


def plan(
    schema: Schema, *, max_future_us: int | None = HOUR_US, finite: tuple[str, ...] = ("amount",)
) -> DecodePlan:
    """What makes a record an event of these tests."""
    return DecodePlan(
        key="card",
        event_time="time",
        time_unit_us=time_unit_us(schema.arrow.field("time").type),
        max_future_us=max_future_us,
        finite=finite,
    )


def row(**fields: Any) -> dict[str, Any]:
    """A good event, but for these fields."""
    return {"id": "e", "time": GOOD_MS, "card": "c", "amount": 1.5, **fields}


def message(
    codec: Codec, offset: int = 0, *, key: bytes | None = b"c", partition: int = 0, **fields: Any
) -> Message:
    """A good record, but for these fields."""
    return Message(
        record_value=codec.encode_rows([row(**fields)])[0],
        record_key=key,
        record_offset=offset,
        record_partition=partition,
    )


def marker(text: bytes | None, offset: int = 0, partition: int = 0) -> Message:
    """A record without a value that declares an event time complete."""
    return Message(
        record_value=None,
        record_headers=[("other", b"1"), (TIME_MARKER, text)],
        record_offset=offset,
        record_partition=partition,
    )


SCHEMA = event_schema()
CODEC = Codec(SCHEMA, "single_object")
PLAN = plan(SCHEMA)


def run(
    messages: Sequence[Message], codec: Codec = CODEC, chosen: DecodePlan = PLAN
) -> tuple[Events, list[Rejected]]:
    """Decode at the tests' wall clock."""
    return decode(records(messages), codec, chosen, NOW_US)


def why(found: Message, codec: Codec = CODEC, chosen: DecodePlan = PLAN) -> tuple[str, str] | None:
    """Stage and reason of a record between two good ones; None when it is an event."""
    good = message(codec, 0) if chosen.key == "card" else found
    after = Message(
        record_value=good.record_value, record_key=good.record_key, record_offset=2, record_partition=0
    )
    events, rejected = run([good, found, after], codec, chosen)
    assert events.records.offset.tolist()[:1] == [0]
    assert events.records.offset.tolist()[-1:] == [2]
    assert len(events) + len(rejected) == 3
    return (rejected[0].stage, rejected[0].reason) if rejected else None


@pytest.mark.parametrize(
    ("card", "event_id", "reason"),
    [("c" * 8, "e" * 8, None), ("c" * 9, "e", "key_too_long"), ("c", "é" * 5, "event_id_too_long")],
)
def test_a_key_or_an_id_that_is_too_long_is_no_event(card: str, event_id: str, reason: str | None) -> None:
    chosen = replace(PLAN, event_id="id", max_key_bytes=8)
    events, rejected = run([message(CODEC, key=card.encode(), card=card, id=event_id)], chosen=chosen)

    assert [(r.stage, r.reason) for r in rejected] == ([("validate", reason)] if reason else [])
    assert len(events) == (0 if reason else 1)


def test_good_records_become_columns_in_their_order() -> None:
    events, rejected = run(
        [message(CODEC, i, id=f"e{i}", amount=i / 2, time=GOOD_MS + i) for i in range(5, 9)]
    )

    assert rejected == []
    assert [r["id"] for r in table_rows(events.table)] == ["e5", "e6", "e7", "e8"]
    assert events.event_us.tolist() == [(GOOD_MS + i) * 1000 for i in range(5, 9)]
    assert events.records.keys.to_list() == [b"c"] * 4
    assert events.records.offset.tolist() == [5, 6, 7, 8]
    assert events.next_offsets == {0: 9}
    assert [events.records[row].offset for row in range(4)] == [5, 6, 7, 8]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "truncated"),
        (b"not avro", "bad_magic"),
        (None, "null_value"),
        (CODEC.encode_rows([row()])[0] + b"\0", "trailing_bytes"),
        (CODEC.encode_rows([row()])[0][:-1], "truncated"),
        (b"\xc3\x01" + b"\x07" * 8 + b"abc", "unknown_schema"),
    ],
)
def test_bytes_that_are_no_event_are_rejected_beside_good_ones(value: bytes | None, reason: str) -> None:
    assert why(Message(record_value=value, record_key=b"c", record_offset=1)) == ("decode", reason)


@pytest.mark.parametrize(
    ("key", "card", "reason"),
    [
        (None, "c", "missing_key"),
        (b"", "c", "missing_key"),
        (b"", "", "missing_key"),
        (None, "", "missing_key"),
        (b"d", "c", "key_mismatch"),
        (b"C", "c", "key_mismatch"),
        (b"c ", "c", "key_mismatch"),
        (b"c\0", "c", "key_mismatch"),
        (b"\xff\xfe", "c", "key_mismatch"),
        (b"c", "", "key_mismatch"),
    ],
)
def test_a_key_that_is_not_the_entity_is_rejected(key: bytes | None, card: str, reason: str) -> None:
    assert why(message(CODEC, 1, key=key, card=card)) == ("validate", reason)


def test_keys_whose_bytes_agree_only_when_run_together_are_rejected() -> None:
    _, rejected = run([message(CODEC, 0, key=b"a", card="ab"), message(CODEC, 1, key=b"bc", card="c")])

    assert [r.reason for r in rejected] == ["key_mismatch", "key_mismatch"]


def test_a_key_of_other_letters_is_compared_as_utf_8() -> None:
    assert why(message(CODEC, 1, key="Zoë-卡".encode(), card="Zoë-卡")) is None
    assert why(message(CODEC, 1, key="Zoë".encode("latin-1"), card="Zoë")) == ("validate", "key_mismatch")


@pytest.mark.parametrize("kind", ["int", "long"])
def test_a_whole_number_is_a_key_in_plain_decimal(kind: str) -> None:
    schema = event_schema(key=kind)
    codec, chosen = Codec(schema, "raw"), plan(schema)

    good = [message(codec, i, key=b"%d" % k, card=k) for i, k in enumerate((7, -7, 0, 2**31 - 1))]
    events, rejected = run(good, codec, chosen)
    assert rejected == []
    assert events.records.keys.to_list() == [b"7", b"-7", b"0", b"2147483647"]

    bad = [message(codec, i, key=k, card=7) for i, k in enumerate((b"07", b"7.0", b"+7", b"\0\0\0\7", None))]
    events, rejected = run(bad, codec, chosen)
    assert [r.reason for r in rejected] == [*["key_mismatch"] * 4, "missing_key"]


@pytest.mark.parametrize("amount", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", ["double", "float"])
def test_a_value_that_is_no_number_is_rejected(amount: float, kind: str) -> None:
    schema = event_schema(amount=kind)
    codec = Codec(schema, "single_object")

    assert why(message(codec, 1, amount=amount), codec, plan(schema)) == ("validate", "not_finite")


def test_a_null_where_a_feature_reads_is_rejected_and_elsewhere_it_is_not() -> None:
    schema = event_schema(amount=["null", "double"])
    codec = Codec(schema, "single_object")

    assert why(message(codec, 1, amount=None), codec, plan(schema)) == ("validate", "null_value")
    assert why(message(codec, 1, amount=float("nan")), codec, plan(schema)) == ("validate", "not_finite")
    assert why(message(codec, 1, amount=None), codec, plan(schema, finite=())) is None


def test_the_largest_numbers_are_numbers() -> None:
    assert why(message(CODEC, 1, amount=-1.7976931348623157e308)) is None
    assert why(message(CODEC, 1, amount=5e-324)) is None


TIMES_MS = [
    (0, None),
    (-1, "event_time_too_old"),
    (-I64, "event_time_too_old"),
    (GOOD_MS + 3_600_000, None),
    (GOOD_MS + 3_600_001, "event_time_in_future"),
    (I64 // 1000, "event_time_in_future"),
    (I64 // 1000 + 1, "event_time_in_future"),
    (I64 - 1, "event_time_in_future"),
]


@pytest.mark.parametrize("kind", ["timestamp-millis", "long"])
@pytest.mark.parametrize(("time_ms", "reason"), TIMES_MS)
def test_a_time_in_milliseconds_is_bounded_on_both_sides(kind: str, time_ms: int, reason: str | None) -> None:
    schema = event_schema(kind)
    codec = Codec(schema, "single_object")

    assert why(message(codec, 1, time=time_ms), codec, plan(schema)) == (reason and ("validate", reason))


@pytest.mark.parametrize(
    ("time_us", "reason"),
    [
        (0, None),
        (-1, "event_time_too_old"),
        (-I64, "event_time_too_old"),
        (NOW_US + HOUR_US, None),
        (NOW_US + HOUR_US + 1, "event_time_in_future"),
        (I64 - 1, "event_time_in_future"),
    ],
)
def test_a_time_in_microseconds_is_bounded_on_both_sides(time_us: int, reason: str | None) -> None:
    schema = event_schema("timestamp-micros")
    codec = Codec(schema, "single_object")
    good = message(codec, 0, time=NOW_US)
    found = message(codec, 1, time=time_us)

    events, rejected = run([good, found], codec, plan(schema))

    assert [r.reason for r in rejected] == ([reason] if reason else [])
    assert events.event_us.tolist() == [NOW_US] + ([] if reason else [time_us])


@pytest.mark.parametrize("kind", ["timestamp-millis", "timestamp-micros", "long"])
def test_without_a_bound_no_time_overflows(kind: str) -> None:
    schema = event_schema(kind)
    codec, chosen = Codec(schema, "single_object"), plan(schema, max_future_us=None)
    times = [0, 2**61 // time_unit_us(schema.arrow.field("time").type), 2**61 + 1, I64 - 1, -I64]

    events, rejected = run([message(codec, i, time=t) for i, t in enumerate(times)], codec, chosen)

    assert events.records.offset.tolist() == [0, 1]
    assert (events.event_us >= 0).all()
    assert [r.reason for r in rejected] == ["event_time_in_future"] * 2 + ["event_time_too_old"]


def test_a_record_that_is_wrong_in_many_ways_is_rejected_once() -> None:
    events, rejected = run([message(CODEC, 0, key=None, card="x", amount=float("nan"), time=-5)])

    assert len(events) == 0
    assert len(rejected) == 1


def test_a_chunk_of_only_bad_records_still_carries_its_offsets() -> None:
    for bad in (
        [Message(record_value=b"junk", record_key=b"c", record_offset=o) for o in (3, 4)],
        [message(CODEC, o, key=None) for o in (3, 4)],
        [message(CODEC, o, key=b"other") for o in (3, 4)],
        [Message(record_value=None, record_offset=o) for o in (3, 4)],
    ):
        events, rejected = run(bad)

        assert len(events) == 0
        assert len(rejected) == 2
        assert events.table.schema.names == SCHEMA.arrow.names
        assert events.next_offsets == {0: 5}


def test_next_offsets_are_of_each_partition_and_count_rejected_records() -> None:
    events, _ = run(
        [
            message(CODEC, 10, partition=2),
            Message(record_value=b"junk", record_offset=11, record_partition=2),
            message(CODEC, 7, partition=0),
            marker(b"5", 8, 0),
            Message(record_value=None, record_offset=99, record_partition=5),
        ]
    )

    assert events.next_offsets == {2: 12, 0: 9, 5: 100}
    assert events.records.partition.tolist() == [2, 0]


def test_a_reject_says_where_it_came_from_and_keeps_its_message() -> None:
    bad = Message(record_value=b"junk", record_key=b"k", record_offset=41, record_partition=3)

    _, rejected = run([message(CODEC, 40, partition=3), bad])

    assert [r.record for r in rejected] == [
        Record(topic="in", partition=3, offset=41, timestamp_ms=NOW_MS, key=b"k", value=b"junk", headers=[])
    ]
    assert rejected[0].detail


YEAR_MS = 365 * 24 * 3_600_000


@pytest.mark.parametrize("read_after_ms", [-YEAR_MS, -1, 0, YEAR_MS])
def test_a_record_is_judged_alike_whenever_it_is_read(read_after_ms: int) -> None:
    """Else one refused as of the future would be part of its key's history when it is read after a crash."""
    good, ahead = message(CODEC, 0), message(CODEC, 1, time=GOOD_MS + 3_600_001)
    polled = records([good, ahead, marker(b"%d" % (GOOD_MS + 3_600_001), 2)])

    events, rejected = decode(polled, CODEC, PLAN, NOW_US + read_after_ms * 1000)

    assert events.records.offset.tolist() == [0]
    assert events.complete_us == {}
    assert sorted(r.record.offset for r in rejected) == [1, 2]


def test_only_a_record_without_a_timestamp_is_judged_by_the_clock() -> None:
    polled = replace(
        records([message(CODEC, 0), message(CODEC, 1, time=GOOD_MS + 3_600_001)]),
        produced_ms=np.array([-1, -1]),
    )

    assert decode(polled, CODEC, PLAN, NOW_US)[0].records.offset.tolist() == [0]
    assert decode(polled, CODEC, PLAN, NOW_US + 1000)[0].records.offset.tolist() == [0, 1]


def test_a_timestamp_beyond_all_times_does_not_overflow() -> None:
    polled = replace(
        records([message(CODEC, 0), message(CODEC, 1, time=I64 // 1000 - 1)]),
        produced_ms=np.array([I64 - 1, I64 - 1]),
    )

    events, rejected = decode(polled, CODEC, PLAN, NOW_US)

    assert events.records.offset.tolist() == [0]
    assert [r.reason for r in rejected] == ["event_time_in_future"]


# Time markers.


def test_a_time_marker_is_neither_event_nor_reject() -> None:
    events, rejected = run([message(CODEC, 0), marker(b"1234", 1), message(CODEC, 2)])

    assert rejected == []
    assert events.records.offset.tolist() == [0, 2]
    assert events.complete_us == {0: 1_234_000}
    assert events.next_offsets == {0: 3}


def test_the_latest_marker_of_each_partition_counts() -> None:
    events, _ = run([marker(b"5", 0), marker(b"3", 1), marker(b"4", 0, 1)])

    assert events.complete_us == {0: 5000, 1: 4000}


@pytest.mark.parametrize(
    "text", [None, b"", b"soon", b"-5", b"1.5", b"0x10", " ٣".encode(), b"1_000", b"\xff"]
)
def test_a_marker_without_a_time_is_a_record_without_a_value(text: bytes | None) -> None:
    events, rejected = run([marker(text)])

    assert [r.reason for r in rejected] == ["null_value"]
    assert events.complete_us == {}


def test_a_marker_with_a_value_is_an_event() -> None:
    record = Message(
        record_value=CODEC.encode_rows([row()])[0], record_key=b"c", record_headers=[(TIME_MARKER, b"5")]
    )

    events, rejected = run([record])

    assert len(events) == 1
    assert rejected == []
    assert events.complete_us == {}


@pytest.mark.parametrize(
    "digits", [b"9" * 5000, b"9" * 30, b"%d" % (2**63 // 1000 + 1), b"%d" % (GOOD_MS * 2)]
)
def test_a_marker_from_the_far_future_is_rejected_like_an_event(digits: bytes) -> None:
    """Else one bad record would overflow every reader of the lane, or declare a century complete."""
    events, rejected = run([marker(digits)])

    assert [r.reason for r in rejected] == ["event_time_in_future"]
    assert events.complete_us == {}


# Whatever comes in.


HEADERS: list[Headers] = [None, [], [(TIME_MARKER, b"77")], [(TIME_MARKER, None)]]


@st.composite
def messages(draw: st.DrawFn) -> Message:
    """A record, good or bad in any way."""
    value: bytes | None = CODEC.encode_rows(
        [
            row(
                card=draw(st.sampled_from(["c", "d", "", "é"])),
                time=draw(st.one_of(st.just(GOOD_MS), st.integers(-I64, I64 - 1))),
                amount=draw(st.floats()),
            )
        ]
    )[0]
    assert value is not None
    damage = draw(st.sampled_from(["none", "none", "cut", "flip", "more", "gone", "noise"]))
    if damage == "cut":
        value = value[: draw(st.integers(0, len(value)))]
    elif damage == "flip":
        at = draw(st.integers(0, len(value) - 1))
        value = value[:at] + bytes([value[at] ^ draw(st.integers(1, 255))]) + value[at + 1 :]
    elif damage == "more":
        value += draw(st.binary(min_size=1, max_size=3))
    elif damage == "gone":
        value = None
    elif damage == "noise":
        value = draw(st.binary(max_size=40))
    return Message(
        record_value=value,
        record_key=draw(st.sampled_from([b"c", b"d", b"", None, "é".encode(), b"\xff"])),
        record_headers=draw(st.sampled_from(HEADERS)),
        record_partition=draw(st.integers(0, 2)),
    )


@settings(deadline=None, max_examples=150)
@given(st.lists(messages(), max_size=12))
def test_every_record_is_an_event_or_a_reject_or_a_time_marker(drawn: list[Message]) -> None:
    polled = [
        Message(
            record_value=m.record_value,
            record_key=m.record_key,
            record_headers=m.record_headers,
            record_partition=m.record_partition,
            record_offset=100 + i,
        )
        for i, m in enumerate(drawn)
    ]

    events, rejected = run(polled)

    is_marker = {
        m.record_offset
        for m in polled
        if m.record_value is None and (TIME_MARKER, b"77") in (m.record_headers or ())
    }
    kept, refused = events.records.offset.tolist(), [r.record.offset for r in rejected]
    assert kept == sorted(kept)
    assert sorted([*kept, *refused, *is_marker]) == [m.record_offset for m in polled]
    assert events.next_offsets == {
        p: max(m.record_offset for m in polled if m.record_partition == p) + 1
        for p in {m.record_partition for m in polled}
    }
    by_offset = {m.record_offset: m for m in polled}
    for i, offset in enumerate(kept):
        source, columns = by_offset[offset], table_rows(events.table.slice(i, 1))[0]
        assert events.records.keys[i] == source.record_key == columns["card"].encode()
        assert events.records[i].value == source.record_value
        assert events.records[i].headers == list(source.record_headers or [])
        assert int(events.records.partition[i]) == source.record_partition
        assert np.isfinite(columns["amount"])
        assert 0 <= events.event_us[i] <= NOW_US + HOUR_US
    assert all(r.reason and r.detail and r.stage in ("decode", "validate") for r in rejected)


MAYBE_BAD = st.fixed_dictionaries(
    {},
    optional={
        "time": st.sampled_from([GOOD_MS, -1, GOOD_MS + HOUR_US // 1000, GOOD_MS + HOUR_US // 1000 + 1]),
        "amount": st.sampled_from([1.5, float("nan"), float("inf"), -float("inf")]),
        "card": st.sampled_from(["c", "d", "", "c" * 9]),
        "id": st.sampled_from(["e", "e" * 8, "e" * 9]),
        "key": st.sampled_from([b"c", b"d", b"", None, b"c" * 9]),
    },
)


@settings(deadline=None)
@given(st.lists(MAYBE_BAD, max_size=4))
def test_a_batch_that_is_passed_at_a_glance_is_one_with_nothing_wrong_in_it(
    fields: list[dict[str, Any]],
) -> None:
    chosen = replace(PLAN, event_id="id", max_key_bytes=8)
    messages = [message(CODEC, offset, **each) for offset, each in enumerate(fields)]

    events, rejected = run(messages, chosen=chosen)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(decode_module, "_are_sound", lambda *_: False)
        slow_events, slow_rejected = run(messages, chosen=chosen)

    assert events.event_us.tolist() == slow_events.event_us.tolist()
    assert table_rows(events.table) == table_rows(slow_events.table)
    assert rejected == slow_rejected
