"""A payload field by field, as far as it can be read: for people who look at a damaged record."""

import io
from dataclasses import dataclass
from typing import Any

import fastavro

from schemas.schema import Schema
from schemas.tree import Node, to_json
from schemas.walk import Malformed, compile_step


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadField:
    """One field that could be read."""

    name: str
    start: int  # bytes of the payload
    stop: int
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelled:
    """The fields in front of the first thing wrong, and that."""

    fields: tuple[ReadField, ...]
    stop: int  # where the readable part of the payload ends
    problem: Malformed | None  # None: all of it is one good record


def spell(writer: Schema, payload: bytes) -> Spelled:
    """Read a payload of this writer as far as it goes; never raises on bad bytes."""
    fields: list[ReadField] = []
    pos, problem = 0, None
    for field in writer.tree.fields:
        try:
            end = compile_step(field.node)(payload, pos)
        except Malformed as error:
            error.path.insert(0, field.name)
            problem = error
            break
        fields.append(
            ReadField(name=field.name, start=pos, stop=end, value=_value(field.node, payload[pos:end]))
        )
        pos = end
    if problem is None and pos != len(payload):
        problem = Malformed(
            "trailing_bytes", f"found {len(payload)} bytes, expected the value to end after {pos}"
        )
    return Spelled(fields=tuple(fields), stop=pos, problem=problem)


def _value(node: Node, data: bytes) -> Any:
    try:
        return fastavro.schemaless_reader(io.BytesIO(data), to_json(node, logical=True), None)
    except Exception:  # such as a time that no calendar has
        return fastavro.schemaless_reader(io.BytesIO(data), to_json(node, logical=False), None)
