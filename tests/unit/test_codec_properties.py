"""The fast path, the slow path and fastavro alone agree on every schema and on every mutated payload."""

import dataclasses
import io
import json
import struct
from typing import Any

import fastavro
import fastavro.schema
import fastavro.validation
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from schemas import Codec, Decoded, Schema, flat, load_schema, parse_schema, slow
from schemas import lane as lanes
from schemas.columns import joined_columns
from schemas.flat import plan
from schemas.spans import spans_of
from schemas.tree import to_json

Json = Any
QUICK = settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)

longs = st.one_of(
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.integers(-300, 300),
    st.sampled_from([sign * (1 << k) + d for k in range(6, 63, 7) for sign in (1, -1) for d in (-1, 0, 1)]),
    st.sampled_from([-(1 << 63), (1 << 63) - 1, -(1 << 62), 1 << 62, (1 << 62) - 1]),
)
ints = st.one_of(st.integers(-(1 << 31), (1 << 31) - 1), st.integers(-130, 130))
SIMPLE: dict[str, tuple[Json, st.SearchStrategy[Any]]] = {
    "boolean": ("boolean", st.booleans()),
    "int": ("int", ints),
    "long": ("long", longs),
    "double": ("double", st.floats()),
    "string": ("string", st.text(max_size=70)),
    "bytes": ("bytes", st.binary(max_size=70)),
    "millis": ({"type": "long", "logicalType": "timestamp-millis"}, longs),
    "micros": ({"type": "long", "logicalType": "timestamp-micros"}, longs),
    "float": ("float", st.floats(width=32)),
}


@st.composite
def flat_types(draw: st.DrawFn, name: str, floats: bool) -> tuple[Json, st.SearchStrategy[Any]]:
    if draw(st.integers(0, 4)) == 0:
        symbols = [f"S{i}" for i in range(draw(st.sampled_from([1, 3, 64, 65, 200])))]
        kind: Json = {"type": "enum", "name": f"Enum_{name}", "symbols": symbols}
        values: st.SearchStrategy[Any] = st.sampled_from(symbols)
    else:
        kind, values = SIMPLE[draw(st.sampled_from([key for key in SIMPLE if floats or key != "float"]))]
    shape = draw(st.sampled_from(["plain", "plain", "null first", "null last"]))
    if shape == "plain":
        return kind, values
    return (["null", kind] if shape == "null first" else [kind, "null"]), st.none() | values


@st.composite
def nested_types(draw: st.DrawFn, name: str, depth: int = 2) -> tuple[Json, st.SearchStrategy[Any]]:
    shape = draw(st.sampled_from(["flat", "flat", "array", "map", "record", "fixed", "maybe"]))
    if shape == "flat" or depth == 0:
        return draw(flat_types(name, True))
    if shape == "fixed":
        size = draw(st.integers(1, 9))
        return {"type": "fixed", "name": f"F_{name}", "size": size}, st.binary(min_size=size, max_size=size)
    kind, values = draw(nested_types(f"{name}x", depth - 1))
    if shape == "array":
        return {"type": "array", "items": kind}, st.lists(values, max_size=3)
    if shape == "map":
        return {"type": "map", "values": kind}, st.dictionaries(st.text(max_size=3), values, max_size=3)
    if shape == "maybe" and not isinstance(kind, list):
        return ["null", kind], st.none() | values
    record = {"type": "record", "name": f"R_{name}", "fields": [{"name": "inner", "type": kind}]}
    return record, st.fixed_dictionaries({"inner": values})


@st.composite
def batches(draw: st.DrawFn, nested: bool = False, floats: bool = True) -> tuple[Schema, list[bytes]]:
    """A schema and the payloads of up to 40 of its records, as fastavro writes them."""
    names = [f"f{i}" for i in range(draw(st.integers(1, 5)))]
    chosen = {name: draw(nested_types(name) if nested else flat_types(name, floats)) for name in names}
    fields = [{"name": name, "type": kind} for name, (kind, _) in chosen.items()]
    schema = parse_schema(json.dumps({"type": "record", "name": "Generated", "fields": fields}))
    rows = draw(st.lists(st.fixed_dictionaries({n: v for n, (_, v) in chosen.items()}), max_size=6))
    repeat = draw(st.sampled_from([1, 1, 7]))  # 42 records are beyond the stretch that is simply walked
    return schema, [_write(schema, row) for row in rows] * repeat


@st.composite
def mutated(draw: st.DrawFn, payload: bytes) -> bytes:
    """The payload with bytes changed, put in, taken out, cut off or added, or other bytes altogether."""
    data = bytearray(payload)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        how = draw(st.sampled_from(["set", "set", "insert", "delete", "cut", "append", "overlong", "random"]))
        if how == "set" and at < len(data):
            data[at] = draw(st.integers(0, 255) | st.sampled_from([0, 1, 2, 3, 4, 0x7F, 0x80, 0xFE, 0xFF]))
        elif how == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=3))
        elif how == "delete":
            del data[at : at + draw(st.integers(1, 3))]
        elif how == "cut":
            del data[at:]
        elif how == "append":
            data += draw(st.binary(min_size=1, max_size=3))
        elif how == "overlong" and at < len(data) and data[at] < 0x80:
            data[at : at + 1] = bytes(
                [data[at] | 0x80, *[0x80] * draw(st.integers(0, 9)), draw(st.integers(0, 3))]
            )
        elif how == "random":
            data = bytearray(draw(st.binary(max_size=20)))
    return bytes(data)


