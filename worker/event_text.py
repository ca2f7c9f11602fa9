"""An event as a person writes it, JSON or FIELD=VALUE, as a row of its schema; or what is wrong where."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any, Final

from schemas.resolve import default_value
from schemas.tree import NO_DEFAULT, Field, Node, nullable

_RANGES: Final = {"int": 31, "long": 63}
_PER_SECOND: Final = {"timestamp-millis": 1_000, "timestamp-micros": 1_000_000}
_LARGEST: Final = {"float": 3.4028234663852886e38, "double": sys.float_info.max}
_MOST_CHARS: Final = 60  # of a value, in an error


class EventError(ValueError):
    """A value that is none of the schema: `path: found X, expected Y`."""


def row_of(record: Node, value: Any, path: str = "") -> dict[str, Any]:
    """A JSON object as a row for `Codec.encode_rows`.

    Texts that JSON has no type for are read: times in ISO 8601, bytes as characters of Latin-1.

    Raises:
        EventError: a field is unknown or missing, or a value is none of its type.
    """
    if not isinstance(value, Mapping):
        raise EventError(f"{_at(path)}found {_said(value)}, expected a JSON object")
    names = [field.name for field in record.fields]
    for name in value:
        if name not in names:
            near = get_close_matches(str(name), names, n=1)
            meant = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(names)}"
            raise EventError(f"{_at(path)}found no field {name!r}; {meant}")
    row = {
        f.name: _value(f.node, value[f.name], f"{path}.{f.name}" if path else f.name)
        for f in record.fields
        if f.name in value
    }
    row |= {
        f.name: default_value(f.node, f.default)
        for f in record.fields
        if f.name not in value and f.default is not NO_DEFAULT
    }
    missing = [f.name for f in record.fields if f.name not in value and f.default is NO_DEFAULT]
    if missing:
        kinds = ", ".join(f"{f.name} ({words(f.node)})" for f in record.fields if f.name in missing)
        raise EventError(f"{_at(path)}found nothing for {kinds}, expected a value: it has no default")
    return row


def assigned(record: Node, words_said: Sequence[str]) -> dict[str, Any]:
    """FIELD=VALUE arguments as a JSON object: text where the field is a text, else what JSON says.

    Raises:
        EventError: an argument has no equals sign.
    """
    kinds = {field.name: _inner(field.node) for field in record.fields}
    found: dict[str, Any] = {}
    for word in words_said:
        name, is_one, text = word.partition("=")
        if not is_one:
            raise EventError(f"found {word!r}, expected FIELD=VALUE")
        node = kinds.get(name)
        is_text = node is not None and node.kind in ("string", "enum", "bytes", "fixed")
        found[name] = text if is_text else _json_or_text(text)
    return found


def example(record: Node) -> dict[str, Any]:
    """A JSON object with a value for every field, to be changed by whoever copies it."""
    return {field.name: _example(field) for field in record.fields}


def words(node: Node) -> str:
    """A type in words."""
    optional = nullable(node)
    if optional:
        return f"{words(optional[0])}, or null"
    if node.logical:
        return "a time, such as 2026-01-31T12:00:00Z"
    if node.kind == "enum":
        return f"one of {', '.join(node.symbols)}"
    return {
        "boolean": "true or false", "int": "a whole number", "long": "a whole number", "float": "a number",
        "double": "a number", "string": "a text", "array": "a list", "map": "an object",
        "record": "an object", "null": "null", "bytes": "a text of bytes",
        "fixed": f"a text of {node.size} bytes",
    }.get(node.kind, node.kind)  # fmt: skip


def _value(node: Node, value: Any, path: str) -> Any:  # noqa: PLR0911
    if node.kind == "union":
        return _of_union(node, value, path)
    if node.kind == "record":
        return row_of(node, value, path)
    if node.logical:
        return _time(node, value, path)
    if node.kind == "array" and isinstance(value, list):
        return [_value(node.inner, item, f"{path}[{at}]") for at, item in enumerate(value)]
    if node.kind == "map" and isinstance(value, Mapping):
        return {str(k): _value(node.inner, item, f"{path}.{k}") for k, item in value.items()}
    if node.kind in ("bytes", "fixed") and isinstance(value, str):
        try:
            data = value.encode("latin-1")
        except UnicodeEncodeError:
            data = None
        if data is not None and (node.kind == "bytes" or len(data) == node.size):
            return data
    elif _fits(node, value):
        return float(value) if node.kind in ("float", "double") else value
    raise EventError(f"{path}: found {_said(value)}, expected {words(node)}")


def _fits(node: Node, value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if node.kind in _RANGES:
        bits = _RANGES[node.kind]
        return is_number and isinstance(value, int) and -(1 << bits) <= value < 1 << bits
    if node.kind in ("float", "double"):
        # A whole number of JSON may be longer than any.
        return is_number and abs(value) <= _LARGEST[node.kind]
    if node.kind == "enum":
        return value in node.symbols
    kinds: Mapping[str, Any] = {"boolean": bool, "string": str, "null": type(None)}
    return node.kind in kinds and isinstance(value, kinds[node.kind])


def _of_union(node: Node, value: Any, path: str) -> Any:
    if value is None and any(branch.kind == "null" for branch in node.branches):
        return None
    optional = nullable(node)
    if optional:
        return _value(optional[0], value, path)
    for branch in node.branches:
        try:
            return _value(branch, value, path)
        except EventError:
            continue
    raise EventError(f"{path}: found {_said(value)}, expected {' or '.join(map(words, node.branches))}")


def _time(node: Node, value: Any, path: str) -> int:
    per_second = _PER_SECOND[node.logical]
    if isinstance(value, int) and not isinstance(value, bool) and -(1 << 63) <= value < 1 << 63:
        return value
    if isinstance(value, str):
        try:
            when = datetime.fromisoformat(value)
        except ValueError:
            when = None
        if when is not None:
            at = when if when.tzinfo else when.replace(tzinfo=UTC)
            since = at - datetime(1970, 1, 1, tzinfo=UTC)
            whole_us = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
            return whole_us * per_second // 1_000_000
    unit = "milliseconds" if per_second == 1_000 else "microseconds"
    raise EventError(f"{path}: found {_said(value)}, expected {words(node)}, or {unit} since 1970")


def now_for(node: Node, now_us: int) -> int:
    """The present as a value of a time field; plain integers are milliseconds."""
    return now_us if node.logical == "timestamp-micros" else now_us // 1000


def _inner(node: Node) -> Node:
    optional = nullable(node)
    return optional[0] if optional else node


def _json_or_text(text: str) -> Any:
    # What JSON takes and schemas do not: NaN, and numbers that are longer than any type.
    if re.fullmatch(r"-?(NaN|Infinity)", text):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _example(field: Field) -> Any:
    if field.default is not NO_DEFAULT:
        return field.default
    return _example_of(_inner(field.node), field.name)


def _example_of(node: Node, name: str) -> Any:
    if node.logical:
        return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if node.kind == "record":
        return example(node)
    return {
        "boolean": False, "int": 0, "long": 0, "float": 0.0, "double": 0.0, "string": f"{name}-1",
        "array": [], "map": {}, "bytes": "",
        "enum": node.symbols[0] if node.symbols else "", "fixed": "\x00" * node.size,
    }.get(node.kind)  # fmt: skip


def _at(path: str) -> str:
    return f"{path}: " if path else ""


def _said(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _MOST_CHARS else f"{text[:_MOST_CHARS]}…"
