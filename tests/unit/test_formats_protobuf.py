"""Protobuf as Google's library reads and writes it, and messages that users bring."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from schemas import Codec, Schema, SchemaError, load_schema, slow
from schemas.proto_descriptor import described
from schemas.proto_layout import Layout, Slot, derived, value_prefix
from schemas.proto_write_rows import put_tag, put_varint
from tests.unit.test_codec_properties import QUICK, batches, mutate_some
from tests.unit.test_formats import can_hold, codec, record

TYPES = descriptor_pb2.FieldDescriptorProto
both_paths = pytest.mark.parametrize("path", ["fast", "slow"])


def file_of(layout: Layout, package: str = "generated") -> Any:
    """The file that `proto_text` writes, as protoc compiles it."""
    file = descriptor_pb2.FileDescriptorProto(name="generated.proto", package=package, syntax="proto3")
    file.dependency.append("google/protobuf/timestamp.proto")
    _fill(file.message_type.add(name="Top"), layout.slots, f".{package}.Top")
    return file


def _fill(message: Any, slots: tuple[Slot, ...], name: str) -> None:
    for slot in slots:
        kind = {"timestamp": "message"}.get(slot.kind, slot.kind)
        field = message.field.add(
            name=slot.name, number=slot.number, type=TYPES.Type.Value(f"TYPE_{kind.upper()}")
        )
        field.label = TYPES.LABEL_OPTIONAL if slot.shape == "one" else TYPES.LABEL_REPEATED
        if slot.kind in {"message", "enum"}:
            field.type_name = _declare(message, slot, name)
        elif slot.kind == "timestamp":
            field.type_name = ".google.protobuf.Timestamp"
        if slot.shape == "map":
            field.type_name = _entry(message, field, slot, name)
        elif slot.shape == "one" and kind != "message":
            field.proto3_optional = True
            field.oneof_index = len(message.oneof_decl)
            message.oneof_decl.add(name=f"_{slot.name}")


def _declare(message: Any, slot: Slot, name: str) -> str:
    if slot.kind == "message":
        _fill(message.nested_type.add(name=f"M_{slot.name}"), slot.slots, f"{name}.M_{slot.name}")
        return f"{name}.M_{slot.name}"
    enum = message.enum_type.add(name=f"E_{slot.name}")
    for number, symbol in slot.symbols.items():
        enum.value.add(name=value_prefix(enum.name) + symbol, number=number)
    return f"{name}.E_{slot.name}"


def _entry(message: Any, field: Any, slot: Slot, name: str) -> str:
    camel = "".join(part.capitalize() for part in slot.name.split("_")) + "Entry"
    entry = message.nested_type.add(name=camel)
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=TYPES.TYPE_STRING, label=TYPES.LABEL_OPTIONAL)
    value = entry.field.add(name="value", number=2, type=field.type, label=TYPES.LABEL_OPTIONAL)
    if field.type_name:
        value.type_name = field.type_name
    field.type = TYPES.TYPE_MESSAGE
    return f"{name}.{camel}"


def google(file: Any, name: str = "generated.Top") -> Any:
    """The class that Google's library makes of a message."""
    pool = descriptor_pool.DescriptorPool()
    time = descriptor_pb2.FileDescriptorProto()
    timestamp_pb2.DESCRIPTOR.CopyToProto(time)
    pool.AddSerializedFile(time.SerializeToString())
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


def set_of(file: Any) -> bytes:
    return bytes(descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString())


def said(message: Any, slots: tuple[Slot, ...]) -> dict[str, Any]:
    """What Google's library found in a message, as a row."""
    return {slot.name: _said(message, slot) for slot in slots}


def _said(message: Any, slot: Slot) -> Any:
    value = getattr(message, slot.name)
    if slot.shape == "many":
        return [_plain(item, slot) for item in value]
    if slot.shape == "map":
        return {key: _plain(value[key], slot) for key in value}
    return _plain(value, slot) if message.HasField(slot.name) else None


