"""A dead letter for people who look at it: where it came from, its bytes, its fields as far as they go."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from schemas.partial import spell
from schemas.registry import RegistryError
from schemas.schema import Schema, load_schema
from schemas.tree import SchemaError
from schemas.wire import PREFIX_BYTES
from worker.codecs import input_codec
from worker.config import Pipeline
from worker.dlq import DeadLetter
from worker.dlq_show import _writer
from worker.privacy import hashed

SHOWN_BYTES = 1024  # of a value; the rest is counted
_SHOWN_CHARS = 512  # of a field
_SHOWN_FIELDS = 64
HIDDEN = "**********"


@lru_cache(maxsize=64)
def personal_fields(schema_ref: str, base: Any) -> frozenset[str]:
    """Fields that the schema marks as personal."""
    return frozenset(load_schema(schema_ref, base).personal_fields)


def hides(pipeline: Pipeline) -> bool:
    """Whether personal fields are hashed: the file has a section `privacy`, and the schema marks some."""
    return pipeline.privacy is not None and bool(personal_fields(pipeline.source.schema_ref, pipeline.base))


def shown(name: str, value: Any, pipeline: Pipeline) -> Any:
    """A field of an event as it may be seen: as its keyed hash where it is personal."""
    if not hides(pipeline) or name not in personal_fields(pipeline.source.schema_ref, pipeline.base):
        return value
    assert pipeline.privacy is not None
    return HIDDEN if value is None else hashed(str(value).encode(), pipeline.privacy.hash_key.encode())


def letter_row(letter: DeadLetter, pipeline: Pipeline) -> dict[str, Any]:
    """What is shown of one; where personal fields are hashed, the bytes, which tell them, are left out."""
    value, key = letter.message.value(), letter.message.key()
    is_hidden = hides(pipeline)
    data = value or b""
    writer, fields, problem, stop = _decoded(data, pipeline)
    return {
        "pipeline": pipeline.name,
        "partition": letter.partition,
        "offset": letter.offset,
        "at_ms": letter.dead_at_ms,
        "reason": letter.reason,
        "stage": letter.stage,
        "detail": letter.detail,
        "attempt": letter.attempt,
        "source": [letter.source_topic, letter.source_partition, letter.source_offset],
        "source_ms": letter.source_ms,
        "key": _key(key, pipeline),
        "headers": [[name, _readable(text)] for name, text in (letter.message.headers() or ())[:32]]
        if not is_hidden
        else [],
        "size": None if value is None else len(value),
        "hex": None if is_hidden else data[:SHOWN_BYTES].hex(),
        "hidden": is_hidden,
        "writer": writer,
        "fields": fields,
        "problem": problem,
        "stop": stop,
    }


def _key(key: bytes | None, pipeline: Pipeline) -> str | None:
    if key is None:
        return None
    text = _readable(key)
    is_text = isinstance(text, str) and not text.startswith("hex ")
    if hides(pipeline) and not is_text:
        return HIDDEN
    return str(shown(pipeline.source.key, text, pipeline))


def _readable(data: bytes | None) -> str:
    if data is None:
        return "none"
    text = data[:_SHOWN_CHARS].decode("utf-8", "replace")
    return text if text.isprintable() and "\ufffd" not in text else f"hex {data[:_SHOWN_CHARS].hex()}"


def _decoded(value: bytes, pipeline: Pipeline) -> tuple[str, list[list[Any]], str, int]:
    """Name of the schema, fields with their places, why reading stopped, and where."""
    if pipeline.source.format != "avro":
        return _as_a_whole(value, pipeline)
    skip = PREFIX_BYTES[pipeline.source.wire]
    try:
        writer: Schema = _writer(value, pipeline)
    except (SchemaError, RegistryError) as error:
        why = "its first bytes name no schema that is known" if hides(pipeline) else str(error)
        return "", [], f"nothing can be read: {why}", 0
    spelled = spell(writer, value[skip:])
    fields = [
        [found.name, found.start + skip, found.stop + skip, _text(shown(found.name, found.value, pipeline))]
        for found in spelled.fields[:_SHOWN_FIELDS]
    ]
    problem = spelled.problem
    return (
        writer.name,
        fields,
        "" if problem is None else f"{problem.reason}: {problem.detail}",
        spelled.stop + skip,
    )


def _as_a_whole(value: bytes, pipeline: Pipeline) -> tuple[str, list[list[Any]], str, int]:
    """The same of JSON and Protobuf, which have no places: all of a good record, or what is wrong with it."""
    codec = input_codec(pipeline, load_schema(pipeline.source.schema_ref, pipeline.base))
    decoded = codec.decode([value])
    if decoded.rejects:
        problem = decoded.rejects[0]
        return codec.reader.name, [], f"{problem.reason}: {problem.detail}", 0
    row = decoded.table.to_pylist()[0]
    fields = [[name, 0, 0, _text(shown(name, found, pipeline))] for name, found in row.items()]
    return codec.reader.name, fields[:_SHOWN_FIELDS], "", len(value)


def _text(value: Any) -> str:
    is_plain = isinstance(value, bool | int | float | list | dict | None)
    text = json.dumps(value, default=str) if is_plain else str(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}… ({len(text):,} characters)"
