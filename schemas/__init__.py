"""Avro schemas, and the codec between record bytes and columns."""

from schemas.codec import Codec, Decoded, Reject
from schemas.registry import Registry, RegistryError, RegistrySettings
from schemas.schema import Schema, bundled_schemas, load_schema, parse_schema
from schemas.table import to_table
from schemas.tree import SchemaError
from schemas.wire import Wire

__all__ = [
    "Codec",
    "Decoded",
    "Registry",
    "RegistryError",
    "RegistrySettings",
    "Reject",
    "Schema",
    "SchemaError",
    "Wire",
    "bundled_schemas",
    "load_schema",
    "parse_schema",
    "to_table",
]