def _plain(value: Any, slot: Slot) -> Any:
    if slot.kind == "message":
        return said(value, slot.slots)
    if slot.kind == "timestamp":
        per_s = 1000 if slot.node.logical == "timestamp-millis" else 1_000_000
        return value.seconds * per_s + value.nanos * per_s // 1_000_000_000
    return slot.symbols[value] if slot.kind == "enum" else value


@QUICK
@given(batches(nested=True))
def test_google_reads_what_is_written_and_what_google_writes_is_read(
    batch: tuple[Schema, list[bytes]],
) -> None:
    schema, payloads = batch
    table = Codec(schema, "raw").decode(payloads).table
    if not can_hold(schema, "protobuf"):
        return
    layout = derived(schema)
    top = google(file_of(layout))

    messages = [top.FromString(value) for value in codec(schema, "protobuf").encode(table)]

    rows = repr(_in_order(slow.to_rows(schema, table)))
    assert repr(_in_order([said(message, layout.slots) for message in messages])) == rows
    again = codec(schema, "protobuf").decode([message.SerializeToString() for message in messages])
    assert again.rejects == ()
    assert repr(_in_order(slow.to_rows(schema, again.table))) == rows


def _in_order(value: Any) -> Any:
    """The same with the keys of maps sorted: Protobuf keeps no order of them."""
    if isinstance(value, dict):
        return {key: _in_order(value[key]) for key in sorted(value)}
    return [_in_order(item) for item in value] if isinstance(value, list) else value


@QUICK
@given(batches(), st.data())
def test_what_is_taken_google_takes_too_and_says_the_same(
    batch: tuple[Schema, list[bytes]], data: st.DataObject
) -> None:
    schema, payloads = batch
    layout = derived(schema)
    top = google(file_of(layout))
    values = mutate_some(data, codec(schema, "protobuf").encode(Codec(schema, "raw").decode(payloads).table))

    decoded = codec(schema, "protobuf").decode(values)

    for row, found in zip(decoded.rows.tolist(), slow.to_rows(schema, decoded.table), strict=True):
        assert repr(said(top.FromString(values[row]), layout.slots)) == repr(found)


@pytest.mark.parametrize("is_fast", [True, False])
@pytest.mark.parametrize(
    "padded", [b"\x88\x80\x80\x80\x80\x00\x07", b"\x08\x07\x7a\x81\x80\x80\x80\x80\x00a"]
)
def test_a_tag_or_length_in_more_than_five_bytes_is_refused_as_google_does(
    padded: bytes, is_fast: bool
) -> None:
    schema = record(a="int")
    made = codec(schema, "protobuf")
    if not is_fast:
        made._lanes = {key: dataclasses.replace(lane, fast=None) for key, lane in made._lanes.items()}

    [reject] = made.decode([padded]).rejects

    assert reject.reason == "bad_varint"
    with pytest.raises(Exception, match="parsing"):
        google(file_of(derived(schema))).FromString(padded)


READING = record(
    id="string",
    t={"type": "long", "logicalType": "timestamp-millis"},
    n="long",
    i="int",
    d="double",
    ok="boolean",
    kind=["null", {"type": "enum", "name": "Kind", "symbols": ["A", "B"]}],
    raw=["null", "bytes"],
)


def user_file() -> Any:
    """A file of some plant: another order, other numbers, types as people choose them, no presence."""
    file = descriptor_pb2.FileDescriptorProto(name="plant.proto", package="plant", syntax="proto3")
    file.dependency.append("google/protobuf/timestamp.proto")
    file.message_type.add(name="Header")
    outer = file.message_type.add(name="Events")
    reading = outer.nested_type.add(name="Reading")
    enum = file.enum_type.add(name="Kind")
    for number, name in enumerate(("KIND_UNSPECIFIED", "KIND_B", "KIND_A")):
        enum.value.add(name=name, number=number)
    kinds = {
        "d": "FLOAT",
        "id": "STRING",
        "i": "SINT32",
        "n": "FIXED32",
        "ok": "BOOL",
        "extra": "STRING",
        "raw": "BYTES",
    }
    for number, (name, kind) in enumerate(kinds.items(), 3):
        reading.field.add(
            name=name, number=number, type=TYPES.Type.Value(f"TYPE_{kind}"), label=TYPES.LABEL_OPTIONAL
        )
    reading.field.add(
        name="kind", number=1000, type=TYPES.TYPE_ENUM, type_name=".plant.Kind", label=TYPES.LABEL_OPTIONAL
    )
    reading.field.add(
        name="t",
        number=1,
        type=TYPES.TYPE_MESSAGE,
        type_name=".google.protobuf.Timestamp",
        label=TYPES.LABEL_OPTIONAL,
    )
    return file