def mutate_some(draw: st.DataObject, payloads: list[bytes]) -> list[bytes]:
    share = draw.draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]), label="share of mutated payloads")
    count = round(share * len(payloads))
    chosen = draw.draw(st.permutations(range(len(payloads))))[:count] if count else []
    out = list(payloads)
    for index in chosen[:12]:
        out[index] = draw.draw(mutated(payloads[index]), label=f"payload {index}")
    return out


def _write(schema: Schema, row: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, to_json(schema.tree, logical=False), row)
    return stream.getvalue()


def slow_codec(schema: Schema) -> Codec:
    """A codec that reads and writes record by record."""
    codec = Codec(schema, "raw")
    codec._lanes = {key: dataclasses.replace(lane, fast=None) for key, lane in codec._lanes.items()}
    codec._form = dataclasses.replace(codec._form, write_columns=None)
    return codec


def bits(table: pa.RecordBatch) -> list[Any]:
    """The values with floats as text, so that NaN equals NaN and -0.0 does not equal 0.0."""
    return [repr(column.cast(slow.untimed(column.type)).to_pylist()) for column in table.columns]


def assert_same(one: Decoded, other: Decoded) -> None:
    assert one.rejects == other.rejects
    assert one.rows.tolist() == other.rows.tolist()
    assert one.table.schema.equals(other.table.schema)
    assert bits(one.table) == bits(other.table)


@QUICK
@given(batches(), st.data())
def test_fast_and_slow_path_give_the_same_columns_and_the_same_rejects(
    batch: tuple[Schema, list[bytes]], data: st.DataObject
) -> None:
    schema, payloads = batch
    assert plan(schema) is not None
    payloads = mutate_some(data, payloads)

    assert_same(Codec(schema, "raw").decode(payloads), slow_codec(schema).decode(payloads))


@QUICK
@given(batches())
def test_good_records_stay_on_the_fast_path(batch: tuple[Schema, list[bytes]]) -> None:
    schema, payloads = batch
    prepared = plan(schema)
    assert prepared is not None

    found, good = flat.decode(prepared, spans_of(payloads))

    assert good is None
    assert found.cells.shape[1] == len(payloads)


@QUICK
@given(batches(), st.data())
def test_rows_of_columns_as_a_kernel_left_them_are_those_that_arrow_takes(
    batch: tuple[Schema, list[bytes]], data: st.DataObject
) -> None:
    schema, payloads = batch
    codec = Codec(schema, "raw")
    left, other = (codec.decode(each).columns for each in (payloads, payloads[::-1]))
    whole, reversed_whole = (codec.decode(each).table for each in (payloads, payloads[::-1]))
    rows = np.array(
        data.draw(st.lists(st.integers(0, max(0, len(payloads) - 1)), max_size=6 if payloads else 0)),
        np.int64,
    )
    begin = data.draw(st.integers(0, len(payloads)))
    count = data.draw(st.integers(0, len(payloads) - begin))

    taken, sliced = left.take(rows), left.slice(begin, count)
    joined = joined_columns([sliced, other, taken, left])

    expected_taken, expected_slice = whole.take(pa.array(rows)), whole.slice(begin, count)
    expected = pa.concat_batches([expected_slice, reversed_whole, expected_taken, whole])
    for found, wanted in ((taken, expected_taken), (sliced, expected_slice), (joined, expected)):
        assert repr(slow.to_rows(schema, found.batch)) == repr(slow.to_rows(schema, wanted))
        assert found.batch.schema == wanted.schema
        assert [found.nulls(name) for name in wanted.schema.names] == [c.null_count for c in wanted.columns]


def fastavro_takes(schema: Schema, payload: bytes) -> dict[str, Any] | None:
    """The row if fastavro can read the payload and writes the same bytes for it again, else None.

    The encoding of a flat record is unique, so this is an independent judge of what is good.
    """
    document = to_json(schema.tree, logical=False)
    try:
        row = fastavro.schemaless_reader(io.BytesIO(payload), document)
        valid = fastavro.validation.validate(row, document, raise_errors=False)
    except Exception:
        return None
    return row if valid and _write(schema, row) == payload else None


# without float: struct turns a signalling NaN of 32 bits into a quiet one, and the bytes differ
@QUICK
@given(batches(floats=False), st.data())
def test_what_is_good_and_what_it_says_is_what_fastavro_alone_finds(
    batch: tuple[Schema, list[bytes]], data: st.DataObject
) -> None:
    schema, payloads = batch
    payloads = mutate_some(data, payloads)
    expected = {i: row for i, p in enumerate(payloads) if (row := fastavro_takes(schema, p)) is not None}

    decoded = Codec(schema, "raw").decode(payloads)

    assert decoded.rows.tolist() == list(expected)
    assert {reject.row for reject in decoded.rejects} == set(range(len(payloads))) - set(expected)
    for index, field in enumerate(schema.arrow):
        column = decoded.table.column(index)
        values = column.cast(slow.untimed(field.type)).to_pylist()
        assert repr(values) == repr([row[field.name] for row in expected.values()])


