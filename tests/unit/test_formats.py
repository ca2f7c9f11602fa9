"""The same columns in Avro, JSON and Protobuf, and what is no record is rejected by name."""

import dataclasses
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import Codec, Schema, SchemaError, load_schema, parse_schema, slow, to_table
from schemas.form import FORMATS, Format
from schemas.json_number_kernels import double_bits, read_number
from tests.unit.test_codec_properties import QUICK, batches, bits, mutate_some, mutated

NAMED: tuple[Format, ...] = ("json", "protobuf")
every_format = pytest.mark.parametrize("form", FORMATS)
named_formats = pytest.mark.parametrize("form", NAMED)
TRANSACTION = load_schema("transaction")


def codec(schema: Schema, form: Format, path: str = "fast", **more: Any) -> Codec:
    """A codec without a prefix, which reads and writes by the kernels or record by record."""
    made = Codec(schema, "raw", format=form, **more)
    if path == "slow":
        made._lanes = {key: dataclasses.replace(lane, fast=None) for key, lane in made._lanes.items()}
        made._form = dataclasses.replace(made._form, write_columns=None)
    return made


def can_hold(schema: Schema, form: Format) -> bool:
    try:
        codec(schema, form)
    except SchemaError:
        return False
    return True


def transactions(count: int) -> pa.RecordBatch:
    return to_table(
        TRANSACTION,
        {
            "transaction_id": [f"t{i}" for i in range(count)],
            "event_time": np.arange(count) + 1_528_000_000_000,
            "customer_id": [str(i % 7) for i in range(count)],
            "terminal_id": ['Zürich "7" \\ \n'] * count,
            "amount": np.linspace(-1.0, 1e9, count),
            "channel": [(None, "POS", "ECOM", "ATM")[i % 4] for i in range(count)],
        },
    )


def record(**kinds: Any) -> Schema:
    """A schema of these fields; a kind is a type, or (type, default)."""
    fields = [
        {"name": name, "type": kind[0], "default": kind[1]}
        if isinstance(kind, tuple)
        else {"name": name, "type": kind}
        for name, kind in kinds.items()
    ]
    return parse_schema(json.dumps({"type": "record", "name": "R", "fields": fields}))


@every_format
@pytest.mark.parametrize("path", ["fast", "slow"])
def test_columns_come_back_as_they_went(form: Format, path: str) -> None:
    table = transactions(100)

    decoded = codec(TRANSACTION, form, path).decode(codec(TRANSACTION, form, path).encode(table))

    assert decoded.table.equals(table)
    assert decoded.rejects == ()


@every_format
@QUICK
@given(batches())
def test_a_flat_table_is_the_same_after_any_format(form: Format, batch: tuple[Schema, list[bytes]]) -> None:
    schema, payloads = batch
    table = Codec(schema, "raw").decode(payloads).table

    for writes, reads in (("fast", "fast"), ("fast", "slow"), ("slow", "fast")):
        decoded = codec(schema, form, reads).decode(codec(schema, form, writes).encode(table))
        assert decoded.rejects == ()
        assert bits(decoded.table) == bits(table)


@named_formats
@QUICK
@given(batches(nested=True))
def test_a_nested_table_is_the_same_after_any_format_that_can_hold_it(
    form: Format, batch: tuple[Schema, list[bytes]]
) -> None:
    schema, payloads = batch
    table = Codec(schema, "raw").decode(payloads).table
    if not can_hold(schema, form):
        assert form == "protobuf"  # JSON holds everything
        return

    decoded = codec(schema, form).decode(codec(schema, form).encode(table))

    assert decoded.rejects == ()
    assert bits(decoded.table) == bits(table)


@named_formats
@QUICK
@given(batches(), st.data())
def test_kernels_and_single_records_agree_on_damaged_payloads(
    form: Format, batch: tuple[Schema, list[bytes]], data: st.DataObject
) -> None:
    schema, payloads = batch
    table = Codec(schema, "raw").decode(payloads).table
    payloads = mutate_some(data, codec(schema, form).encode(table))

    fast, one_by_one = (codec(schema, form, path).decode(payloads) for path in ("fast", "slow"))

    assert fast.rejects == one_by_one.rejects
    assert fast.rows.tolist() == one_by_one.rows.tolist()
    assert bits(fast.table) == bits(one_by_one.table)