READING_ROW = {"id": "ü", "n": 4_000_000_000, "i": -5, "d": 0.5, "ok": True, "kind": "A", "raw": b"\x00"}


@both_paths
def test_a_message_that_users_bring_is_read_by_its_names(path: str) -> None:
    file = user_file()
    made = codec(READING, "protobuf", path, message=described(READING, set_of(file), "plant.Events.Reading"))
    message = google(file, "plant.Events.Reading")(**{**READING_ROW, "kind": 2}, extra="nobody asked")
    message.t.FromMilliseconds(-1)
    empty = google(file, "plant.Events.Reading")()
    empty.t.FromMilliseconds(0)

    table = made.decode([message.SerializeToString(), empty.SerializeToString()]).table

    zeros = {"id": "", "n": 0, "i": 0, "d": 0.0, "ok": False, "kind": None, "raw": b""}
    assert slow.to_rows(READING, table) == [
        {"id": "ü", "t": -1, **{k: v for k, v in READING_ROW.items() if k != "id"}},
        {"id": "", "t": 0, **{k: v for k, v in zeros.items() if k != "id"}},
    ]


@both_paths
def test_a_message_that_users_bring_is_written_as_google_reads_it(path: str) -> None:
    file = user_file()
    made = codec(READING, "protobuf", path, message=described(READING, set_of(file), "plant.Events.Reading"))
    table = made.decode(made.encode_rows([{**READING_ROW, "t": 1_700_000_000_123}])).table

    found = google(file, "plant.Events.Reading").FromString(made.encode(table)[0])

    assert (found.t.ToMilliseconds(), found.kind, found.n, found.i) == (
        1_700_000_000_123,
        2,
        4_000_000_000,
        -5,
    )
    with pytest.raises(ValueError, match="raw: found null, expected a value: its field has no presence"):
        made.encode_rows([{**READING_ROW, "t": 0, "raw": None}])
    with pytest.raises(ValueError, match="n"):
        made.encode_rows([{**READING_ROW, "t": 0, "n": -1}])


@pytest.mark.parametrize(
    ("schema", "message", "problem"),
    [
        (READING, "plant.Missing", "found no message plant.Missing, expected one of .*plant.Events.Reading"),
        (record(new="int"), "plant.Events.Reading", "R.new: found no field in plant.Events.Reading"),
        (
            record(id="long"),
            "plant.Events.Reading",
            "R.id: found string in the message, expected one of int32",
        ),
        (record(n="int"), "plant.Events.Reading", "R.n: found fixed32 in the message, expected one of int32"),
        (record(t="string"), "plant.Events.Reading", "R.t: found google.protobuf.Timestamp in the message"),
        (
            record(d={"type": "array", "items": "float"}),
            "plant.Events.Reading",
            "R.d: found a single field in",
        ),
        (
            record(kind={"type": "enum", "name": "Kind", "symbols": ["A", "C"]}),
            "plant.Events.Reading",
            "R.kind: found no C in plant.Kind, expected all symbols",
        ),
    ],
)
def test_a_message_that_does_not_fit_is_refused_by_name(schema: Schema, message: str, problem: str) -> None:
    with pytest.raises(SchemaError, match=problem):
        described(schema, set_of(user_file()), message)


@pytest.mark.parametrize("data", [b"", b"\x00", b'syntax = "proto3";'])
def test_what_is_no_set_of_descriptors_is_refused(data: bytes) -> None:
    with pytest.raises(SchemaError, match="FileDescriptorSet"):
        described(READING, data, "plant.Events.Reading")