@QUICK
@given(batches(nested=True), st.data())
def test_nested_records_are_read_as_written_and_mutated_ones_never_crash(
    batch: tuple[Schema, list[bytes]], data: st.DataObject
) -> None:
    schema, payloads = batch
    whole = Codec(schema, "raw").decode(payloads)
    assert whole.rejects == ()

    decoded = Codec(schema, "raw").decode(mutate_some(data, payloads))

    accounted = sorted([*decoded.rows.tolist(), *(reject.row for reject in decoded.rejects)])
    assert accounted == list(range(len(payloads)))
    assert decoded.table.num_rows == len(decoded.rows)


@QUICK
@given(batches())
def test_fast_and_slow_path_write_the_same_bytes_and_read_them_back(
    batch: tuple[Schema, list[bytes]],
) -> None:
    schema, payloads = batch
    table = Codec(schema, "raw").decode(payloads).table
    assume(table.num_rows > 0)

    values = Codec(schema, "raw").encode(table)

    assert values == slow_codec(schema).encode(table)
    assert len(values) == len(payloads)
    if not any(pa.types.is_float32(kind) for kind in schema.arrow.types):
        assert values == payloads


@QUICK
@given(batches(nested=True))
def test_nested_columns_are_written_as_they_were_read(batch: tuple[Schema, list[bytes]]) -> None:
    schema, payloads = batch
    codec = Codec(schema, "raw")
    table = codec.decode(payloads).table

    again = codec.decode(codec.encode(table)).table

    assert bits(again) == bits(table)


@QUICK
@given(batches(), st.data())
def test_a_slice_of_columns_is_written_as_its_own_rows(
    batch: tuple[Schema, list[bytes]], data: st.DataObject
) -> None:
    schema, payloads = batch
    codec = Codec(schema, "raw")
    start = data.draw(st.integers(0, len(payloads)))
    table = codec.decode(payloads).table

    assert codec.encode(table.slice(start)) == codec.encode(table)[start:]


@settings(deadline=None, max_examples=200)
@given(st.lists(st.none() | st.binary(max_size=30), max_size=20), st.sampled_from(["single_object", "raw"]))
def test_any_bytes_at_all_are_accounted_for(values: list[bytes | None], wire: Any) -> None:
    schema = parse_schema('{"type":"record","name":"R","fields":[{"name":"a","type":"long"}]}')
    codec = Codec(schema, wire, max_bytes=20)
    values = [codec.encode_rows([{"a": 5}])[0], *values]

    decoded = codec.decode(values)

    accounted = sorted([*decoded.rows.tolist(), *(reject.row for reject in decoded.rejects)])
    assert accounted == list(range(len(values)))
    assert decoded.rows[0] == 0


def test_the_fast_path_does_the_work_of_the_event_schemas() -> None:
    assert [
        plan(load_schema(name)) is not None for name in ("transaction", "sensor_reading", "label", "score")
    ]
    assert plan(load_schema("alert")) is None  # nested


def test_a_number_beyond_its_type_is_rejected_however_well_it_is_written() -> None:
    schema = parse_schema(
        '{"type":"record","name":"R","fields":[{"name":"a","type":"int"},{"name":"b","type":"long"}]}'
    )
    good = b"\x02\x02"
    int_of_33_bits = b"\x80\x80\x80\x80\x10\x02"
    long_of_65_bits = b"\x02" + b"\xff" * 9 + b"\x03"

    decoded = Codec(schema, "raw").decode([good, int_of_33_bits, long_of_65_bits])

    assert [(r.row, r.reason) for r in decoded.rejects] == [(1, "out_of_range"), (2, "bad_varint")]
    assert lanes.kept(3, {1: None, 2: None}).tolist() == [0]  # type: ignore[dict-item]


def test_a_float_keeps_its_value_in_both_paths() -> None:
    schema = parse_schema('{"type":"record","name":"R","fields":[{"name":"a","type":"float"}]}')
    values = np.array([0.1, -0.0, np.inf, -np.inf, 1e-45, 3.4e38], np.float32)
    payloads = [struct.pack("<f", value) for value in values]

    for codec in (Codec(schema, "raw"), slow_codec(schema)):
        assert codec.decode(payloads).table.column(0).to_numpy().tobytes() == values.tobytes()


@pytest.mark.parametrize(("kind", "value"), [("int", 1.5), ("int", 3e9), ("long", 1.5)])
def test_a_float_that_is_no_whole_number_of_its_field_is_refused_and_not_cut(kind: str, value: float) -> None:
    schema = parse_schema(
        json.dumps({"type": "record", "name": "R", "fields": [{"name": "a", "type": kind}]})
    )

    with pytest.raises((ValueError, pa.ArrowException)):
        Codec(schema, "raw").encode_columns({"a": np.array([2.0, value])}, 2)