@named_formats
@QUICK
@given(st.data())
def test_one_damaged_record_never_spoils_its_batch(form: Format, data: st.DataObject) -> None:
    table = transactions(20)
    values = codec(TRANSACTION, form).encode(table)
    row = data.draw(st.integers(0, 19))
    values[row] = data.draw(mutated(values[row]))

    decoded = codec(TRANSACTION, form).decode(values)

    others = [other for other in range(20) if other != row]
    assert set(others) <= set(decoded.rows.tolist())
    kept = decoded.table.filter(pa.array([at != row for at in decoded.rows.tolist()]))
    assert kept.equals(table.take(pa.array(others)))


@every_format
def test_what_is_rare_and_nested_is_written_row_by_row(form: Format) -> None:
    schema = load_schema("alert")
    row = alert_row()

    values = codec(schema, form).encode_rows([row], trusted=True)

    assert values == codec(schema, form).encode_rows([row])
    found = codec(schema, form).decode(values).table.cast(_untimed(schema)).to_pylist()[0]
    assert found["reasons"] == [{"usual": None, "contribution": 0.25, **row["reasons"][0]}]
    assert dict(found["features"])["a"] == 1.5
    assert (found["event_time"], found["degradation"], found["lifecycle"]) == (
        1_700_000_000_000_001,
        "NONE",
        "RAISED",
    )


def _untimed(schema: Schema) -> pa.Schema:
    return pa.schema([field.with_type(slow.untimed(field.type)) for field in schema.arrow])


def alert_row() -> dict[str, Any]:
    texts = ("alert_id", "event_id", "key", "source_topic", "model", "model_version", "policy_version")
    return {
        **dict.fromkeys((*texts, "severity", "reason"), "x"),
        "source_partition": 1,
        "source_offset": 1 << 60,
        "event_time": datetime(2023, 11, 14, 22, 13, 20, 1, tzinfo=UTC),
        "scored_at": 1_700_000_000_000_002,
        "score": 0.5,
        "late": False,
        "incomplete": True,
        "degraded": False,
        "lifecycle": "RAISED",
        "reasons": [{"feature": "a", "value": 1.5, "contribution": 0.25, "text": "high"}],
        "features": {"a": 1.5, "b": float("nan")},
    }


@every_format
def test_rows_may_hold_numbers_of_numpy(form: Format) -> None:
    kinds = {"a": "int", "b": "long", "c": "float", "d": "double", "e": "boolean"}
    schema = record(**kinds, f={"type": "map", "values": "double"})
    row = {
        "a": np.int32(1),
        "b": np.int64(2),
        "c": np.float32(0.5),
        "d": np.float64(0.1),
        "e": np.bool_(True),
    }

    values = codec(schema, form).encode_rows([row | {"f": {"x": np.float64(2.5)}}], trusted=True)

    expected = {"a": 1, "b": 2, "c": 0.5, "d": 0.1, "e": True, "f": [("x", 2.5)]}
    assert codec(schema, form).decode(values).table.to_pylist() == [expected]


@every_format
def test_what_a_field_cannot_hold_is_refused(form: Format) -> None:
    schema = record(a="int", b="string")
    made = codec(schema, form)

    with pytest.raises(ValueError, match="a"):
        made.encode_columns({"a": np.array([1 << 31]), "b": ["x"]}, 1)
    with pytest.raises(ValueError, match="null"):
        made.encode_columns({"a": np.array([1]), "b": None}, 1)
    with pytest.raises(ValueError, match="found no value of the schema"):
        made.encode_rows([{"a": "one", "b": "x"}])


@named_formats
def test_constants_stand_for_every_row(form: Format) -> None:
    millis = {"type": "long", "logicalType": "timestamp-millis"}
    enum = {"type": "enum", "name": "E", "symbols": ["A", "B"]}
    kinds = {"t": millis, "e": enum, "d": "double", "f": "float", "b": "bytes", "s": "string", "k": "boolean"}
    schema = record(n="long", **kinds, z=["null", "int"])
    constants = {
        "t": -7,
        "e": "B",
        "d": 0.1,
        "f": float("inf"),
        "b": b"\x00\xff",
        "s": '"\x01é',
        "k": True,
        "z": None,
    }
    made = codec(schema, form)

    table = made.decode(made.encode_columns({"n": np.arange(3), **constants}, 3)).table

    assert table.equals(to_table(schema, {"n": [0, 1, 2], **constants}))


