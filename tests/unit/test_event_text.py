"""Events as people write them become records of the schema, or an error that names the field."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import Codec
from schemas.schema import Schema, load_schema, parse_schema
from worker.event_text import EventError, assigned, example, row_of

ALL_KINDS = parse_schema(
    json.dumps(
        {
            "type": "record", "name": "Everything", "fields": [
                {"name": "text", "type": "string"},
                {"name": "small", "type": "int"},
                {"name": "large", "type": "long"},
                {"name": "single", "type": "float"},
                {"name": "exact", "type": "double"},
                {"name": "yes", "type": "boolean"},
                {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["A", "B"]}},
                {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
                {"name": "at_us", "type": {"type": "long", "logicalType": "timestamp-micros"}},
                {"name": "maybe", "type": ["null", "double"], "default": None},
                {"name": "raw", "type": "bytes", "default": ""},
                {"name": "list", "type": {"type": "array", "items": "int"}, "default": []},
                {"name": "map", "type": {"type": "map", "values": "string"}, "default": {}},
                {"name": "inner", "type": {"type": "record", "name": "Inner", "fields": [
                    {"name": "deep", "type": "double"}]}},
            ],
        }
    )
)  # fmt: skip
GOOD: dict[str, Any] = {
    "text": "a", "small": 1, "large": 2**40, "single": 1, "exact": 0.1, "yes": True, "kind": "B",
    "at": "2026-01-31T12:00:00Z", "at_us": "2026-01-31T13:00:00.000001+01:00", "inner": {"deep": 3},
}  # fmt: skip


def sent(schema: Schema, said: Any) -> dict[str, Any]:
    """The event as a worker would read it."""
    codec = Codec(schema, "single_object")
    (row,) = codec.decode(codec.encode_rows([row_of(schema.tree, said)])).table.to_pylist()
    return dict(row)


def test_every_kind_of_value_comes_out_as_it_was_written() -> None:
    read = sent(ALL_KINDS, GOOD)

    assert {name: read[name] for name in ("text", "small", "large", "exact", "yes", "kind")} == {
        name: GOOD[name] for name in ("text", "small", "large", "exact", "yes", "kind")
    }
    assert pa.scalar(read["at"], pa.timestamp("ms")).value == 1_769_860_800_000
    assert pa.scalar(read["at_us"], pa.timestamp("us")).value == 1_769_860_800_000_001
    assert (read["maybe"], read["raw"], read["list"], read["inner"]) == (None, b"", [], {"deep": 3.0})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"smal": 1}, "found no field 'smal'; did you mean small?"),
        ({"small": "1"}, 'small: found "1", expected a whole number'),
        ({"small": 2**31}, "small: found 2147483648"),
        ({"small": 1.5}, "small: found 1.5"),
        ({"small": True}, "small: found true"),
        ({"large": 2**63}, "large: found"),
        ({"exact": "much"}, 'exact: found "much", expected a number'),
        ({"exact": float("nan")}, "exact: found NaN"),
        ({"yes": 1}, "yes: found 1, expected true or false"),
        ({"kind": "C"}, 'kind: found "C", expected one of A, B'),
        ({"text": None}, "text: found null, expected a text"),
        ({"at": "noon"}, 'at: found "noon", expected a time, such as 2026-01-31T12:00:00Z, or milliseconds'),
        ({"at_us": False}, "or microseconds since 1970"),
        ({"maybe": "x"}, "maybe: found"),
        ({"raw": "\u20ac"}, "raw: found"),
        ({"list": [1, "x"]}, 'list[1]: found "x"'),
        ({"map": {"k": 1}}, "map.k: found 1"),
        ({"inner": {}}, "inner: found nothing for deep (a number)"),
        ({"inner": {"deep": {}}}, "inner.deep: found {}"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_a_wrong_field_is_named_with_what_was_expected(change: dict[str, Any], said: str) -> None:
    with pytest.raises(EventError) as refused:
        row_of(ALL_KINDS.tree, {**GOOD, **change})

    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_is_missing_is_named_with_its_type() -> None:
    with pytest.raises(EventError, match=r"found nothing for text \(a text\), kind \(one of A, B\), "):
        row_of(ALL_KINDS.tree, {k: v for k, v in GOOD.items() if k not in ("text", "kind")})


@pytest.mark.parametrize("said", [None, 3, "x", [], [1]])
def test_what_is_no_object_is_no_event(said: Any) -> None:
    with pytest.raises(EventError, match="expected a JSON object"):
        row_of(ALL_KINDS.tree, said)


def test_arguments_are_texts_where_the_field_is_a_text() -> None:
    words = [
        "text=007",
        "small=7",
        "yes=true",
        "kind=A",
        "at=2026-01-31T12:00:00Z",
        "maybe=null",
        "exact=NaN",
    ]

    assert assigned(ALL_KINDS.tree, words) == {
        "text": "007", "small": 7, "yes": True, "kind": "A", "at": "2026-01-31T12:00:00Z", "maybe": None,
        "exact": "NaN",
    }  # fmt: skip
    with pytest.raises(EventError, match="expected FIELD=VALUE"):
        assigned(ALL_KINDS.tree, ["text"])


@pytest.mark.parametrize("name", ["transaction", "sensor_reading", "label"])
def test_the_example_of_a_schema_can_be_sent(name: str) -> None:
    schema = load_schema(name)

    assert set(sent(schema, json.loads(json.dumps(example(schema.tree))))) == set(schema.arrow.names)


CODEC = Codec(ALL_KINDS, "raw")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(GOOD)), JSON)
def test_any_json_is_an_event_or_an_error_of_one_line(field: str, value: Any) -> None:
    said, row = "", None
    try:
        row = row_of(ALL_KINDS.tree, {**GOOD, field: value})
    except EventError as error:
        said = str(error)
    if row is None:
        assert field in said
        assert "\n" not in said
    else:
        CODEC.encode_rows([row])  # the codec takes whatever we let through
