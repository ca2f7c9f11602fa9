"""A schema that is loaded can do no harm, and says which columns it stands for."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from schemas import Codec, SchemaError, bundled_schemas, load_schema, parse_schema
from schemas.tree import MAX_DEPTH


def record(*fields: Any, **more: Any) -> str:
    return json.dumps(
        {
            "type": "record",
            "name": "R",
            **more,
            "fields": [{"name": f"f{i}", "type": f} for i, f in enumerate(fields)],
        }
    )


def crc_64_avro(data: bytes) -> int:
    """The fingerprint as the Avro specification writes it down, bit by bit."""
    empty = 0xC15D213AA4D7A795
    value = empty
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (empty if value & 1 else 0)
    return value


def test_every_bundled_schema_loads_by_name_with_and_without_its_suffix() -> None:
    assert len(bundled_schemas()) == 8
    for name in bundled_schemas():
        assert load_schema(name).text == load_schema(name.removesuffix(".avsc")).text
        assert load_schema(name).name.startswith("penstock.")


def test_the_fingerprint_is_the_crc_of_the_canonical_form() -> None:
    schema = parse_schema(
        '{"type":"record","name":"R","namespace":"n","doc":"d","fields":[{"name":"a","type":"int"}]}'
    )

    canonical = b'{"name":"n.R","type":"record","fields":[{"name":"a","type":"int"}]}'
    assert schema.fingerprint == crc_64_avro(canonical)
    assert crc_64_avro(b'"int"') == 0x7275D51A3F395C8F  # from the test data of Apache Avro


def test_personal_fields_are_marked_in_the_schemas() -> None:
    marked = {name: load_schema(name).personal_fields for name in bundled_schemas()}

    assert marked == {
        "alert.avsc": {"key"},
        "dead_letter.avsc": {"key"},
        "label.avsc": {"customer_id"},
        "score.avsc": {"key"},
        "sensor_reading.avsc": set(),
        "transaction.avsc": {"customer_id"},
        "watch_alert.avsc": {"alert_id", "key"},
        "truth.avsc": set(),
    }


def test_columns_have_the_types_that_the_pipelines_rely_on() -> None:
    arrow = load_schema("transaction").arrow

    assert arrow.field("event_time").type == pa.timestamp("ms")
    assert arrow.field("channel").type == pa.string()
    assert [field.name for field in arrow if field.nullable] == ["channel"]
    assert load_schema("score").arrow.field("event_time").type == pa.timestamp("us")


def test_an_alert_holds_every_field_of_a_score() -> None:
    score, alert = load_schema("score").arrow, load_schema("alert").arrow

    assert [alert.field(name) for name in score.names] == list(score)


def test_a_file_beside_the_pipeline_goes_before_a_bundled_schema(tmp_path: Path) -> None:
    (tmp_path / "transaction.avsc").write_text(record("int"))

    assert load_schema("transaction.avsc", tmp_path).name == "R"
    assert load_schema("transaction", tmp_path).name == "penstock.Transaction"


@pytest.mark.parametrize("ref", ["missing.avsc", "../pyproject.toml", ""])
def test_a_schema_that_is_not_there_is_refused_with_the_names_that_are(ref: str, tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"found no such file, expected a path or one of alert\.avsc"):
        load_schema(ref, tmp_path)


def test_a_bad_file_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.avsc").write_text('{"type": "record",\n "name": }')

    with pytest.raises(SchemaError, match=r"^mine\.avsc: found no JSON [^\n]*$"):
        load_schema("mine.avsc", tmp_path)


EMPTY = {"type": "record", "name": "Empty", "fields": []}
NULLS = {
    "type": "record",
    "name": "Nulls",
    "fields": [{"name": "a", "type": "null"}, {"name": "b", "type": EMPTY}],
}
NOTHING = {"type": "fixed", "name": "Nothing", "size": 0}


@pytest.mark.parametrize("items", ["null", EMPTY, NULLS, NOTHING], ids=["null", "empty", "nulls", "fixed 0"])
@pytest.mark.parametrize("kind", ["array", "map"])
@pytest.mark.parametrize(
    "wrap", [lambda t: t, lambda t: ["null", t], lambda t: {"type": "array", "items": t}]
)
def test_arrays_and_maps_of_zero_byte_items_are_refused(kind: str, items: Any, wrap: Any) -> None:
    many = {"type": kind, ("items" if kind == "array" else "values"): items}

    with pytest.raises(SchemaError, match="zero-byte items"):
        parse_schema(record(wrap(many)))


@pytest.mark.parametrize(
    "field", ["R", ["null", "R"], {"type": "array", "items": "R"}, {"type": "map", "values": ["null", "R"]}]
)
def test_recursive_schemas_are_refused(field: Any) -> None:
    with pytest.raises(SchemaError, match="recursive type R"):
        parse_schema(record("int", field))


def test_a_type_may_be_used_twice() -> None:
    enum = {"type": "enum", "name": "E", "symbols": ["A", "B"]}
    schema = parse_schema(record(enum, "E", ["null", "E"]))

    rows: list[dict[str, Any]] = [{"f0": "A", "f1": "B", "f2": None}, {"f0": "B", "f1": "A", "f2": "B"}]
    codec = Codec(schema, "raw")
    assert codec.decode(codec.encode_rows(rows)).table.to_pylist() == rows


def test_a_short_text_that_stands_for_a_giant_tree_is_refused() -> None:
    inner: Any = {"type": "record", "name": "T0", "fields": [{"name": "a", "type": "int"}]}
    for level in range(1, 30):
        fields = [{"name": "a", "type": inner}, {"name": "b", "type": f"T{level - 1}"}]
        inner = {"type": "record", "name": f"T{level}", "fields": fields}

    with pytest.raises(SchemaError, match="more than 10000 types"):
        parse_schema(json.dumps(inner))


@pytest.mark.parametrize("depth", [4 * MAX_DEPTH, 1000, 100_000])
def test_a_schema_that_is_too_deep_is_refused(depth: int) -> None:
    text = '{"type":"array","items":' * depth + '"int"' + "}" * depth
    text = f'{{"type":"record","name":"R","fields":[{{"name":"a","type":{text}}}]}}'

    with pytest.raises(SchemaError):
        parse_schema(text)


@pytest.mark.parametrize(
    "text",
    [
        '"string"',
        '["null", "int"]',
        "[]",
        "3",
        "null",
        "{}",
        '{"type":"record","name":"1","fields":[]}',
        '{"type":"record","name":"R","fields":[{"name":"a-b","type":"int"}]}',
        record({"type": "enum", "name": "E", "symbols": ["A B"]}),
        record("unknown"),
        record({"type": "enum", "name": "E", "symbols": []}),
        record({"type": "enum", "name": "E", "symbols": ["A", "A"]}),
        record({"type": "fixed", "name": "F", "size": -1}),
        record({"type": "fixed", "name": "F", "size": "x"}),
        record([]),
        '{"type":"record","name":"R","fields":[{"name":"a","type":"int"},{"name":"a","type":"int"}]}',
        '{"type":"record","name":"R","fields":[{"name":"a","type":"int","default":"x"}]}',
        '{"type":"record","name":"R","fields":{"name":"a"},"__fastavro_parsed":true}',
    ],
)
def test_what_is_no_record_schema_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(SchemaError) as caught:
        parse_schema(text)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "found"),
    [
        ({"name": "a", "type": ["int", "string"]}, "found a union of int, string"),
        ({"name": "a", "type": EMPTY}, "found a record without fields"),
        ({"name": "a", "type": {"type": "array", "items": "int"}, "default": ["x"]}, "found default"),
        (
            {"name": "a", "type": {"type": "enum", "name": "E", "symbols": ["A"]}, "default": "B"},
            "found default",
        ),
    ],
)
def test_a_reader_that_cannot_be_columns_is_refused_before_any_record(field: Any, found: str) -> None:
    schema = parse_schema(json.dumps({"type": "record", "name": "R", "fields": [field]}))

    with pytest.raises(SchemaError, match=rf"R\.a: {found}"):
        Codec(schema, "raw")