@named_formats
def test_missing_fields_take_their_default_and_unknown_ones_are_ignored(form: Format) -> None:
    enum = {"type": "enum", "name": "E", "symbols": ["A", "B"]}
    kinds: dict[str, Any] = {
        "a": ("long", 7),
        "b": ("string", "né"),
        "c": ["null", "double"],
        "d": (enum, "B"),
        "e": ("bytes", "ÿ"),
        "f": ("float", 0.1),
    }
    wide, narrow = record(x="int", **kinds), record(x="int", y=["null", "string"])
    values = codec(narrow, form).encode_rows([{"x": 1, "y": "never asked for"}, {"x": 2, "y": None}])

    for path in ("fast", "slow"):
        table = codec(wide, form, path).decode(values).table.to_pylist() if form == "json" else None
        if table is None:  # the second field has another number and type there: only the first is shared
            values = codec(record(x="int"), form).encode_rows([{"x": 1}, {"x": 2}])
            table = codec(wide, form, path).decode(values).table.to_pylist()
        rest = {"a": 7, "b": "né", "c": None, "d": "B", "e": b"\xff", "f": float(np.float32(0.1))}
        assert table == [{"x": 1, **rest}, {"x": 2, **rest}]


NUMBERS = record(i="int", l="long", f="float", d="double")
JSON_REJECTS: list[tuple[Schema, str, str, str]] = [
    (record(a="int"), '{"a":1', "invalid_json", "expected one object"),
    (record(a="int"), "", "invalid_json", "at character 0"),
    (record(a="int"), '{"a":1}}', "trailing_bytes", "character 7"),
    (record(a="int"), '{"a":1,}', "invalid_json", "character"),
    (record(a="int"), '{"a":01}', "invalid_json", "character"),
    (record(a="int"), '{"a":1}\x00', "trailing_bytes", "character 7"),
    (record(a="int"), '\ufeff{"a":1}', "invalid_json", "character 0"),
    (record(a="int"), "[1]", "wrong_type", "found an array, expected an object"),
    (record(a="int"), '{"a":"1"}', "wrong_type", "a: found a text, expected a whole number"),
    (record(a="int"), '{"a":null}', "wrong_type", "a: found null, expected a whole number"),
    (record(a="int"), '{"a":true}', "wrong_type", "a: found a boolean, expected a whole number"),
    (record(a="int"), '{"a":1.5}', "wrong_type", "a: found a number with a fraction"),
    (record(a="int"), '{"a":1e-999999999}', "wrong_type", "a: found a number with a fraction"),
    (record(a="int"), '{"a":2147483648}', "out_of_range", "a: found a number beyond int"),
    (record(a="long"), '{"a":9223372036854775808}', "out_of_range", "a: found a number beyond long"),
    (record(a="long"), '{"a":1e999999999}', "out_of_range", "a: found a number beyond long"),
    (record(a="long"), '{"a":' + "9" * 5000 + "}", "out_of_range", "a: found a number beyond long"),
    (record(a="double"), '{"a":1e400}', "out_of_range", "a: found a number beyond double"),
    (record(a="float"), '{"a":3.5e38}', "out_of_range", "a: found a number beyond float"),
    (record(a="boolean"), '{"a":1}', "wrong_type", "a: found a number, expected true or false"),
    (record(a="string"), '{"a":1}', "wrong_type", "a: found a number, expected a text"),
    (record(a="string"), '{"a":"\\ud800"}', "invalid_utf8", "a: found half of a surrogate pair"),
    (record(a="string"), '{"a":"\n"}', "invalid_json", "character"),
    (record(a="string"), '{"b":"x"}', "missing_field", "a: found nothing"),
    (record(a="string"), '{"a":"x","a":"y"}', "duplicate_field", "a: found it twice"),
    (record(a="bytes"), '{"a":"AA"}', "bad_base64", "a: found a text, expected base64"),
    (record(a="bytes"), '{"a":"AB=="}', "bad_base64", "a: found bits"),
    (TRANSACTION, '{"channel":"BOAT"}', "missing_field", "transaction_id"),
    (
        record(c={"type": "enum", "name": "E", "symbols": ["A", "B"]}),
        '{"c":"C"}',
        "bad_enum",
        "c: found no symbol of it, expected one of A, B",
    ),
    (
        record(t={"type": "long", "logicalType": "timestamp-millis"}),
        '{"t":"2024-01-01T00:00:00"}',
        "bad_timestamp",
        "t: found a text that is no time, expected one such as",
    ),
    (
        record(r={"type": "array", "items": {"type": "map", "values": "int"}}),
        '{"r":[{"k":1},{"k":"x"}]}',
        "wrong_type",
        "r.1.{}: found a text, expected a whole number",
    ),
]


