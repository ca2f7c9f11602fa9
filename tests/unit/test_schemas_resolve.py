"""A reader takes what another schema wrote, by Avro's rules."""

import json
from typing import Any

import pyarrow as pa
import pytest

from schemas import Codec, Schema, SchemaError, load_schema, parse_schema
from schemas.resolve import mismatch
from schemas.slow import compile_write
from schemas.wire import single_object_prefix


def schema(*fields: Any, name: str = "n.R", **more: Any) -> Schema:
    return parse_schema(json.dumps({"type": "record", "name": name, **more, "fields": list(fields)}))


def field(name: str, kind: Any, **more: Any) -> Any:
    return {"name": name, "type": kind, **more}


def read(writer: Schema, reader: Schema, rows: list[Any]) -> Any:
    """Rows as the reader sees them, and the reasons of the others."""
    prefix = single_object_prefix(writer.fingerprint)
    values = [prefix + payload for payload in map(compile_write(writer), rows)]
    decoded = Codec(reader, "single_object", writers=[writer]).decode(values)
    assert decoded.table.schema.equals(reader.arrow)
    return decoded.table.to_pylist(), [reject.reason for reject in decoded.rejects]


def test_fields_are_matched_by_name_whatever_their_order() -> None:
    writer = schema(field("a", "int"), field("b", "string"), field("gone", {"type": "array", "items": "int"}))
    reader = schema(field("b", "string"), field("a", "int"))

    rows, _ = read(writer, reader, [{"a": 1, "b": "x", "gone": [1, 2]}])

    assert rows == [{"b": "x", "a": 1}]


def test_a_missing_field_gets_its_default() -> None:
    writer = schema(field("a", "int"))
    defaults = {
        "s": ("string", "x", "x"),
        "b": ("bytes", "\u00ff\u0000", b"\xff\x00"),
        "f": ({"type": "fixed", "name": "F", "size": 2}, "\u00fe1", b"\xfe1"),
        "d": ("double", 1, 1.0),
        "n": (["null", "long"], None, None),
        "l": (["long", "null"], 7, 7),
        "e": ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, "B", "B"),
        "r": (
            {"type": "record", "name": "I", "fields": [field("x", "bytes", default="\u0080")]},
            {},
            {"x": b"\x80"},
        ),
        "li": ({"type": "array", "items": "bytes"}, ["\u00ff"], [b"\xff"]),
    }
    reader = schema(field("a", "int"), *(field(n, kind, default=d) for n, (kind, d, _) in defaults.items()))

    rows, _ = read(writer, reader, [{"a": 1}])

    assert rows == [{"a": 1} | {name: value for name, (_, _, value) in defaults.items()}]


@pytest.mark.parametrize(
    ("wrote", "reads", "value", "seen"),
    [
        ("int", "long", 5, 5),
        ("int", "float", 5, 5.0),
        ("int", "double", -5, -5.0),
        ("long", "float", 1 << 40, float(1 << 40)),
        ("long", "double", 3, 3.0),
        ("float", "double", 0.5, 0.5),
        ("string", "bytes", "ü", "ü".encode()),
        ("bytes", "string", "ü".encode(), "ü"),
        ("int", ["null", "long"], 5, 5),
        (["null", "int"], ["null", "double"], None, None),
        (["null", "int"], ["double", "null"], 2, 2.0),
        (["null", "int"], "long", 2, 2),
        (["string", "int", "null"], ["null", "string"], "x", "x"),
    ],
)
def test_a_type_is_promoted(wrote: Any, reads: Any, value: Any, seen: Any) -> None:
    assert read(schema(field("a", wrote)), schema(field("a", reads)), [{"a": value}]) == ([{"a": seen}], [])


def test_aliases_of_records_and_fields_are_followed() -> None:
    writer = schema(field("old", "int"), name="n.Old")
    reader = schema(field("new", "long", aliases=["old"]), aliases=["Old"])

    assert read(writer, reader, [{"old": 3}]) == ([{"new": 3}], [])


def test_enum_symbols_resolve_by_name_and_an_unknown_one_takes_the_default() -> None:
    def one(symbols: list[str], **more: Any) -> Schema:
        return schema(field("a", {"type": "enum", "name": "E", "symbols": symbols, **more}))

    rows = [{"a": "A"}, {"a": "C"}, {"a": "B"}]

    assert read(one(["A", "B", "C"]), one(["B", "A"], default="B"), rows)[0] == [
        {"a": "A"},
        {"a": "B"},
        {"a": "B"},
    ]
    assert read(one(["A", "B", "C"]), one(["B", "A"]), rows) == (
        [{"a": "A"}, {"a": "B"}],
        ["incompatible_schema"],
    )


def test_a_null_that_the_reader_cannot_take_rejects_only_its_record() -> None:
    writer, reader = schema(field("a", ["null", "int"])), schema(field("a", "int"))

    assert read(writer, reader, [{"a": 1}, {"a": None}, {"a": 2}]) == (
        [{"a": 1}, {"a": 2}],
        ["incompatible_schema"],
    )


def test_bytes_that_are_no_text_reject_only_their_record() -> None:
    writer, reader = schema(field("a", "bytes")), schema(field("a", "string"))

    assert read(writer, reader, [{"a": b"\xff"}, {"a": b"x"}]) == ([{"a": "x"}], ["invalid_utf8"])