ONE = record(a="int", b="string")
A, B = put_tag(1, 0) + b"\x02", put_tag(2, 2) + b"\x01x"
REJECTS: list[tuple[Schema, bytes, str, str]] = [
    (ONE, A, "missing_field", "b: found nothing, expected a value"),
    (ONE, b"", "missing_field", "a: found nothing"),
    (ONE, A + B + A, "duplicate_field", "a: found it twice"),
    (
        ONE,
        put_tag(1, 2) + b"\x01x" + B,
        "wrong_type",
        "a: found bytes with a length, expected a varint (int32)",
    ),
    (ONE, put_tag(1, 0) + put_varint(1 << 31) + B, "out_of_range", "a: found a number beyond int"),
    (ONE, put_tag(1, 0) + b"\xff" * 9 + b"\x02" + B, "bad_varint", "a: found a number beyond 64 bits"),
    (ONE, A + put_tag(2, 2) + b"\x01\xff", "invalid_utf8", "b: found invalid start byte"),
    (ONE, A + put_tag(2, 2) + b"\x05x", "truncated", "b: found 1 bytes, expected 5"),
    (ONE, A + B + b"\x00", "bad_tag", "found tag 0"),
    (ONE, A + B + put_tag(9, 6), "bad_tag", "found tag 78"),
    (ONE, A + B + put_tag(9, 4), "bad_tag", "found the end of a group"),
    (ONE, A + B + put_tag(9, 3), "truncated", "found the end"),
    (ONE, A + B + put_tag(9, 1) + b"1234567", "truncated", "found 7 bytes, expected 8"),
    (record(a="boolean"), put_tag(1, 0) + b"\x02", "bad_boolean", "a: found 2, expected 0 or 1"),
    (
        record(a={"type": "enum", "name": "E", "symbols": ["A"]}),
        put_tag(1, 0) + b"\x01",
        "bad_enum",
        "a: found number 1, expected one of A (0)",
    ),
    (
        record(t={"type": "long", "logicalType": "timestamp-micros"}),
        put_tag(1, 2) + b"\x06\x10" + put_varint(1_000_000_000),
        "bad_timestamp",
        "t: found 1000000000 nanoseconds",
    ),
    (
        record(t={"type": "long", "logicalType": "timestamp-micros"}),
        put_tag(1, 2) + b"\x0a\x08" + put_varint(1 << 62),
        "out_of_range",
        "t: found a time beyond 64 bits",
    ),
]


@both_paths
@pytest.mark.parametrize(("schema", "payload", "reason", "detail"), REJECTS)
def test_a_message_that_is_no_record_is_rejected_by_name(
    schema: Schema, payload: bytes, reason: str, detail: str, path: str
) -> None:
    decoded = codec(schema, "protobuf", path).decode([payload])

    assert [reject.reason for reject in decoded.rejects] == [reason]
    assert detail in decoded.rejects[0].detail


@both_paths
def test_unknown_fields_of_every_kind_are_ignored_and_padded_numbers_are_read(path: str) -> None:
    group = put_tag(9, 3) + A + put_tag(7, 3) + put_tag(7, 4) + put_tag(9, 4)
    extra = [
        put_tag(5, 0) + b"\x81\x80\x00",
        put_tag(6, 1) + b"12345678",
        put_tag(7, 2) + b"\x02hi",
        put_tag(8, 5) + b"1234",
    ]
    padded = put_tag(1, 0) + b"\x82\x80\x80\x00"

    table = codec(ONE, "protobuf", path).decode([B + part + padded for part in [*extra, group]]).table

    assert table.to_pylist() == [{"a": 2, "b": "x"}] * 5


def test_repeated_numbers_are_read_packed_and_one_by_one() -> None:
    schema = record(a={"type": "array", "items": "int"})
    packed, single = put_tag(1, 2) + b"\x02\x01\x02", put_tag(1, 0) + b"\x03"

    assert codec(schema, "protobuf").decode([packed + single, b""]).table.column(0).to_pylist() == [
        [1, 2, 3],
        [],
    ]


