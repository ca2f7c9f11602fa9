"""JSON values become those of the schema, and what does not fit is told by place and type, never by value."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import Codec
from schemas.json_values import NotOfSchemaError, compile_json
from schemas.schema import parse_schema

SCHEMA = parse_schema(
    json.dumps(
        {
            "type": "record",
            "name": "R",
            "fields": [
                {"name": "i", "type": "int"},
                {"name": "l", "type": "long"},
                {"name": "d", "type": "double"},
                {"name": "s", "type": "string"},
                {"name": "b", "type": "boolean"},
                {"name": "t", "type": {"type": "long", "logicalType": "timestamp-millis"}},
                {"name": "y", "type": "bytes", "default": "ÿ"},
                {"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["A", "B"]}},
                {"name": "n", "type": ["null", "double"], "default": None},
                {"name": "a", "type": {"type": "array", "items": "int"}, "default": []},
                {"name": "m", "type": {"type": "map", "values": "string"}, "default": {}},
                {
                    "name": "r",
                    "type": {"type": "record", "name": "I", "fields": [{"name": "x", "type": "float"}]},
                    "default": {"x": 1.5},
                },
            ],
        }
    )
)
READ = compile_json(SCHEMA.tree)
GOOD: dict[str, Any] = {"i": 1, "l": 2, "d": 3, "s": "é", "b": True, "t": 5, "e": "B"}


def written(row: dict[str, Any]) -> dict[str, Any]:
    """The row as a record, read back."""
    codec = Codec(SCHEMA, "raw")
    decoded = codec.decode(codec.encode_rows([READ(row, "")], trusted=True))
    assert not decoded.rejects
    [back] = decoded.table.to_pylist()
    return dict(back)


def test_a_row_is_written_as_its_values_and_defaults() -> None:
    back = written({**GOOD, "t": "1970-01-01T01:00:00.005+01:00", "n": None, "a": [1], "m": {"k": "v"}})

    assert back["t"].timestamp() == 0.005
    assert (back["d"], back["y"], back["n"]) == (3.0, b"\xff", None)
    assert (back["a"], back["m"], back["r"]) == ([1], [("k", "v")], {"x": 1.5})


@pytest.mark.parametrize(
    ("change", "reason", "detail"),
    [
        ({"i": 2**31}, "out_of_range", "i: found a number beyond int, expected one within it"),
        ({"l": 1.0}, "undecodable", "l: found a number, expected a whole number"),
        ({"l": True}, "undecodable", "l: found a boolean, expected a whole number"),
        ({"d": "1"}, "undecodable", "d: found a text, expected a number"),
        ({"d": 10**400}, "out_of_range", "d: found a number beyond double, expected one within it"),
        ({"s": 5}, "undecodable", "s: found a whole number, expected a text"),
        ({"s": "\ud800"}, "invalid_utf8", "s: found half a surrogate pair, expected a text"),
        ({"b": 1}, "undecodable", "b: found a whole number, expected true or false"),
        ({"t": "2025-01-01T00:00:00"}, "undecodable", "t: found a time without a zone, expected a whole"),
        ({"t": "noon"}, "undecodable", "t: found a text, expected a whole number, or a time in ISO 8601"),
        ({"y": "€"}, "undecodable", "y: found a code point above 255, expected bytes"),
        ({"e": "C"}, "bad_enum", "e: found an unknown symbol, expected a symbol of the enum"),
        ({"n": "x"}, "undecodable", "n: found a text, expected a number"),
        ({"a": [1, None]}, "undecodable", "a[1]: found null, expected a whole number"),
        ({"m": {"k": 1}}, "undecodable", "m{}: found a whole number, expected a text"),
        ({"r": {"x": []}}, "undecodable", "r.x: found an array, expected a number"),
        ({"r": {}}, "undecodable", "r.x: found nothing, expected a value"),
        ({"z": 1}, "undecodable", "R: found an unknown field, expected one of a, b, d"),
    ],
)
def test_what_does_not_fit_is_told_by_place_and_type(
    change: dict[str, Any], reason: str, detail: str
) -> None:
    with pytest.raises(NotOfSchemaError) as told:
        READ({**GOOD, **change}, "")

    assert told.value.reason == reason
    assert str(told.value).startswith(detail)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(name=st.sampled_from([field.name for field in SCHEMA.tree.fields]), value=values)
def test_whatever_json_says_it_is_either_a_record_or_an_error_of_ours(name: str, value: Any) -> None:
    try:
        row = READ({**GOOD, name: value}, "")
    except NotOfSchemaError:
        return
    codec = Codec(SCHEMA, "raw")
    assert not codec.decode(codec.encode_rows([row], trusted=True)).rejects
