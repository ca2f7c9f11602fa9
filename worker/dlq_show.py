"""Dead letters as text: a table of them, or all that can be said of one."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from schemas.partial import Spelled, spell
from schemas.registry import RegistryError
from schemas.schema import Schema, load_schema
from schemas.tree import SchemaError
from schemas.wire import PREFIX_BYTES, single_object_prefix
from worker.codecs import input_codec
from worker.config import Pipeline
from worker.dlq import DeadLetter
from worker.terminal import printable_json

COLUMNS = ("place", "source", "reason", "stage", "when", "attempt", "replayed", "detail")
_SHOWN_BYTES = 4096  # of a value; the rest is counted
_LINE_BYTES = 16


def table(rows: list[tuple[DeadLetter, bool]], width: int) -> str:
    """A line a dead letter, cut to this many characters; the flag says whether it was sent in again."""
    cells = [COLUMNS, *(_cells(letter, replayed) for letter, replayed in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(COLUMNS) - 1)]
    lines = []
    for *row, detail in cells:
        line = "  ".join(f"{cell:<{wide}}" for cell, wide in zip(row, widths, strict=True)) + f"  {detail}"
        lines.append(line.rstrip() if len(line) <= width else f"{line[: width - 1]}…")
    return "\n".join(lines)


def as_json(letter: DeadLetter, replayed: bool) -> str:
    """One line of JSON, without the record itself; times are milliseconds since 1970."""
    said = {name: getattr(letter, name) for name in DeadLetter.__slots__ if name != "message"}
    return json.dumps({**said, "replayed": replayed}, ensure_ascii=False)


def whole_json(letter: DeadLetter, pipeline: Pipeline, replayed: bool) -> str:
    """One line of JSON with the record itself: key, headers, bytes in base64, and what can be read."""
    message = letter.message
    value = message.value()
    said = {
        **json.loads(as_json(letter, replayed)),
        "key": None if message.key() is None else _readable(message.key()),
        "headers": [[n, None if text is None else _readable(text)] for n, text in message.headers() or ()],
        "value_base64": None if value is None else base64.b64encode(value).decode(),
        "fields": fields_of(letter, pipeline),
    }
    return printable_json(said)


def describe(letter: DeadLetter, pipeline: Pipeline, replayed: bool) -> str:
    """Headers, bytes, and the record as far as it can be decoded; personal fields are not hidden."""
    message, source = (
        letter.message,
        f"{letter.source_topic} {letter.source_partition} {letter.source_offset}",
    )
    value, key = message.value(), message.key()
    lines = [
        f"place     {message.topic()} {letter.partition} {letter.offset}, {utc(letter.dead_at_ms)}",
        f"source    {source}, {utc(letter.source_ms)}",
        f"reason    {letter.reason}, at stage {letter.stage}, attempt {letter.attempt}",
        f"detail    {letter.detail}",
        f"replayed  {'yes' if replayed else 'no'}",
        f"key       {'none' if key is None else _readable(key)}",
        *(
            f"header    {name}: {'none' if text is None else _readable(text)}"
            for name, text in message.headers() or ()
        ),
        f"value     {'none' if value is None else f'{len(value):,} bytes'}",
    ]
    return "\n".join([*lines, *_hexdump(value or b""), *(_decoded(value, pipeline) if value else ())])


def utc(ms: int) -> str:
    """A time for people."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if ms >= 0 else "unknown"


def _cells(letter: DeadLetter, replayed: bool) -> tuple[str, ...]:
    source = f"{letter.source_topic}-{letter.source_partition}-{letter.source_offset}"
    place, done = f"{letter.partition}-{letter.offset}", "yes" if replayed else ""
    when = utc(letter.dead_at_ms)
    return place, source, letter.reason, letter.stage, when, str(letter.attempt), done, letter.detail


def _readable(data: bytes) -> str:
    text = data.decode("utf-8", "replace")
    return text if text.isprintable() and "\ufffd" not in text else f"hex {data.hex()}"


