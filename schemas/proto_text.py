"""The .proto file of an Avro schema: what producers and consumers compile, and a registry is told."""

from __future__ import annotations

from collections.abc import Iterator

from schemas.proto_layout import Slot, derived, value_prefix
from schemas.schema import Schema

_INDENT = "  "
_TIMESTAMP = "google.protobuf.Timestamp"


def proto_text(schema: Schema) -> str:
    """Return the file with the message that is derived from a schema.

    Raises:
        SchemaError: see `proto_layout.derived`.
    """
    layout = derived(schema)
    package, _, name = layout.name.rpartition(".")
    body = list(_message(name, layout.slots, 0))
    lines = ['syntax = "proto3";', ""]
    if package:
        lines += [f"package {package};", ""]
    if any(_TIMESTAMP in line for line in body):
        lines += ['import "google/protobuf/timestamp.proto";', ""]
    return "\n".join([*lines, *body, ""])


def _message(name: str, slots: tuple[Slot, ...], depth: int) -> Iterator[str]:
    indent = _INDENT * depth
    yield f"{indent}message {name} {{"
    declared: set[str] = set()
    for slot in slots:
        if slot.kind not in {"enum", "message"} or slot.node.name in declared:
            continue
        declared.add(slot.node.name)
        if slot.kind == "message":
            yield from _message(slot.node.unqualified, slot.slots, depth + 1)
        else:
            yield from _enum(slot, depth + 1)
    for slot in slots:
        yield f"{indent}{_INDENT}{_field(slot)} {slot.name} = {slot.number};"
    yield f"{indent}}}"


def _enum(slot: Slot, depth: int) -> Iterator[str]:
    indent, prefix = _INDENT * depth, value_prefix(slot.node.unqualified)
    yield f"{indent}enum {slot.node.unqualified} {{"
    for number, symbol in slot.symbols.items():
        yield f"{indent}{_INDENT}{prefix}{symbol} = {number};"
    yield f"{indent}}}"


def _field(slot: Slot) -> str:
    kind = {"timestamp": _TIMESTAMP}.get(slot.kind, slot.kind)
    if slot.kind in {"enum", "message"}:
        kind = slot.node.unqualified
    if slot.shape == "many":
        return f"repeated {kind}"
    return f"map<string, {kind}>" if slot.shape == "map" else f"optional {kind}"
