"""What a codec asks of a format: how payloads become columns, and columns and rows become payloads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

from schemas import flat, slow
from schemas.filling import encode
from schemas.lane import Lane, lane
from schemas.schema import Schema
from schemas.spans import Spans

Format = Literal["avro", "json", "protobuf"]
FORMATS: Final[tuple[Format, ...]] = ("avro", "json", "protobuf")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Form:
    """One schema in one format."""

    lane: Lane  # how records are read that were written with this schema
    # (every field by name, n, prefix) -> n records; raises ValueError; None: the schema is not flat.
    write_columns: Callable[[Mapping[str, Any], int, bytes], Spans] | None
    write: Callable[[slow.Row], bytes]  # without a prefix; which rows each takes: `slow.compile_write`
    write_trusted: Callable[[slow.Row], bytes]
    write_typed: Callable[[slow.Row], bytes]
    registered: tuple[str, str]  # as a registry knows it: its type of schema, and the text
    frame: bytes = b""  # between the prefix of wire confluent and the payload


def avro_form(reader: Schema) -> Form:
    """A schema in Avro's binary encoding."""
    plan = flat.plan(reader)
    return Form(
        lane=lane(reader, reader),
        write_columns=None if plan is None else partial(encode, plan),
        write=slow.compile_write(reader),
        write_trusted=slow.compile_write(reader, trusted=True),
        write_typed=slow.compile_write(reader, typed=True),
        registered=("AVRO", reader.text),
    )
