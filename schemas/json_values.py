"""Values as JSON has them, as values of a schema; whatever does not fit is told by place and type alone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from schemas.resolve import default_value
from schemas.tree import NO_DEFAULT, TIMESTAMPS, Node, SchemaError, nullable

_INTEGERS: Final = {"int": 1 << 31, "long": 1 << 63}
_TIME = "a whole number, or a time in ISO 8601 with its zone"

Read = Callable[[Any, str], Any]  # value and place to the value of the schema


class NotOfSchemaError(ValueError):
    """A value that is none of the schema; no value is repeated in the message."""

    def __init__(self, reason: str, where: str, found: str, expected: str) -> None:
        super().__init__(f"{where}: found {found}, expected {expected}")
        self.reason = reason  # a code of docs/dead-letters.md


def compile_json(node: Node) -> Read:  # noqa: PLR0911 a line a kind
    """A function from what a JSON parser gives to what `Codec.encode_rows` takes.

    Numbers may be whole where the schema has floats, timestamps may be texts in ISO 8601, bytes are texts of
    code points up to 255 as Avro writes them in JSON. Fields that are missing take their default. What
    may be null is written as it is, without the name of its branch. The function raises NotOfSchemaError.

    Raises:
        SchemaError: a union of other types, which no codec reads either.
    """
    if node.logical in TIMESTAMPS:
        return _timestamp
    if node.kind in _INTEGERS:
        return _integer(node.kind)
    if node.kind in ("float", "double"):
        return _number
    if node.kind == "enum":
        return _enum(frozenset(node.symbols))
    if node.kind in ("bytes", "fixed"):
        return _bytes(node.size if node.kind == "fixed" else None)
    optional = nullable(node)
    if optional is not None:
        return _nullable(compile_json(optional[0]))
    if node.kind == "union":
        raise SchemaError(f"found a union of {len(node.branches)} types, expected null and one type")
    if node.kind == "array":
        return _array(compile_json(node.inner))
    if node.kind == "map":
        return _map(compile_json(node.inner))
    if node.kind == "record":
        return _record(node)
    if node.kind == "string":
        return _text
    return _plain(bool, "true or false") if node.kind == "boolean" else _plain(type(None), "null")


def kind_of(value: Any) -> str:
    """The type of what a JSON parser gave, as JSON calls it."""
    if value is None:
        return "null"
    kinds = {bool: "a boolean", int: "a whole number", float: "a number", str: "a text", list: "an array"}
    return kinds.get(type(value), "an object")


def _wrong(where: str, value: Any, expected: str) -> NotOfSchemaError:
    return NotOfSchemaError("undecodable", where, kind_of(value), expected)


def _plain(kind: type, expected: str) -> Read:
    def read(value: Any, where: str) -> Any:
        if type(value) is not kind:
            raise _wrong(where, value, expected)
        return value

    return read


def _text(value: Any, where: str) -> Any:
    if type(value) is not str:
        raise _wrong(where, value, "a text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise NotOfSchemaError("invalid_utf8", where, "half a surrogate pair", "a text") from error
    return value


def _integer(kind: str) -> Read:
    limit = _INTEGERS[kind]

    def read(value: Any, where: str) -> Any:
        if type(value) is not int:
            raise _wrong(where, value, "a whole number")
        if not -limit <= value < limit:
            raise NotOfSchemaError("out_of_range", where, f"a number beyond {kind}", "one within it")
        return value

    return read


def _number(value: Any, where: str) -> Any:
    if type(value) is not float and type(value) is not int:
        raise _wrong(where, value, "a number")
    try:
        return float(value)
    except OverflowError as error:
        raise NotOfSchemaError("out_of_range", where, "a number beyond double", "one within it") from error


def _timestamp(value: Any, where: str) -> Any:
    if type(value) is int:
        return _long(value, where)
    if type(value) is not str:
        raise _wrong(where, value, _TIME)
    try:
        time = datetime.fromisoformat(value)
    except ValueError as error:
        raise _wrong(where, value, _TIME) from error
    if time.tzinfo is None:
        raise NotOfSchemaError("undecodable", where, "a time without a zone", _TIME)
    return time


_long = _integer("long")


def _enum(symbols: frozenset[str]) -> Read:
    def read(value: Any, where: str) -> Any:
        if type(value) is not str:
            raise _wrong(where, value, "a symbol of the enum")
        if value not in symbols:
            raise NotOfSchemaError("bad_enum", where, "an unknown symbol", "a symbol of the enum")
        return value

    return read


def _bytes(size: int | None) -> Read:
    def read(value: Any, where: str) -> Any:
        if type(value) is not str:
            raise _wrong(where, value, "a text that stands for bytes")
        try:
            data = value.encode("latin-1")
        except UnicodeEncodeError as error:
            raise NotOfSchemaError("undecodable", where, "a code point above 255", "bytes") from error
        if size is not None and len(data) != size:
            raise NotOfSchemaError("undecodable", where, f"{len(data)} bytes", f"{size}")
        return data

    return read


def _nullable(other: Read) -> Read:
    def read(value: Any, where: str) -> Any:
        return None if value is None else other(value, where)

    return read


def _array(item: Read) -> Read:
    def read(value: Any, where: str) -> Any:
        if type(value) is not list:
            raise _wrong(where, value, "an array")
        return [item(each, f"{where}[{at}]") for at, each in enumerate(value)]

    return read


def _map(item: Read) -> Read:
    def read(value: Any, where: str) -> Any:
        if type(value) is not dict:
            raise _wrong(where, value, "an object")
        return {_text(key, where): item(each, f"{where}{{}}") for key, each in value.items()}

    return read


def _record(node: Node) -> Read:
    fields = [
        (
            field.name,
            compile_json(field.node),
            field.default is NO_DEFAULT,
            None if field.default is NO_DEFAULT else default_value(field.node, field.default),
        )
        for field in node.fields
    ]
    names = {name for name, *_ in fields}

    def read(value: Any, where: str) -> Any:
        if type(value) is not dict:
            raise _wrong(where or node.unqualified, value, "an object")
        prefix = f"{where}." if where else ""
        if not value.keys() <= names:
            expected = f"one of {', '.join(sorted(names))}"
            raise NotOfSchemaError("undecodable", where or node.unqualified, "an unknown field", expected)
        row = {}
        for name, read_field, is_needed, default in fields:
            if name in value:
                row[name] = read_field(value[name], prefix + name)
            elif is_needed:
                raise NotOfSchemaError("undecodable", prefix + name, "nothing", "a value")
            else:
                row[name] = default
        return row

    return read
