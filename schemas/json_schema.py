"""The JSON Schema of an Avro schema's records, as a registry is told and consumers may check by."""

from __future__ import annotations

from typing import Any, Final

from schemas.schema import Schema
from schemas.tree import NO_DEFAULT, Field, Node, nullable

_DIALECT: Final = "http://json-schema.org/draft-07/schema#"
_NOT_FINITE: Final = {"type": "string", "enum": ["NaN", "Infinity", "-Infinity"]}
_UNITS: Final = {"timestamp-millis": "Milliseconds", "timestamp-micros": "Microseconds"}
_KINDS: Final[dict[str, dict[str, Any]]] = {
    "null": {"type": "null"},
    "boolean": {"type": "boolean"},
    "int": {"type": "integer", "minimum": -(1 << 31), "maximum": (1 << 31) - 1},
    "long": {"type": "integer", "minimum": -(1 << 63), "maximum": (1 << 63) - 1},
    "float": {"oneOf": [{"type": "number"}, _NOT_FINITE]},
    "double": {"oneOf": [{"type": "number"}, _NOT_FINITE]},
    "bytes": {"type": "string", "contentEncoding": "base64"},
    "fixed": {"type": "string", "contentEncoding": "base64"},
    "string": {"type": "string"},
}


def json_schema(schema: Schema) -> dict[str, Any]:
    """Return the JSON Schema (draft 7) of what is written for a schema; further members are allowed."""
    return {"$schema": _DIALECT, "title": schema.tree.unqualified, **_record(schema.tree)}


def _record(node: Node) -> dict[str, Any]:
    required = [field.name for field in node.fields if _is_required(field)]
    return {
        "type": "object",
        "properties": {field.name: _of(field.node) for field in node.fields},
        **({"required": required} if required else {}),
    }


def _is_required(field: Field) -> bool:
    return field.default is NO_DEFAULT and nullable(field.node) is None and field.node.kind != "null"


def _of(node: Node) -> dict[str, Any]:  # noqa: PLR0911 one for each kind
    optional = nullable(node)
    if optional:
        return {"oneOf": [{"type": "null"}, _of(optional[0])]}
    if node.logical:
        return {**_KINDS["long"], "description": f"{_UNITS[node.logical]} since 1970-01-01, UTC."}
    if node.kind == "record":
        return _record(node)
    if node.kind == "array":
        return {"type": "array", "items": _of(node.inner)}
    if node.kind == "map":
        return {"type": "object", "additionalProperties": _of(node.inner)}
    if node.kind == "enum":
        return {"type": "string", "enum": list(node.symbols)}
    return _KINDS[node.kind]
