"""The layout of a message that users bring: compiled .proto files, and the name of a message in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from google.protobuf import descriptor_pb2, timestamp_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError

from schemas.proto_layout import NOT_THERE, Layout, Slot, derived_kind, shape_of, value_prefix, when_absent
from schemas.schema import Schema
from schemas.tree import Field, Node, SchemaError, nullable

_INTS: Final = ("int32", "sint32", "sfixed32")
_LONGS: Final = (*_INTS, "int64", "sint64", "sfixed64", "uint32", "fixed32", "uint64", "fixed64")
_FITS: Final[Mapping[str, tuple[str, ...]]] = {
    "boolean": ("bool",),
    "int": _INTS,
    "long": _LONGS,
    "float": ("float",),
    "double": ("double", "float"),
    "string": ("string",),
    "bytes": ("bytes",),
    "fixed": ("bytes",),
    "enum": ("enum",),
    "record": ("message",),
}
_TIME: Final = "google.protobuf.Timestamp"


def described(schema: Schema, descriptors: bytes, message: str) -> Layout:
    """Return how the records of a schema are this message; its fields are found by name, or alias.

    Args:
        schema: what they are read as.
        descriptors: a FileDescriptorSet, from `protoc --include_imports --descriptor_set_out=FILE`.
        message: full name.

    Raises:
        SchemaError: no such message, or one that a field of the schema does not fit; one line.
    """
    files = _files(descriptors)
    pool = DescriptorPool()
    try:
        for file in files:
            pool.AddSerializedFile(file.SerializeToString())
        found = pool.FindMessageTypeByName(message)
    except KeyError as error:
        known = ", ".join(sorted(name for file in files for name, _ in _messages(file)))
        raise SchemaError(f"found no message {message}, expected one of {known}") from error
    except TypeError as error:  # a file that imports one that is not there
        reason = " ".join(str(error).split())
        raise SchemaError(f"found files that do not fit ({reason}), expected --include_imports") from error
    path = next(path for file in files for name, path in _messages(file) if name == message)
    return Layout(name=message, slots=_slots(schema.tree, found, schema.name), path=path)


def _files(descriptors: bytes) -> list[Any]:
    try:
        files = list(descriptor_pb2.FileDescriptorSet.FromString(descriptors).file)
    except DecodeError as error:
        raise SchemaError("found no FileDescriptorSet, expected what protoc writes") from error
    if not files:
        raise SchemaError("found a FileDescriptorSet without files, expected what protoc writes")
    time = descriptor_pb2.FileDescriptorProto()
    timestamp_pb2.DESCRIPTOR.CopyToProto(time)
    return files if any(file.name == time.name for file in files) else [time, *files]


def _messages(file: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(full name, path in the file) of each message."""

    def below(messages: Any, prefix: str, path: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
        for index, message in enumerate(messages):
            name = f"{prefix}.{message.name}" if prefix else message.name
            yield name, (*path, index)
            yield from below(message.nested_type, name, (*path, index))

    return below(file.message_type, file.package, ())


def _slots(node: Node, message: Any, where: str) -> tuple[Slot, ...]:
    return tuple(_slot(field, message, f"{where}.{field.name}") for field in node.fields)


def _slot(found: Field, message: Any, where: str) -> Slot:
    optional = nullable(found.node)
    shape, node = shape_of(optional[0] if optional else found.node, where)
    absent = when_absent(found, shape)
    field = next(
        (message.fields_by_name[n] for n in (found.name, *found.aliases) if n in message.fields_by_name), None
    )
    if field is None:
        if absent is NOT_THERE:
            raise SchemaError(f"{where}: found no field in {message.full_name}, expected it, or a default")
        return Slot(
            name=found.name,
            number=0,
            kind=derived_kind(node, where),
            node=node,
            shape=shape,
            is_nullable=optional is not None,
            absent=absent,
        )
    value = _value_field(field, shape, where)
    kind = _kind(value, node, where)
    return Slot(
        name=found.name,
        number=field.number,
        kind=kind,
        node=node,
        shape=shape,
        is_nullable=optional is not None,
        has_presence=field.has_presence,
        absent=absent,
        symbols=_symbols(value.enum_type, node, where) if kind == "enum" else {},
        slots=_slots(node, value.message_type, where) if kind == "message" else (),
    )


def _value_field(field: Any, shape: str, where: str) -> Any:
    """The field that says of what type a value, or each item, is."""
    is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
    found = "map" if is_map else "many" if field.is_repeated else "one"
    if found != shape:
        words = {"one": "a single field", "many": "a repeated field", "map": "a map"}
        raise SchemaError(f"{where}: found {words[found]} in the message, expected {words[shape]}")
    if not is_map:
        return field
    key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
    if _type(key) != "string":
        raise SchemaError(f"{where}: found a map with keys of {_type(key)}, expected string")
    return value


def _type(field: Any) -> str:
    name = descriptor_pb2.FieldDescriptorProto.Type.Name(field.type)
    return str(name).removeprefix("TYPE_").lower()


def _kind(field: Any, node: Node, where: str) -> str:
    kind = _type(field)
    if node.logical and kind == "message" and field.message_type.full_name == _TIME:
        return "timestamp"
    fits = _FITS.get(node.kind, ())
    if kind not in fits:
        expected = [*([_TIME] if node.logical else []), *fits]
        name = field.message_type.full_name if kind == "message" else kind
        raise SchemaError(f"{where}: found {name} in the message, expected one of {', '.join(expected)}")
    return kind


def _symbols(enum: Any, node: Node, where: str) -> dict[int, str]:
    """The symbol of each number: values are named like symbols, or with the name of the enum in front."""
    prefix = value_prefix(enum.name)
    found = {}
    for value in enum.values:
        for name in (value.name, value.name.removeprefix(prefix)):
            if name in node.symbols:
                found[value.number] = name
    missing = sorted(set(node.symbols) - set(found.values()))
    if missing:
        raise SchemaError(f"{where}: found no {', '.join(missing)} in {enum.full_name}, expected all symbols")
    return found