@pytest.mark.parametrize("path", ["fast", "slow"])
@pytest.mark.parametrize(("schema", "text", "reason", "detail"), JSON_REJECTS)
def test_json_that_is_no_record_is_rejected_by_name(
    schema: Schema, text: str, reason: str, detail: str, path: str
) -> None:
    decoded = codec(schema, "json", path).decode([text.encode()])

    assert [reject.reason for reject in decoded.rejects] == [reason]
    assert detail in decoded.rejects[0].detail


def test_json_that_is_no_utf8_is_rejected_even_where_nobody_asks_for_it() -> None:
    decoded = codec(record(a="int"), "json").decode([b'{"a":1,"b":"\xff"}', b'{"a":1,"b":"\xc3\xbf"}'])

    assert [(reject.row, reject.reason) for reject in decoded.rejects] == [(0, "invalid_utf8")]


def test_json_nested_too_deep_is_rejected_and_ends_nothing() -> None:
    deep = b'{"b":' + b"[" * 100_000 + b"]" * 100_000 + b',"a":1}'
    well = b'{"b":' + b'[{"c":' * 100 + b"1" + b"}]" * 100 + b',"a":1}'

    decoded = codec(record(a="int"), "json").decode([deep, well])

    assert [(reject.row, reject.reason) for reject in decoded.rejects] == [(0, "invalid_json")]


@pytest.mark.parametrize("path", ["fast", "slow"])
def test_json_numbers_are_exact(path: str) -> None:
    texts = ["9007199254740993", "-9223372036854775808", "9223372036854775807", "1.0", "12e2", "-0"]
    decoded = codec(record(a="long"), "json", path).decode([f'{{"a":{text}}}'.encode() for text in texts])

    assert decoded.table.column(0).to_pylist() == [9007199254740993, -(1 << 63), (1 << 63) - 1, 1, 1200, 0]


@pytest.mark.parametrize("path", ["fast", "slow"])
def test_json_has_three_names_for_what_is_no_finite_number_and_python_writes_them_bare(path: str) -> None:
    texts = ['"NaN"', '"Infinity"', '"-Infinity"', "NaN", "Infinity", "-Infinity"]
    decoded = codec(record(a="float", b="double"), "json", path).decode(
        [f'{{"a":{text},"b":{text}}}'.encode() for text in texts]
    )

    for column in decoded.table.columns:
        assert [str(value) for value in column.to_pylist()] == ["nan", "inf", "-inf"] * 2


@QUICK
@given(st.floats(allow_nan=False) | st.decimals(allow_nan=False, allow_infinity=False).map(str))
def test_a_decimal_is_the_double_that_python_reads(number: Any) -> None:
    text = repr(number) if isinstance(number, float) else str(number).replace("E", "e")
    data = np.frombuffer(text.encode(), np.uint8)

    digits, power, falls, _, end = read_number(data, 0, len(data))

    if end != len(data):  # infinite, or of more digits than the kernel takes
        assert not text.strip("-0123456789.e+").isdigit()
        return
    found = np.uint64(double_bits(np.uint64(digits), power)).view(np.float64)
    assert (-found if falls else found) == float(text)


@pytest.mark.parametrize(
    "text",
    [
        "2.2250738585072011e-308",  # the largest subnormal, of a famous endless loop
        "2.4703282292062327e-324",  # half of the smallest: to even, which is 0
        "2.4703282292062328e-324",
        "1.7976931348623158e308",  # rounds down to the largest
        "1.7976931348623159e308",  # rounds up to infinity
        "9007199254740993",  # ties
        "9007199254740995",
        "18446744073709551615",
        "0.000000000000000000000000000000000000001",
    ],
)
def test_a_decimal_on_the_edge_is_rounded_as_ieee_754_asks(text: str) -> None:
    data = np.frombuffer(text.encode(), np.uint8)
    digits, power, _, _, end = read_number(data, 0, len(data))

    if end == len(data):
        assert np.uint64(double_bits(np.uint64(digits), power)).view(np.float64) == float(text)
    else:
        assert len(text.strip("0.")) > 19


TIME = record(
    s={"type": "long", "logicalType": "timestamp-millis"},
    u={"type": "long", "logicalType": "timestamp-micros"},
)


