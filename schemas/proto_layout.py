"""Which field of a Protobuf message is which field of an Avro schema, and how it is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from schemas.resolve import default_value
from schemas.schema import Schema
from schemas.tree import NO_DEFAULT, Field, Node, SchemaError, nullable

VARINT, FIXED64, LENGTH, START_GROUP, END_GROUP, FIXED32 = range(6)  # wire types
WIRES: Final[Mapping[str, int]] = {
    **dict.fromkeys(("bool", "int32", "int64", "uint32", "uint64", "sint32", "sint64", "enum"), VARINT),
    **dict.fromkeys(("fixed64", "sfixed64", "double"), FIXED64),
    **dict.fromkeys(("fixed32", "sfixed32", "float"), FIXED32),
    **dict.fromkeys(("string", "bytes", "message", "timestamp"), LENGTH),
}
PACKED: Final[Mapping[str, str]] = {
    "float": "<f",
    "double": "<d",
    "fixed32": "<I",
    "fixed64": "<Q",
    "sfixed32": "<i",
    "sfixed64": "<q",
}
NANOS: Final = 1_000_000_000
_DERIVED: Final[Mapping[str, str]] = {
    "boolean": "bool",
    "int": "int32",
    "long": "int64",
    "float": "float",
    "double": "double",
    "bytes": "bytes",
    "fixed": "bytes",
    "string": "string",
    "enum": "enum",
    "record": "message",
}
SHORT_BYTES: Final = 5  # of a tag or a length; other readers refuse longer ones, whatever they say
NOT_THERE: Final = object()  # no value stands for a field that a message does not have


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slot:
    """One field of a message, and of the schema."""

    name: str  # in the schema
    number: int  # in the message; 0: it has no such field
    kind: str  # a key of WIRES; of each item where there are many
    node: Node  # of the value, or of each item; never a union
    shape: str = "one"  # or many, map
    is_nullable: bool = False
    has_presence: bool = True  # False: an absent field is the zero of its type, as proto3 has it
    absent: Any = NOT_THERE  # the value that stands for an absent field
    symbols: Mapping[int, str] = field(default_factory=dict)  # of an enum, by number
    slots: tuple[Slot, ...] = ()  # of a message


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    """A message that holds the records of a schema."""

    name: str  # full name
    slots: tuple[Slot, ...]  # in the order of the schema's fields
    path: tuple[int, ...] = (0,)  # of the message in its file, from the outermost in


def derived(schema: Schema) -> Layout:
    """The message that we write where nobody says another: fields numbered from 1 in their order.

    Every field has presence (`optional`), so that a cut or forgotten one is noticed; times are
    google.protobuf.Timestamp; the number of an enum's value is its place.

    Raises:
        SchemaError: what Protobuf has no words for, such as a list of lists.
    """
    return Layout(name=schema.name, slots=_derived_slots(schema.tree, schema.name))


def _derived_slots(node: Node, where: str) -> tuple[Slot, ...]:
    return tuple(
        _derived_slot(field, number, f"{where}.{field.name}") for number, field in enumerate(node.fields, 1)
    )


def _derived_slot(found: Field, number: int, where: str) -> Slot:
    optional = nullable(found.node)
    node = optional[0] if optional else found.node
    shape, value = shape_of(node, where)
    if optional and shape != "one":
        raise SchemaError(
            f"{where}: found null or {node.kind}, expected {node.kind}: Protobuf has no null one"
        )
    return Slot(
        name=found.name,
        number=number,
        kind=derived_kind(value, where),
        node=value,
        shape=shape,
        is_nullable=optional is not None,
        absent=when_absent(found, shape),
        symbols=dict(enumerate(value.symbols)),
        slots=_derived_slots(value, where) if value.kind == "record" else (),
    )


def derived_kind(node: Node, where: str) -> str:
    """Return the type that we give a value, or each item.

    Raises:
        SchemaError: Protobuf has none.
    """
    if node.kind not in _DERIVED:
        raise SchemaError(f"{where}: found {node.kind}, expected a type that Protobuf has")
    return "timestamp" if node.logical else _DERIVED[node.kind]


def shape_of(node: Node, where: str) -> tuple[str, Node]:
    """Return (shape, node of the value or of each item).

    Raises:
        SchemaError: items that are null, lists or maps.
    """
    if node.kind not in {"array", "map"}:
        return "one", node
    if node.inner.kind in {"union", "array", "map"}:
        raise SchemaError(
            f"{where}: found {node.kind} of {node.inner.kind}, expected items that Protobuf can repeat"
        )
    return "many" if node.kind == "array" else "map", node.inner


def when_absent(found: Field, shape: str) -> Any:
    """The value that stands for a field with presence that a message does not have."""
    if shape != "one":
        return [] if shape == "many" else {}
    if nullable(found.node):
        return None
    return NOT_THERE if found.default is NO_DEFAULT else default_value(found.node, found.default)


def zero_of(slot: Slot) -> Any:
    """What an absent field without presence is; NOT_THERE where its enum has no symbol for 0."""
    if slot.kind == "enum":
        return slot.symbols.get(0, slot.node.default_symbol or (None if slot.is_nullable else NOT_THERE))
    if slot.kind in {"string", "bytes"}:
        return "" if slot.kind == "string" else b""
    return {"bool": False, "float": 0.0, "double": 0.0}.get(slot.kind, 0)


def value_prefix(name: str) -> str:
    """What the values of an enum begin with by the style guide: TIME_ORDER_ of TimeOrder."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).upper() + "_"
