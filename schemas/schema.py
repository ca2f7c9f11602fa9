"""A loaded Avro record schema: its text, its fingerprint, its tree and the Arrow columns it decodes to."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import fastavro.schema
import pyarrow as pa

from schemas.tree import TIMESTAMPS, Json, Node, SchemaError, from_text, nullable, parse, to_json

BUNDLED: Final = Path(__file__).parent
_ARROW: Final = {
    "null": pa.null(),
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "bytes": pa.binary(),
    "string": pa.string(),
    "enum": pa.string(),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Schema:
    """A record schema that has passed the guard."""

    name: str  # full name of the record
    json: dict[str, Json] = field(repr=False)
    text: str = field(repr=False)  # compact JSON, as registered with a registry
    fingerprint: int  # CRC-64-AVRO of the parsing canonical form, unsigned
    arrow: pa.Schema = field(repr=False)  # columns of a decoded batch
    tree: Node = field(repr=False)

    @property
    def personal_fields(self) -> frozenset[str]:
        """Return the top-level fields that are marked `"pii": true`."""
        return frozenset(field.name for field in self.tree.fields if field.pii)


def load_schema(ref: str, base: Path | None = None) -> Schema:
    """Return a bundled schema (`transaction` or `transaction.avsc`) or the one in a file.

    A file named as `ref`, relative to `base` when it is given, goes before a bundled schema of that name.

    Raises:
        SchemaError: one line that names the file.
    """
    path = _find(ref, base)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SchemaError(f"{ref}: {error}") from error
    try:
        return parse_schema(text)
    except SchemaError as error:
        raise SchemaError(f"{ref}: {error}") from error


def parse_schema(text: str) -> Schema:
    """Return the schema of a JSON text.

    Raises:
        SchemaError: not an Avro record, or one that the guard refuses (see `schemas.tree`).
    """
    document = from_text(text)
    tree = parse(document)
    if tree.kind != "record":
        raise SchemaError(f"found {tree.kind} at the top, expected a record")
    return Schema(
        name=tree.name,
        json=document,
        text=json.dumps(document, separators=(",", ":"), ensure_ascii=False),
        fingerprint=_fingerprint(tree),
        arrow=pa.schema([_arrow_field(field.name, field.node) for field in tree.fields]),
        tree=tree,
    )


def bundled_schemas() -> tuple[str, ...]:
    """Return the file names of the schemas that come with the package."""
    return tuple(sorted(path.name for path in BUNDLED.glob("*.avsc")))


def _find(ref: str, base: Path | None) -> Path:
    local = (base or Path()) / ref
    bundled = BUNDLED / (ref if ref.endswith(".avsc") else f"{ref}.avsc")
    if local.is_file():
        return local
    if bundled.parent == BUNDLED and bundled.is_file():
        return bundled
    raise SchemaError(f"{ref}: found no such file, expected a path or one of {', '.join(bundled_schemas())}")


def _fingerprint(tree: Node) -> int:
    canonical = fastavro.schema.to_parsing_canonical_form(to_json(tree, logical=False))
    # fastavro writes the eight bytes in the order of the wire, which is little-endian
    return int.from_bytes(bytes.fromhex(fastavro.schema.fingerprint(canonical, "CRC-64-AVRO")), "little")


def _arrow_field(name: str, node: Node) -> pa.Field:
    optional = nullable(node)
    inner = optional[0] if optional else node
    return pa.field(name, arrow_type(inner), nullable=optional is not None or inner.kind in {"null", "union"})


def arrow_type(node: Node) -> pa.DataType:  # noqa: PLR0911
    """Return the Arrow type that values of a node decode to."""
    if node.logical:
        return pa.timestamp(TIMESTAMPS[node.logical])
    if node.kind == "fixed":
        return pa.binary(node.size)
    if node.kind == "array":
        return pa.list_(_arrow_field("item", node.inner))
    if node.kind == "map":
        return pa.map_(pa.string(), _arrow_field("value", node.inner))
    if node.kind == "record":
        return pa.struct([_arrow_field(field.name, field.node) for field in node.fields])
    optional = nullable(node)
    if optional:
        return arrow_type(optional[0])
    if node.kind == "union":
        branches = [pa.field(str(i), arrow_type(branch)) for i, branch in enumerate(node.branches)]
        return pa.sparse_union(branches)
    return _ARROW[node.kind]