def test_a_timestamp_keeps_its_unit_or_is_refused() -> None:
    millis = schema(field("t", {"type": "long", "logicalType": "timestamp-millis"}))
    micros = schema(
        field("t", {"type": "long", "logicalType": "timestamp-micros"}), field("x", "int", default=0)
    )
    plain = schema(field("t", "long"), field("y", "int"))

    assert read(plain, millis, [{"t": 5, "y": 0}])[1] == []
    with pytest.raises(
        SchemaError, match="t: found timestamp-millis in the writer schema, expected timestamp-micros"
    ):
        Codec(micros, "single_object", writers=[millis])


def test_nested_types_resolve_too() -> None:
    inner = {"type": "record", "name": "I", "fields": [field("x", "int")]}
    wider = {"type": "record", "name": "I", "fields": [field("x", "long"), field("y", "string", default="-")]}
    writer = schema(
        field("a", {"type": "array", "items": inner}), field("m", {"type": "map", "values": "int"})
    )
    reader = schema(
        field("a", {"type": "array", "items": wider}), field("m", {"type": "map", "values": "double"})
    )

    rows, _ = read(writer, reader, [{"a": [{"x": 1}, {"x": 2}], "m": {"k": 3}}])

    assert rows == [{"a": [{"x": 1, "y": "-"}, {"x": 2, "y": "-"}], "m": [("k", 3.0)]}]


def test_records_of_several_writers_keep_their_order() -> None:
    old, new = schema(field("a", "int")), schema(field("a", "int"), field("b", "string", default="?"))
    values = [
        (
            Codec(new, "single_object").encode_rows([{"a": i, "b": "!"}])
            if i % 3
            else Codec(old, "single_object").encode_rows([{"a": i}])
        )[0]
        for i in range(20)
    ]
    values[4] = None  # type: ignore[call-overload]

    decoded = Codec(new, "single_object", writers=[old]).decode(values)

    assert decoded.rows.tolist() == [i for i in range(20) if i != 4]
    assert decoded.table.column("a").to_pylist() == decoded.rows.tolist()
    assert decoded.table.column("b").to_pylist() == ["!" if i % 3 else "?" for i in decoded.rows]


@pytest.mark.parametrize(
    ("wrote", "reads", "found"),
    [
        ("string", "int", "a: found string in the writer schema, expected int"),
        ("double", "float", "a: found double in the writer schema, expected float"),
        (["null", "string"], ["null", "long"], None),  # the nulls can be read
        (["string", "bytes"], "int", "a: found bytes in the writer schema, expected int"),
        ({"type": "array", "items": "string"}, {"type": "array", "items": "int"}, r"a\[\]: found string"),
        (
            {"type": "fixed", "name": "F", "size": 2},
            {"type": "fixed", "name": "F", "size": 3},
            "found 2 bytes",
        ),
        (
            {"type": "enum", "name": "E", "symbols": ["A"]},
            {"type": "enum", "name": "G", "symbols": ["A"]},
            r"found enum (n\.)?E in the writer schema, expected",
        ),
    ],
)
def test_a_pair_that_cannot_work_is_found_before_any_record(
    wrote: Any, reads: Any, found: str | None
) -> None:
    problem = mismatch(schema(field("a", wrote)).tree, schema(field("a", reads)).tree)

    assert (problem is None) == (found is None)
    if found is not None:
        with pytest.raises(SchemaError, match=found):
            Codec(schema(field("a", reads)), "raw", writers=[schema(field("a", wrote))])


def test_a_field_without_a_default_must_have_been_written() -> None:
    with pytest.raises(
        SchemaError, match="b: found no such field in the writer schema, expected it or a default"
    ):
        Codec(schema(field("a", "int"), field("b", "int")), "raw", writers=[schema(field("a", "int"))])


def test_a_union_that_is_no_column_may_be_written_where_nobody_reads_it() -> None:
    writer = schema(field("a", "int"), field("odd", ["int", "string", {"type": "map", "values": "int"}]))
    reader = schema(field("a", "int"))

    assert read(writer, reader, [{"a": 1, "odd": "x"}, {"a": 2, "odd": {"k": 1}}])[0] == [{"a": 1}, {"a": 2}]
    assert isinstance(writer.arrow, pa.Schema)


OF_SCORE = "event_id key source_topic source_partition source_offset event_time scored_at score model"
OF_SCORE += " model_version policy_version late incomplete degraded lookup_age_ms"
OF_ALERT = f"alert_id {OF_SCORE} severity lifecycle reason reasons features"
IN_0_1_0 = {"score": OF_SCORE.split(), "alert": OF_ALERT.split()}


@pytest.mark.parametrize("name", ["score", "alert"])
def test_outputs_of_now_and_of_0_1_0_are_read_by_each_other(name: str) -> None:
    now = load_schema(name)
    fields = [field for field in now.json["fields"] if field["name"] in IN_0_1_0[name]]
    then = parse_schema(json.dumps({**now.json, "fields": fields}))
    row = {field["name"]: _some(field["type"]) for field in fields}

    (forward,), rejects = read(
        now, then, [{**{f["name"]: f.get("default") for f in now.json["fields"]}, **row}]
    )
    (backward,), more = read(then, now, [row])

    assert [field["name"] for field in fields] == IN_0_1_0[name], "nothing is moved or taken away"
    assert rejects == more == []
    assert {field: backward[field] for field in forward} == forward
    new = [field for field in now.json["fields"] if field not in fields]
    assert [backward[field["name"]] for field in new] == [field["default"] for field in new]


def _some(kind: Any) -> Any:
    """A value of a type."""
    if isinstance(kind, dict):
        return {"long": 5, "enum": kind.get("symbols", [""])[0], "array": [], "map": {}}[kind["type"]]
    return {"string": "x", "int": 3, "long": 4, "float": 0.5, "boolean": True}.get(str(kind))