@pytest.mark.parametrize("path", ["fast", "slow"])
@QUICK
@given(
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)),
    st.integers(-23 * 60, 23 * 60),
    st.sampled_from(["T", "t", " "]),
)
def test_a_time_of_rfc_3339_is_the_same_instant(
    path: str, when: datetime, east_minutes: int, separator: str
) -> None:
    text = when.replace(tzinfo=timezone(timedelta(minutes=east_minutes))).isoformat(separator)
    micros = (when - datetime(1970, 1, 1)) // timedelta(microseconds=1) - east_minutes * 60_000_000

    table = codec(TIME, "json", path).decode([json.dumps({"s": text, "u": text}).encode()]).table

    assert [column.cast(pa.int64())[0].as_py() for column in table.columns] == [micros // 1000, micros]


@pytest.mark.parametrize("path", ["fast", "slow"])
@pytest.mark.parametrize(
    "text",
    [
        "2023-02-29T00:00:00Z",
        "2024-13-01T00:00:00Z",
        "2024-01-01T24:00:00Z",
        "2024-01-01T00:00:60Z",
        "2024-01-01T00:00Z",
        "2024-01-01T00:00:00.Z",
        "2024-01-01T00:00:00+24:00",
        "2024-01-01",
        "0000-01-01T00:00:00Z",
        "2024-01-01T00:00:00+0100",
        "2024-01-01T00:00:00Z ",
        "\uff12024-01-01T00:00:00Z",
    ],
)
def test_a_text_that_is_no_time_is_rejected(path: str, text: str) -> None:
    payload = json.dumps({"s": text, "u": 0}).encode()

    assert [r.reason for r in codec(TIME, "json", path).decode([payload]).rejects] == ["bad_timestamp"]


@pytest.mark.parametrize("path", ["fast", "slow"])
def test_digits_finer_than_the_field_are_cut_off_towards_the_past(path: str) -> None:
    payload = b'{"s":"1969-12-31T23:59:59.9999999Z","u":"2024-02-29T00:00:00.0000019+01:00"}'

    table = codec(TIME, "json", path).decode([payload]).table

    assert [column.cast(pa.int64())[0].as_py() for column in table.columns] == [-1, 1709161200000001]


def test_json_is_read_in_any_order_with_white_space_escapes_and_aliases() -> None:
    schema = parse_schema(
        '{"type":"record","name":"R","fields":[{"name":"a","type":"int","aliases":["old"]},'
        '{"name":"b","type":"string"}]}'
    )
    values = [
        b' { "b" : "\\u00e9\\ud83d\\ude00\\n\\/" , "x":[{"a":[1,{"b":null}]},"}"], "a" : 1 } \r\n',
        b'{"old":2,"b":"y"}',
        b'{"\\u0061":3,"b":"z"}',
    ]

    for path in ("fast", "slow"):
        table = codec(schema, "json", path).decode(values).table
        assert table.to_pylist() == [{"a": 1, "b": "é😀\n/"}, {"a": 2, "b": "y"}, {"a": 3, "b": "z"}]


def test_an_unknown_symbol_becomes_the_default_symbol_where_the_enum_has_one() -> None:
    schema = record(c={"type": "enum", "name": "E", "symbols": ["A", "OTHER"], "default": "OTHER"})

    assert codec(schema, "json").decode([b'{"c":"B"}', b'{"c":"A"}']).table.column(0).to_pylist() == [
        "OTHER",
        "A",
    ]


@QUICK
@given(batches(), st.data())
def test_json_that_is_taken_says_what_python_reads(
    batch: tuple[Schema, list[bytes]], data: st.DataObject
) -> None:
    schema, payloads = batch
    values = mutate_some(data, codec(schema, "json").encode(Codec(schema, "raw").decode(payloads).table))

    decoded = codec(schema, "json").decode(values)

    for row, found in zip(decoded.rows.tolist(), slow.to_rows(schema, decoded.table), strict=True):
        said = json.loads(values[row])
        for name, value in found.items():
            is_exact = isinstance(value, str | bool | int) and not isinstance(said.get(name), float)
            if is_exact and (isinstance(value, str) or not isinstance(said[name], str)):
                assert said[name] == value


@named_formats
def test_writer_schemas_and_single_object_are_avros(form: Format) -> None:
    with pytest.raises(SchemaError, match="found wire single_object, expected raw or confluent"):
        Codec(TRANSACTION, "single_object", format=form)
    with pytest.raises(SchemaError, match="found writer schemas, expected none"):
        Codec(TRANSACTION, "raw", format=form, writers=[TRANSACTION])
