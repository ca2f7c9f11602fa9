"""The codec between lists of record bytes and Arrow columns, which says of every record what became of it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas import slow
from schemas.columns import Columns, joined_columns
from schemas.form import Form, Format, avro_form
from schemas.group import Group, split, whole
from schemas.lane import Bad, Lane, decode, kept, lane
from schemas.proto_layout import Layout
from schemas.readable import refuse_unreadable
from schemas.registry import Registry, UnknownSchemaError
from schemas.schema import Schema
from schemas.spans import Spans, spans_of
from schemas.table import to_table
from schemas.tree import SchemaError
from schemas.wire import (
    CONFLUENT_MAGIC,
    MAGIC,
    PREFIX_BYTES,
    Wire,
    confluent_prefix,
    single_object_prefix,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """Why one record has no columns."""

    row: int  # index into the values given to decode
    reason: str  # a code in snake_case, see `Codec.decode`
    detail: str  # one sentence: found, expected; it names fields, never a text or an amount of the record


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decoded:
    """What became of a list of records."""

    columns: Columns  # of the reader schema, of the n good records in the order of the input
    rows: NDArray[np.int64]  # (n,) index of each good record in the input, ascending
    rejects: tuple[Reject, ...]  # the others, ascending by row

    @property
    def table(self) -> pa.RecordBatch:
        """The columns for Arrow."""
        return self.columns.batch


class Codec:
    """Decodes and encodes the records of one schema in one format and framing. Not thread-safe."""

    def __init__(
        self,
        reader: Schema,
        wire: Wire,
        *,
        format: Format = "avro",
        message: Layout | None = None,
        writers: Sequence[Schema] = (),
        registry: Registry | None = None,
        topic: str | None = None,
        max_bytes: int = 1 << 20,
    ) -> None:
        """Prepare for the schemas that are known now.

        Args:
            reader: the schema of the columns, and of what is encoded.
            wire: what stands in front of a payload; `single_object` is Avro's alone.
            format: of the payload. JSON and Protobuf name their fields, so any writer's schema will do.
            message: with `protobuf`, which message it is; None: the one that `schemas.proto_layout` derives.
            writers: further schemas that Avro producers may have used. With `raw`, where records name no
                schema, at most one, and then all records are read with it.
            registry: where `confluent` finds the schemas of ids, and registers what is written.
            topic: with `confluent`, the topic to write to; the reader schema is registered as
                `<topic>-value` now. Without it the codec only decodes.
            max_bytes: longer records, prefix included, are rejected before they are looked at.

        Raises:
            SchemaError: a combination that cannot work.
            RegistryError: the registry did not take the schema.
        """
        self.reader = reader
        self.wire = wire
        self.format = format
        self.max_bytes = max_bytes
        self._registry = registry
        self._prefix_bytes = PREFIX_BYTES[wire]
        self._lanes: dict[bytes, Lane] = {}  # by prefix
        self._likely = b""  # the prefix that the next records probably have
        self._prefix: bytes | None = None  # what encode puts in front
        refuse_unreadable(reader.tree, reader.name)
        self._form = _form(reader, format, message, wire)
        if format != "avro":
            self._use_names(writers, topic)
        elif wire == "confluent":
            self._use_registry(topic)
        else:
            self._use_known(writers)

    def decode(self, values: Sequence[bytes | None] | Spans) -> Decoded:
        """Return the columns of the good records, and why each other one has none.

        Reasons: null_value, oversize, bad_magic, unknown_schema, unusable_schema, incompatible_schema,
        truncated, trailing_bytes, bad_varint, out_of_range, bad_boolean, bad_enum, bad_union,
        bad_block_size, negative_length, invalid_utf8, undecodable; of JSON and Protobuf also wrong_type,
        missing_field, duplicate_field, bad_timestamp, bad_base64, invalid_json, bad_tag.

        Raises:
            RegistryError: the registry cannot be reached, which says nothing about the records.
        """
        held = values if isinstance(values, Spans) else spans_of(values)
        likely = self._lanes.get(self._likely)
        group = whole(held, self._likely, self.max_bytes) if likely is not None else None
        if likely is None or group is None:
            return self._decode_groups(held)
        columns, bad = decode(likely, group.payloads)
        rows = group.rows[kept(len(group.rows), bad)] if bad else group.rows
        return Decoded(columns=columns, rows=rows, rejects=tuple(_rejects(group, dict(sorted(bad.items())))))

    def _decode_groups(self, held: Spans) -> Decoded:
        """The same where not all records are of the schema that the last ones were of."""
        sizes = held.sizes
        fitting = (sizes >= 0) & (sizes <= self.max_bytes)
        fitting_rows = np.flatnonzero(fitting)
        held = held if fitting.all() else held.take(fitting_rows)
        rejects = [_unfit(row, int(sizes[row]), self.max_bytes) for row in np.flatnonzero(~fitting).tolist()]
        parts = []
        most = 0
        groups = split(held, fitting_rows, self._prefix_bytes)
        self._ask_for_schemas(groups)
        for group in groups:
            problem = self._prefix_problem(group.prefix)
            if problem:
                rejects.extend(
                    Reject(row=row, reason=problem[0], detail=problem[1]) for row in group.rows.tolist()
                )
                continue
            if len(group.rows) > most:
                self._likely, most = group.prefix, len(group.rows)
            columns, bad = decode(self._lanes[group.prefix], group.payloads)
            parts.append((columns, group.rows[kept(len(group.rows), bad)]))
            rejects.extend(_rejects(group, bad))
        columns, rows = _merge(self.reader, parts)
        rejects.sort(key=lambda reject: reject.row)
        return Decoded(columns=columns, rows=rows, rejects=tuple(rejects))

    def encode(self, table: pa.RecordBatch) -> list[bytes]:
        """Return one record for each row of a batch that has the columns of the reader schema.

        Raises:
            ValueError: other columns, a null where the schema has none, an unknown enum symbol, or a
                confluent codec without a topic.
        """
        prefix = self._checked_prefix()
        self._check_table(table)
        written = self._encode_fast(dict(zip(table.schema.names, table.columns, strict=True)), table.num_rows)
        if written is not None:
            return written.to_list()
        # The slow path takes everything, or says which value is wrong.
        return [prefix + self._form.write_typed(row) for row in slow.to_rows(self.reader, table)]

    def encode_columns(self, columns: Mapping[str, Any], count: int) -> Spans:
        """Return n records in one buffer.

        Args:
            columns: as for `to_table`; enums may be numpy indices of their symbols.
            count: n.

        Raises:
            ValueError: see `encode` and `to_table`.
        """
        if self._form.write_columns is not None:
            return self._form.write_columns(columns, count, self._checked_prefix())
        return spans_of(self.encode(to_table(self.reader, columns, rows=count)))

    def encode_rows(self, rows: Iterable[slow.Row], *, trusted: bool = False) -> list[bytes]:
        """Return one record for each row, for things that are rare or nested; see `encode` for errors.

        Missing fields take their default; timestamps are integers or datetimes with a time zone.

        Args:
            rows: what to write.
            trusted: the values are known to be of the schema: three quarters of the time goes into checks.
        """
        prefix = self._checked_prefix()
        write = self._form.write_trusted if trusted else self._form.write
        return [prefix + write(row) for row in rows]

    def _use_registry(self, topic: str | None) -> None:
        if self._registry is None:
            raise SchemaError(f"{self.reader.name}: found no registry, expected its URL for wire confluent")
        if topic is not None:
            self._prefix = self._likely = self._registered(topic)
            self._lanes[self._prefix] = self._form.lane

    def _registered(self, topic: str) -> bytes:
        """The prefix of what is written to a topic."""
        if self._registry is None:
            raise SchemaError(f"{self.reader.name}: found no registry, expected its URL for wire confluent")
        kind, text = self._form.registered
        schema_id = self._registry.register(f"{topic}-value", text, kind=kind)
        return confluent_prefix(schema_id) + self._form.frame

    def _use_names(self, writers: Sequence[Schema], topic: str | None) -> None:
        """Where fields are known by names or numbers of their own, the schema of an id tells nothing new."""
        if self.wire == "single_object":
            raise SchemaError(
                f"{self.reader.name}: found wire single_object, expected raw or confluent for {self.format}"
            )
        if writers:
            raise SchemaError(f"{self.reader.name}: found writer schemas, expected none for {self.format}")
        head = CONFLUENT_MAGIC if self.wire == "confluent" else b""
        self._prefix_bytes, self._likely = len(head), head
        self._lanes[head] = self._form.lane
        if self.wire == "raw":
            self._prefix = b""
        elif topic is not None:
            self._prefix = self._registered(topic)

    def _use_known(self, writers: Sequence[Schema]) -> None:
        raw = self.wire == "raw"
        if raw and len(writers) > 1:
            raise SchemaError(
                f"{self.reader.name}: found {len(writers)} writer schemas, expected one for wire raw"
            )
        for writer in writers if raw and writers else (self.reader, *writers):
            prepared = lane(writer, self.reader)
            if prepared.problem:
                raise SchemaError(f"{writer.name}: {prepared.problem}")
            prefix = b"" if raw else single_object_prefix(writer.fingerprint)
            self._lanes.setdefault(prefix, prepared)
        self._prefix = self._likely = b"" if raw else single_object_prefix(self.reader.fingerprint)

    def _ask_for_schemas(self, groups: Sequence[Group]) -> None:
        """Let the registry be asked for all ids that are new in one go."""
        if self._registry is None or self.format != "avro":
            return
        new = [group.prefix for group in groups if group.prefix not in self._lanes]
        magic = MAGIC[self.wire]
        ids = [p for p in new if len(p) == self._prefix_bytes and p.startswith(magic)]
        self._registry.learn(int.from_bytes(p[len(magic) :], "big") for p in ids)

    def _prefix_problem(self, prefix: bytes) -> tuple[str, str] | None:  # noqa: PLR0911
        """Return (reason, detail) when there is no lane for a prefix and none can be had."""
        if prefix in self._lanes:
            return None
        magic = MAGIC[self.wire]
        found = prefix[: len(magic)]
        if found != magic[: len(found)]:
            return "bad_magic", f"found {found.hex()} in front, expected {magic.hex()}"
        if len(prefix) < self._prefix_bytes:
            wanted = PREFIX_BYTES[self.wire]
            return "truncated", f"found {len(prefix)} bytes, expected a prefix of {wanted}"
        if self._registry is None:
            known = ", ".join(key[2:].hex() for key in self._lanes)
            return "unknown_schema", f"found fingerprint {prefix[2:].hex()}, expected one of {known}"
        schema_id = int.from_bytes(prefix[1:], "big")
        try:
            self._lanes[prefix] = lane(self._registry.schema(schema_id), self.reader)
        except UnknownSchemaError as error:
            return "unknown_schema", str(error)
        except SchemaError as error:
            return "unusable_schema", f"schema id {schema_id}: {error}"
        return None

    def _encode_fast(self, columns: Mapping[str, Any], count: int) -> Spans | None:
        if self._form.write_columns is None:
            return None
        try:
            return self._form.write_columns(columns, count, self._checked_prefix())
        except (ValueError, TypeError, KeyError, pa.ArrowException):
            return None  # what is wrong, the slow path says

    def _checked_prefix(self) -> bytes:
        if self._prefix is None:
            raise ValueError(
                f"{self.reader.name}: found a codec without a topic, expected one to encode confluent"
            )
        return self._prefix

    def _check_table(self, table: pa.RecordBatch) -> None:
        wanted = self.reader.arrow
        if table.schema.names != wanted.names or table.schema.types != wanted.types:
            raise ValueError(f"{self.reader.name}: found columns {table.schema}, expected {wanted}")
        for field, column in zip(wanted, table.columns, strict=True):
            if column.null_count and not field.nullable:
                raise ValueError(f"{field.name}: found {column.null_count} nulls, expected none")


def _form(reader: Schema, format: Format, message: Layout | None, wire: Wire) -> Form:
    """The kernels of a format are loaded with its first codec."""
    if format == "avro":
        return avro_form(reader)
    if format == "json":
        from schemas.json_form import json_form

        return json_form(reader, framed=wire == "confluent")
    from schemas.proto_form import proto_form

    return proto_form(reader, message, framed=wire == "confluent")


def _unfit(row: int, size: int, max_bytes: int) -> Reject:
    if size < 0:
        return Reject(row=row, reason="null_value", detail="found no value, expected a record")
    return Reject(row=row, reason="oversize", detail=f"found {size} bytes, expected at most {max_bytes}")


def _rejects(group: Group, bad: Bad) -> Iterator[Reject]:
    for index, error in bad.items():
        yield Reject(row=int(group.rows[index]), reason=error.reason, detail=error.detail)


def _merge(
    reader: Schema, parts: list[tuple[Columns, NDArray[np.int64]]]
) -> tuple[Columns, NDArray[np.int64]]:
    """Return all parts as one, in the order of their rows."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return Columns(slow.to_batch(reader, [])), np.zeros(0, np.int64)
    rows = np.concatenate([part[1] for part in parts])
    order = np.argsort(rows)
    return joined_columns([part[0] for part in parts]).take(order), rows[order]