def test_a_map_entry_without_its_key_or_value_is_their_zero() -> None:
    schema = record(a={"type": "map", "values": "int"})
    entries = put_tag(1, 2) + b"\x00" + put_tag(1, 2) + b"\x03" + put_tag(1, 2) + b"\x01k"

    assert codec(schema, "protobuf").decode([entries]).table.column(0).to_pylist() == [[("", 0), ("k", 0)]]


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ({"type": "array", "items": {"type": "array", "items": "int"}}, "R.a: found array of array"),
        ({"type": "map", "values": ["null", "int"]}, "R.a: found map of union"),
        (["null", {"type": "array", "items": "int"}], "R.a: found null or array, expected array"),
        ("null", "R.a: found null, expected a type that Protobuf has"),
    ],
)
def test_what_protobuf_has_no_words_for_is_refused(kind: Any, problem: str) -> None:
    with pytest.raises(SchemaError, match=problem):
        derived(record(a=kind))


def test_numbers_of_the_fields_that_we_publish_never_change() -> None:
    """A field is known by its number: new ones come last in the .avsc, and none is taken away."""
    score = "event_id key source_topic source_partition source_offset event_time scored_at score model"
    score += " model_version policy_version late incomplete degraded lookup_age_ms"
    alert = (
        f"alert_id {score} severity lifecycle reason reasons features degradation time_order low high rules"
    )
    known = {"score": f"{score} degradation time_order low high masked", "alert": f"{alert} masked"}

    for name, fields in known.items():
        found = {slot.name: slot.number for slot in derived(load_schema(name)).slots}
        assert [found[field] for field in fields.split()] == list(range(1, len(fields.split()) + 1))


def test_a_cut_message_is_noticed_wherever_it_is_cut() -> None:
    schema = record(a="int", b="string", c="double", d={"type": "array", "items": "int"})
    row = {"a": 0, "b": "", "c": 0.0, "d": [1]}  # zeros are written too
    value = codec(schema, "protobuf").encode_rows([row])[0]

    for end in range(len(value)):
        rejects = codec(schema, "protobuf").decode([value[:end]]).rejects
        whole_but_for_the_list = end == len(value) - 3
        assert bool(rejects) is not whole_but_for_the_list


def test_google_refuses_what_we_reject_as_no_fields() -> None:
    top = google(file_of(derived(ONE)))
    for schema, payload, reason, _ in REJECTS:
        if schema is ONE and reason in {"truncated", "bad_tag", "invalid_utf8"}:
            with pytest.raises(DecodeError):
                top.FromString(payload)


def test_kernels_take_every_kind_of_number_that_a_message_may_have() -> None:
    signed = ("int32", "sint32", "sfixed32", "int64", "sint64", "sfixed64")
    for kind in (*signed, "uint32", "fixed32", "uint64", "fixed64"):
        layout = derived(record(a="long"))
        layout = dataclasses.replace(layout, slots=(dataclasses.replace(layout.slots[0], kind=kind),))
        width = 31 if kind in signed[:3] else 32 if kind.endswith("32") else 63
        values = [0, 1, (1 << width) - 1, *([-1, -(1 << width)] if kind in signed else [])]
        schema = record(a="long")
        table = pa.record_batch([pa.array(values, pa.int64())], schema=schema.arrow)
        top = google(file_of(layout))
        fast, one_by_one = (codec(schema, "protobuf", path, message=layout) for path in ("fast", "slow"))

        assert fast.encode(table) == one_by_one.encode(table)
        assert [top.FromString(value).a for value in fast.encode(table)] == values
        assert fast.decode(fast.encode(table)).table.equals(table)
        assert one_by_one.decode(fast.encode(table)).table.equals(table)
        beyond = -1 if kind not in signed else 1 << width
        for made in (fast, one_by_one):
            with pytest.raises(ValueError, match="found"):
                made.encode_rows([{"a": beyond}])
        if width < 63:
            with pytest.raises(ValueError, match=f"a: found a number that is no {kind}, expected one"):
                fast.encode_columns({"a": np.array([beyond])}, 1)
