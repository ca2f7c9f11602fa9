"""One record between JSON and a row of an Avro schema: strict, and says what is wrong where."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NoReturn

import numpy as np

from schemas import slow
from schemas.resolve import default_value
from schemas.schema import Schema
from schemas.tree import NO_DEFAULT, Field, Node, nullable
from schemas.walk import Malformed

PER_S: Final = {"timestamp-millis": 1_000, "timestamp-micros": 1_000_000}
_SPANS: Final = {"int": 1 << 31, "long": 1 << 63}
_TIME: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)
_SPECIAL: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LARGEST_POWER: Final = 400  # of a number that may be whole: 10^400 is beyond all of them

_Read = Callable[[Any], Any]  # what json.loads gives -> a value of the row


@dataclass(frozen=True, slots=True)
class _Number:
    """A number as it was written."""

    text: str


class _Object(tuple[tuple[str, Any], ...]):
    """The members of an object in their order, repeated ones too."""

    __slots__ = ()


def compile_read(reader: Schema) -> Callable[[bytes], slow.Row]:
    """Return a function from a payload to a row of the reader; timestamps are integers.

    The function raises Malformed for what is not exactly one object that has the reader's fields. Further
    members are ignored, as far as they are JSON.
    """
    read_top = _record(reader.tree)

    def read(payload: bytes) -> slow.Row:
        row: slow.Row = read_top(_parsed(payload))
        return row

    return read


def _parsed(payload: bytes) -> Any:
    try:
        return json.loads(
            payload.decode("utf-8"),
            object_pairs_hook=_Object,
            parse_float=_Number,
            parse_int=_Number,
            parse_constant=_Number,
        )
    except UnicodeDecodeError as error:
        detail = f"found {error.reason} at byte {error.start}, expected UTF-8"
        raise Malformed("invalid_utf8", detail) from error
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            detail = f"found more after the value ends, at character {error.pos}, expected one value"
            raise Malformed("trailing_bytes", detail) from error
        detail = f"found no JSON at character {error.pos} ({error.msg}), expected one object"
        raise Malformed("invalid_json", detail) from error
    except RecursionError as error:
        raise Malformed("invalid_json", "found JSON nested too deep, expected one object") from error


def _reader(node: Node) -> _Read:
    optional = nullable(node)
    if optional:
        read = _reader(optional[0])
        return lambda value: None if value is None else read(value)
    if node.logical:
        return _timestamp(PER_S[node.logical])
    if node.kind in {"record", "array", "map"}:
        return {"record": _record, "array": _array, "map": _map}[node.kind](node)
    if node.kind == "enum":
        return _enum(node)
    if node.kind == "fixed":
        return _fixed(node.size)
    return {
        "null": _null,
        "boolean": _boolean,
        "int": _whole("int"),
        "long": _whole("long"),
        "float": _float,
        "double": _double,
        "bytes": _bytes,
        "string": _string,
    }[node.kind]


def _record(node: Node) -> _Read:
    readers = [(field.name, _reader(field.node)) for field in node.fields]
    known = {name: field.name for field in node.fields for name in (field.name, *field.aliases)}
    missing = {field.name: _when_missing(field) for field in node.fields}

    def read(value: Any) -> slow.Row:
        if not isinstance(value, _Object):
            _wrong(value, "an object")
        found: dict[str, Any] = {}
        for key, item in value:
            name = known.get(key)
            if name is None:
                continue
            if name in found:
                raise _at(name, Malformed("duplicate_field", "found it twice, expected it once"))
            found[name] = item
        row: slow.Row = {}
        for name, read_field in readers:
            try:
                row[name] = read_field(found[name]) if name in found else missing[name]()
            except Malformed as error:
                raise _at(name, error) from None
        return row

    return read


def _when_missing(field: Field) -> Callable[[], Any]:
    if field.default is not NO_DEFAULT:
        value = default_value(field.node, field.default)
        return lambda: value
    if nullable(field.node) or field.node.kind == "null":
        return lambda: None

    def refuse() -> NoReturn:
        raise Malformed("missing_field", "found nothing, expected a value (it has no default)")

    return refuse


def _array(node: Node) -> _Read:
    read = _reader(node.inner)

    def read_array(value: Any) -> list[Any]:
        if not isinstance(value, list):
            _wrong(value, "an array")
        out = []
        for index, item in enumerate(value):
            try:
                out.append(read(item))
            except Malformed as error:
                raise _at(str(index), error) from None
        return out

    return read_array


def _map(node: Node) -> _Read:
    read = _reader(node.inner)

    def read_map(value: Any) -> dict[str, Any]:
        if not isinstance(value, _Object):
            _wrong(value, "an object")
        out: dict[str, Any] = {}
        for key, item in value:
            if key in out:
                raise Malformed("duplicate_field", "found a key twice, expected it once")
            try:
                out[_string(key)] = read(item)
            except Malformed as error:
                raise _at("{}", error) from None  # a key may be personal
        return out

    return read_map


def _enum(node: Node) -> _Read:
    symbols = frozenset(node.symbols)

    def read(value: Any) -> str:
        symbol = _string(value)
        if symbol in symbols:
            return symbol
        if node.default_symbol:
            return node.default_symbol
        raise Malformed("bad_enum", f"found no symbol of it, expected one of {', '.join(node.symbols)}")

    return read


def _fixed(size: int) -> _Read:
    def read(value: Any) -> bytes:
        found = _bytes(value)
        if len(found) != size:
            raise Malformed("out_of_range", f"found {len(found)} bytes, expected {size}")
        return found

    return read


def _null(value: Any) -> None:
    if value is not None:
        _wrong(value, "null")


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        _wrong(value, "true or false")
    return bool(value)


def _string(value: Any) -> str:
    if not isinstance(value, str):
        _wrong(value, "a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Malformed("invalid_utf8", "found half of a surrogate pair, expected both") from error
    return str(value)


def _bytes(value: Any) -> bytes:
    if not isinstance(value, str):
        _wrong(value, "a text in base64")
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Malformed("bad_base64", "found a text, expected base64 with padding") from error
    if base64.b64encode(data).decode() != value:
        raise Malformed("bad_base64", "found bits that no byte has room for, expected base64 with padding")
    return data


def _whole(kind: str) -> Callable[[Any], int]:
    limit = _SPANS[kind]

    def read(value: Any) -> int:
        if not isinstance(value, _Number) or value.text in _SPECIAL:
            _wrong(value, "a whole number")
        try:
            number = Decimal(value.text)
        except ArithmeticError as error:
            raise Malformed("out_of_range", f"found a number that is no {kind}, expected one") from error
        if number and number.adjusted() > _LARGEST_POWER:
            raise Malformed("out_of_range", f"found a number beyond {kind}, expected one of it")
        if number.as_integer_ratio()[1] != 1 if _is_near(number) else number != 0:
            raise Malformed("wrong_type", "found a number with a fraction, expected a whole number")
        if not -limit <= number < limit:
            raise Malformed("out_of_range", f"found a number beyond {kind}, expected one of it")
        return int(number)

    return read


def _is_near(number: Decimal) -> bool:
    """Whether a number has few enough places behind the point to be looked at exactly."""
    exponent = number.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= -_LARGEST_POWER


def _double(value: Any) -> float:
    if isinstance(value, str) and value in _SPECIAL:
        return _SPECIAL[value]
    if not isinstance(value, _Number):
        _wrong(value, "a number")
    if value.text in _SPECIAL:  # as Python writes them
        return _SPECIAL[value.text]
    number = float(value.text)
    if math.isinf(number):
        raise Malformed("out_of_range", "found a number beyond double, expected one of it")
    return number


def _float(value: Any) -> float:
    number = _double(value)
    with np.errstate(over="ignore"):
        if math.isfinite(number) and np.isinf(np.float32(number)):
            raise Malformed("out_of_range", "found a number beyond float, expected one of it")
    return number


def _timestamp(per_s: int) -> Callable[[Any], int]:
    number = _whole("long")
    unit = "milliseconds" if per_s == 1000 else "microseconds"

    def read(value: Any) -> int:
        if isinstance(value, str):
            return _ticks(value, per_s)
        if not isinstance(value, _Number):
            _wrong(value, f"{unit} since 1970, or a time with its zone")
        return number(value)

    return read


def _ticks(text: str, per_s: int) -> int:
    """Ticks since 1970 of a time as RFC 3339 writes it; finer digits are cut off."""
    found = _TIME.fullmatch(text)
    try:
        if found is None:
            raise ValueError(text)
        day, hour, minute, second, fraction, sign, zone_hours, zone_minutes = found.groups()
        at = datetime.fromisoformat(f"{day}T{hour}:{minute}:{second}+00:00") - _EPOCH
        if int(zone_hours or 0) > 23 or int(zone_minutes or 0) > 59:
            raise ValueError(text)
    except ValueError:
        detail = "found a text that is no time, expected one such as 2026-01-31T12:00:00.5Z, with its zone"
        raise Malformed("bad_timestamp", detail) from None
    east = (int(zone_hours or 0) * 3600 + int(zone_minutes or 0) * 60) * (-1 if sign == "-" else 1)
    seconds = at.days * 86400 + at.seconds - east
    digits = len(str(per_s)) - 1
    return seconds * per_s + int((fraction or "0")[:digits].ljust(digits, "0"))


def _wrong(value: Any, expected: str) -> NoReturn:
    found = {_Number: "a number", _Object: "an object", list: "an array", str: "a text", bool: "a boolean"}
    raise Malformed("wrong_type", f"found {found.get(type(value), 'null')}, expected {expected}")


def _at(name: str, error: Malformed) -> Malformed:
    error.path.insert(0, name)
    return error


def compile_write(
    schema: Schema, *, typed: bool = False, trusted: bool = False
) -> Callable[[slow.Row], bytes]:
    """Return a function from a row to a payload; which rows it takes is said at `slow.compile_write`."""
    check = None if trusted else slow.compile_write(schema, typed=typed)

    def write(row: slow.Row) -> bytes:
        if check is not None:
            check(row)
        plain = _plain(schema.tree, row)
        return json.dumps(plain, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()

    return write


def _plain(node: Node, value: Any) -> Any:  # noqa: PLR0911 one for each kind
    """What json.dumps writes as the value of a row."""
    optional = nullable(node)
    node = optional[0] if optional else node
    if value is None:
        return None
    if node.kind == "record":
        return {field.name: _plain(field.node, _of(value, field)) for field in node.fields}
    if node.kind == "array":
        return [_plain(node.inner, item) for item in value]
    if node.kind == "map":
        return {key: _plain(node.inner, item) for key, item in value.items()}
    if node.kind in {"bytes", "fixed"}:
        return base64.b64encode(value).decode()
    if node.kind in {"float", "double"}:
        return plain_float(node.kind, float(value))
    if node.kind in {"int", "long"}:  # numpy's numbers too, of which json.dumps knows nothing
        return int(ticks_of(value, PER_S[node.logical]) if node.logical else value)
    return bool(value) if node.kind == "boolean" else value


def _of(row: Mapping[str, Any], field: Field) -> Any:
    return row[field.name] if field.name in row else default_value(field.node, field.default)


def plain_float(kind: str, number: float) -> float | str:
    """A float or a double as json.dumps may write it: JSON knows no others than finite ones."""
    if math.isnan(number):
        return "NaN"
    if kind == "float":  # the fewest digits that are this number in 32 bits
        with np.errstate(over="ignore"):
            number = float(str(np.float32(number)))
    return number if math.isfinite(number) else "Infinity" if number > 0 else "-Infinity"


def ticks_of(value: int | datetime, per_s: int) -> int:
    """Ticks since 1970 of an integer, which it is already, or of a time that knows its zone."""
    if not isinstance(value, datetime):
        return value
    return (value - _EPOCH) // timedelta(microseconds=1_000_000 // per_s)
