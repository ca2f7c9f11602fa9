"""Records become columns and columns become records, and what is no record is rejected by name."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from schemas import Codec, Schema, SchemaError, load_schema, parse_schema, slow, to_table
from schemas.wire import single_object_prefix

TRANSACTION = load_schema("transaction")


def transactions(count: int) -> pa.RecordBatch:
    return to_table(
        TRANSACTION,
        {
            "transaction_id": [f"t{i}" for i in range(count)],
            "event_time": np.arange(count) + 1_528_000_000_000,
            "customer_id": [str(i % 7) for i in range(count)],
            "terminal_id": ["Zürich"] * count,
            "amount": np.linspace(-1.0, 1e9, count),
            "channel": [(None, "POS", "ECOM", "ATM")[i % 4] for i in range(count)],
        },
    )


def codec(path: str = "fast", **more: Any) -> Codec:
    """A codec of transactions on the fast or the slow path."""
    made = Codec(TRANSACTION, "single_object", **more)
    if path == "slow":
        made._lanes = {key: dataclasses.replace(lane, fast=None) for key, lane in made._lanes.items()}
        made._form = dataclasses.replace(made._form, write_columns=None)
    return made


both_paths = pytest.mark.parametrize("path", ["fast", "slow"])


@both_paths
def test_columns_come_back_as_they_went(path: str) -> None:
    table = transactions(100)

    decoded = codec(path).decode(codec(path).encode(table))

    assert decoded.table.equals(table)
    assert decoded.rows.tolist() == list(range(100))
    assert decoded.rows.dtype == np.int64
    assert decoded.rejects == ()


def test_both_paths_write_the_same_bytes() -> None:
    assert codec("fast").encode(transactions(50)) == codec("slow").encode(transactions(50))


@both_paths
@pytest.mark.parametrize("values", [[], [None], [None, b"", b"\xc3\x01"]])
def test_no_good_record_is_no_row(path: str, values: list[bytes | None]) -> None:
    decoded = codec(path).decode(values)

    assert decoded.table.num_rows == 0
    assert decoded.table.schema.equals(TRANSACTION.arrow)
    assert [reject.row for reject in decoded.rejects] == list(range(len(values)))
    assert codec(path).encode(decoded.table) == []


def parts(good: bytes) -> dict[str, tuple[int, int]]:
    """Where each field of the first transaction of `transactions` is in its record."""
    at, out = 10, {}
    for name, size in (
        ("id", 3),
        ("time", 6),
        ("customer", 2),
        ("terminal", 8),
        ("amount", 8),
        ("channel", 1),
    ):
        out[name] = (at, at + size)
        at += size
    assert at == len(good)
    return out


def replaced(good: bytes, name: str, new: bytes) -> bytes:
    start, stop = parts(good)[name]
    return good[:start] + new + good[stop:]


BROKEN: dict[str, Any] = {
    "null_value": lambda _: None,
    "oversize": lambda good: good + b"\0" * 1000,
    "bad_magic": lambda good: b"\xc3\x02" + good[2:],
    "unknown_schema": lambda good: good[:2] + b"\0" * 8 + good[10:],
    "truncated": lambda good: good[:-1],
    "trailing_bytes": lambda good: good + b"\0",
    "bad_varint": lambda good: replaced(good, "customer", b"\x82\x000"),  # the length 1 in two bytes
    "negative_length": lambda good: replaced(good, "customer", b"\x010"),
    "invalid_utf8": lambda good: replaced(good, "terminal", b"\x0eZ\xc3\xbcric\xff"),
    "bad_enum": lambda good: replaced(good, "channel", b"\x02\x06"),
    "bad_union": lambda good: replaced(good, "channel", b"\x04"),
}
MORE_BROKEN: dict[str, Any] = {
    "empty": ("truncated", lambda _: b""),
    "half a prefix": ("truncated", lambda good: good[:7]),
    "one byte of another format": ("bad_magic", lambda _: b"\0"),
    "another format": ("bad_magic", lambda good: b"\0\0\0\0\x01" + good[10:]),
    "only the prefix": ("truncated", lambda good: good[:10]),
    "enum -1": ("bad_enum", lambda good: replaced(good, "channel", b"\x02\x01")),
    "union -1": ("bad_union", lambda good: replaced(good, "channel", b"\x01")),
    "length beyond the end": ("truncated", lambda good: replaced(good, "id", b"\x80\x80\x80\x80\x10")),
    "number of eleven bytes": ("bad_varint", lambda good: replaced(good, "time", b"\xff" * 10 + b"\x01")),
    "number of 65 bits": ("bad_varint", lambda good: replaced(good, "time", b"\xff" * 9 + b"\x02")),
    "a surrogate": ("invalid_utf8", lambda good: replaced(good, "terminal", b"\x06\xed\xa0\x80")),
    "an overlong slash": ("invalid_utf8", lambda good: replaced(good, "terminal", b"\x04\xc0\xaf")),
}
CASES: dict[str, Any] = {name: (name, make) for name, make in BROKEN.items()} | MORE_BROKEN


@both_paths
@pytest.mark.parametrize("among", [1, 2, 40, 300])
@pytest.mark.parametrize("case", CASES)
def test_a_broken_record_is_rejected_by_its_reason_and_the_others_are_read(
    case: str, among: int, path: str
) -> None:
    reason, make = CASES[case]
    table = transactions(among)
    values: list[bytes | None] = [*codec().encode(table)]
    assert values[0] is not None
    row = among // 2
    values.insert(row, make(values[0]))

    decoded = codec(path, max_bytes=500).decode(values)

    assert [(reject.row, reject.reason) for reject in decoded.rejects] == [(row, reason)]
    assert decoded.table.equals(table)
    assert decoded.rows.tolist() == [i for i in range(among + 1) if i != row]


@both_paths
def test_a_rotten_batch_gives_all_its_good_records(path: str) -> None:
    table = transactions(1000)
    good = codec().encode(table)
    makes = list(CASES.values())
    broken = np.random.default_rng(7).random(1000) < 0.3
    values = [makes[i % len(makes)][1](good[0]) if broken[i] else good[i] for i in range(1000)]

    decoded = codec(path, max_bytes=500).decode(values)

    assert decoded.table.equals(table.filter(pa.array(~broken)))
    assert [(r.row, r.reason) for r in decoded.rejects] == [
        (i, makes[i % len(makes)][0]) for i in np.flatnonzero(broken).tolist()
    ]


def test_a_reject_names_the_field_and_repeats_no_value() -> None:
    good = codec().encode(transactions(1))[0]

    (reject,) = codec().decode([replaced(good, "channel", b"\x02\x06")]).rejects

    assert reject.detail == "channel: found enum index 3, expected 0 to 2"


def test_a_boolean_is_0_or_1() -> None:
    one = Codec(parse_schema('{"type":"record","name":"R","fields":[{"name":"a","type":"boolean"}]}'), "raw")

    decoded = one.decode([b"\0", b"\x01", b"\x02", b"\xff"])

    assert decoded.table.column("a").to_pylist() == [False, True]
    assert [reject.reason for reject in decoded.rejects] == ["bad_boolean", "bad_boolean"]


ARRAYS = '{"type":"record","name":"R","fields":[{"name":"a","type":{"type":"array","items":"int"}}]}'


@pytest.mark.parametrize(
    ("payload", "outcome"),
    [
        (b"\x00", []),
        (b"\x04\x02\x04\x00", [1, 2]),
        (b"\x02\x02\x02\x04\x00", [1, 2]),  # two blocks of one
        (b"\x03\x04\x02\x04\x00", [1, 2]),  # a block with its size in bytes
        (b"\x03\x06\x02\x04\x00", "bad_block_size"),
        (b"\x03\x03\x02\x04\x00", "negative_length"),
        (b"\x04\x02\x00", "truncated"),
        (b"\x80\x80\x80\x80\x80\x80\x80\x01", "truncated"),  # 2^48 items
        (b"\xff" * 9 + b"\x01", "truncated"),  # -2^63 items
        (b"\x04\x02\x04", "truncated"),
    ],
)
def test_an_array_is_read_in_blocks(payload: bytes, outcome: Any) -> None:
    decoded = Codec(parse_schema(ARRAYS), "raw").decode([payload])

    assert (decoded.rejects[0].reason if decoded.rejects else decoded.table.column("a")[0].as_py()) == outcome


def test_alerts_are_written_from_rows_and_from_columns() -> None:
    schema = load_schema("alert")
    row = {
        "alert_id": "t-0-5", "event_id": "e", "key": "k", "source_topic": "t", "source_partition": 0,
        "source_offset": 5, "event_time": 1, "scored_at": 2, "score": 0.5, "model": "m", "model_version": "1",
        "policy_version": "1", "late": False, "incomplete": True, "degraded": False, "severity": "warning",
        "lifecycle": "RAISED", "reason": "amount is high", "features": {"amount": 3.5, "night": 1.0},
        "reasons": [{"feature": "amount", "value": 3.5, "usual": 1.0, "text": "high"}],
    }  # fmt: skip
    one = Codec(schema, "single_object")

    values = one.encode_rows([row, row])
    decoded = one.decode(values)

    assert decoded.rejects == ()
    assert one.encode(decoded.table) == values
    (read, _) = decoded.table.to_pylist()
    assert read["lookup_age_ms"] is None
    assert read["features"] == [("amount", 3.5), ("night", 1.0)]
    assert read["reasons"] == [
        {"feature": "amount", "value": 3.5, "usual": 1.0, "contribution": None, "text": "high"}
    ]
    assert decoded.table.column("event_time").cast(pa.int64()).to_pylist() == [1, 1]


def test_every_event_schema_comes_back_as_it_went() -> None:
    for name in ("label", "sensor_reading", "score"):
        schema = load_schema(name)
        table = _sample(schema, 30)
        one = Codec(schema, "single_object")
        assert one.decode(one.encode(table)).table.equals(table)


def _sample(schema: Schema, count: int) -> pa.RecordBatch:
    columns = {}
    for field, node in zip(schema.arrow, [f.node for f in schema.tree.fields], strict=True):
        if node.kind == "enum":
            columns[field.name] = pa.array([node.symbols[i % len(node.symbols)] for i in range(count)])
        elif pa.types.is_string(field.type):
            columns[field.name] = pa.array([f"{field.name}-{i}" for i in range(count)])
        elif pa.types.is_boolean(field.type):
            columns[field.name] = pa.array([i % 3 == 0 for i in range(count)])
        else:
            columns[field.name] = pa.array(range(count)).cast(field.type)
    return to_table(schema, columns)


def test_raw_records_have_no_prefix_and_one_writer() -> None:
    table = transactions(3)
    raw, single = Codec(TRANSACTION, "raw"), codec()

    assert [single_object_prefix(TRANSACTION.fingerprint) + v for v in raw.encode(table)] == single.encode(
        table
    )
    with pytest.raises(SchemaError, match="found 2 writer schemas, expected one"):
        Codec(TRANSACTION, "raw", writers=[TRANSACTION, TRANSACTION])


@pytest.mark.parametrize(
    ("column", "values", "found"),
    [
        ("amount", pa.array([None, 1.0]), "amount: found 1 nulls, expected none"),
        ("amount", pa.array([1, 2]), "found columns"),
        ("channel", pa.array(["POS", "PHONE"]), "PHONE"),
        ("event_time", pa.array([1, 2], pa.timestamp("us")), "found columns"),
    ],
)
def test_columns_that_are_not_the_schemas_are_not_written(column: str, values: pa.Array, found: str) -> None:
    table = transactions(2)
    index = table.schema.names.index(column)
    wrong = table.set_column(index, pa.field(column, values.type), values)

    with pytest.raises(ValueError, match=found):
        codec().encode(wrong)


@pytest.mark.parametrize(
    "change", [{"source_partition": 1 << 31}, {"extra": 1}, {"key": None}, {"late": "no"}, {"event_id": 5}]
)
def test_a_row_that_is_not_of_the_schema_is_not_written(change: dict[str, Any]) -> None:
    one = Codec(load_schema("score"), "single_object")
    (row,) = slow.to_rows(one.reader, _sample(one.reader, 1))
    assert len(one.encode_rows([row])) == 1

    with pytest.raises(ValueError, match=r"penstock\.Score"):
        one.encode_rows([row | change])