def _hexdump(data: bytes) -> Iterator[str]:
    for start in range(0, min(len(data), _SHOWN_BYTES), _LINE_BYTES):
        part = data[start : start + _LINE_BYTES]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        yield f"  {start:6}  {part.hex(' '):<{3 * _LINE_BYTES}} {text}"
    if len(data) > _SHOWN_BYTES:
        yield f"  ... and {len(data) - _SHOWN_BYTES:,} bytes more"


def _decoded(value: bytes, pipeline: Pipeline) -> Iterator[str]:
    """The fields in front of the first thing wrong, with their places in the value."""
    if pipeline.source.format != "avro":
        yield from _as_a_whole(value, pipeline)
        return
    skip = PREFIX_BYTES[pipeline.source.wire]
    try:
        writer = _writer(value, pipeline)
    except (SchemaError, RegistryError) as error:
        yield f"decoded   nothing: {error}"
        return
    spelled = spell(writer, value[skip:])
    yield f"decoded   as {writer.name}, by the schema of fingerprint {writer.fingerprint:016x}"
    width = max((len(found.name) for found in spelled.fields), default=0)
    for found in spelled.fields:
        yield f"  {found.start + skip:6}  {found.name:<{width}}  {found.value!r}"
    yield _end(spelled, skip)


def _as_a_whole(value: bytes, pipeline: Pipeline) -> Iterator[str]:
    """JSON and Protobuf: the record if it is a good one, else what is wrong with it, and where."""
    found = _whole(value, pipeline)
    if isinstance(found, str):
        yield f"decoded   nothing: {found}"
        return
    name, row = found
    yield f"decoded   as {name}, {pipeline.source.format}"
    width = max(map(len, row))
    for name, found in row.items():
        yield f"  {name:<{width}}  {found!r}"


def _whole(value: bytes, pipeline: Pipeline) -> tuple[str, dict[str, Any]] | str:
    """The name of the schema and the fields of a good record of JSON or Protobuf; else why it is none."""
    try:
        codec = input_codec(pipeline, load_schema(pipeline.source.schema_ref, pipeline.base))
    except SchemaError as error:
        return str(error)
    decoded = codec.decode([value])
    if decoded.rejects:
        return f"{decoded.rejects[0].reason}: {decoded.rejects[0].detail}"
    return codec.reader.name, decoded.table.to_pylist()[0]


def fields_of(letter: DeadLetter, pipeline: Pipeline) -> dict[str, Any]:
    """The fields of a dead letter's event in front of the first thing wrong; none where it is no event."""
    value = letter.message.value() or b""
    if pipeline.source.format != "avro":
        whole = _whole(value, pipeline)
        return {} if isinstance(whole, str) else whole[1]
    try:
        writer = _writer(value, pipeline)
    except (SchemaError, RegistryError):
        return {}
    return {
        found.name: found.value for found in spell(writer, value[PREFIX_BYTES[pipeline.source.wire] :]).fields
    }


def _end(spelled: Spelled, skip: int) -> str:
    if spelled.problem is None:
        return f"  {spelled.stop + skip:6}  the end: the bytes are a good record"
    problem = spelled.problem
    return f"  {spelled.stop + skip:6}  here decoding stops: {problem.reason}: {problem.detail}"


def _writer(value: bytes, pipeline: Pipeline) -> Schema:
    """The schema that a value was written with.

    Raises:
        SchemaError, RegistryError: it is not known.
    """
    source = pipeline.source
    known = [load_schema(ref, pipeline.base) for ref in (source.schema_ref, *source.writer_schemas)]
    prefix: Any = value[: PREFIX_BYTES[source.wire]]
    if source.wire == "raw":
        return known[-1]
    if source.wire == "single_object":
        for schema in known:
            if prefix == single_object_prefix(schema.fingerprint):
                return schema
        raise SchemaError(f"found {prefix.hex()} in front, which names none of the file's schemas")
    from worker.registries import open_registry

    registry = open_registry(pipeline, source.registry)
    if registry is None or len(prefix) < PREFIX_BYTES["confluent"] or prefix[0]:
        raise SchemaError(f"found {prefix.hex()} in front, which names no schema of a registry")
    return registry.schema(int.from_bytes(prefix[1:], "big"))
