"""The tree of an Avro schema, with the guard against schemas that would let a few bytes do harm."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import fastavro.schema

Json = Any  # what json.loads returns

NO_DEFAULT: Final = object()
PRIMITIVES: Final = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
TIMESTAMPS: Final = {"timestamp-millis": "ms", "timestamp-micros": "us"}
MAX_DEPTH: Final = 64
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*", re.ASCII)
MAX_LEAVES: Final = 10_000  # named types used twice can make an exponential tree from a short text


class SchemaError(Exception):
    """A schema cannot be used; the message is one line that says where and why."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Field:
    """One field of a record."""

    name: str
    node: "Node"
    aliases: tuple[str, ...] = ()
    default: Json = NO_DEFAULT  # as written in the JSON
    pii: bool = False  # marked as personal by the custom attribute "pii": true


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Node:
    """One type of a schema; named types that are used twice are the same node."""

    kind: str  # a primitive, or fixed, enum, array, map, record, union
    least_bytes: int  # size of the smallest encoding of a value
    leaves: int = 1  # nodes of the fully expanded tree below this one
    name: str = ""  # full name of fixed, enum and record
    aliases: tuple[str, ...] = ()  # full names
    logical: str = ""  # timestamp-millis, timestamp-micros or ""; other logical types count as their base
    size: int = 0  # bytes of a fixed
    symbols: tuple[str, ...] = ()
    default_symbol: str = ""
    items: "Node | None" = None  # of an array; values of a map
    fields: tuple[Field, ...] = field(default=())
    branches: tuple["Node", ...] = ()

    @property
    def unqualified(self) -> str:
        """Return the name without its namespace."""
        return self.name.rpartition(".")[2]

    @property
    def inner(self) -> "Node":
        """Return the items of an array or the values of a map."""
        if self.items is None:
            raise SchemaError(f"found {self.kind}, expected an array or a map. This is a bug.")
        return self.items


def parse(document: Json) -> Node:
    """Return the tree of a schema.

    Raises:
        SchemaError: not Avro, recursive, too deep or too large, or an array or map of zero-byte items.
    """
    if not isinstance(document, dict | list | str):
        raise SchemaError(f"found {document!r}, expected an Avro schema")
    if _depth(document) > MAX_DEPTH:
        raise SchemaError(f"found a schema deeper than {MAX_DEPTH} levels, expected a flatter one")
    try:
        parsed = fastavro.schema.parse_schema(_without_marks(document))
    except Exception as error:  # fastavro raises KeyError, TypeError and its own kinds
        reason = " ".join(str(error).split())
        raise SchemaError(f"found no valid Avro schema ({type(error).__name__}: {reason})") from error
    return _node(parsed, {}, "")


def nullable(node: Node) -> tuple[Node, int] | None:
    """Return (T, index of null) when the node is a union of null and one other type, else None."""
    if node.kind != "union" or len(node.branches) != 2:
        return None
    kinds = [branch.kind for branch in node.branches]
    if kinds.count("null") != 1:
        return None
    null_index = kinds.index("null")
    return node.branches[1 - null_index], null_index


def to_json(node: Node, *, logical: bool) -> Json:
    """Return the node as JSON for another decoder, with or without the logical types.

    Fields keep their defaults and aliases; documentation and custom attributes are dropped.
    """
    return _json(node, logical, set())


def _json(node: Node, logical: bool, seen: set[str]) -> Json:
    if node.kind in PRIMITIVES:
        return {"type": node.kind, "logicalType": node.logical} if node.logical and logical else node.kind
    if node.kind == "union":
        return [_json(branch, logical, seen) for branch in node.branches]
    if node.kind in {"array", "map"}:
        word = "items" if node.kind == "array" else "values"
        return {"type": node.kind, word: _json(node.inner, logical, seen)}
    if node.name in seen:
        return node.name
    seen.add(node.name)
    out: dict[str, Json] = {"type": node.kind, "name": node.name}
    if node.aliases:
        out["aliases"] = list(node.aliases)
    if node.kind == "fixed":
        out["size"] = node.size
    elif node.kind == "enum":
        out["symbols"] = list(node.symbols)
        if node.default_symbol:
            out["default"] = node.default_symbol
    else:
        out["fields"] = [_json_field(item, logical, seen) for item in node.fields]
    return out


def _json_field(item: Field, logical: bool, seen: set[str]) -> Json:
    out: dict[str, Json] = {"name": item.name, "type": _json(item.node, logical, seen)}
    if item.aliases:
        out["aliases"] = list(item.aliases)
    if item.default is not NO_DEFAULT:
        out["default"] = item.default
    return out


def _node(document: Json, named: dict[str, Node | None], where: str) -> Node:
    if isinstance(document, str):
        return _named_or_primitive(document, "", named, where)
    if isinstance(document, list):
        return _union(document, named, where)
    kind = document["type"]
    if isinstance(kind, dict | list):
        return _node(kind, named, where)
    if kind in {"array", "map"}:
        return _collection(document, kind, named, where)
    if kind in {"fixed", "enum", "record", "error"}:
        _check_name(document["name"], where)
        named[document["name"]] = None  # being built: a reference to it from inside is a recursion
        node = (
            _record(document, named, where) if kind in {"record", "error"} else _leaf(document, kind, where)
        )
        named[node.name] = node
        return node
    return _named_or_primitive(kind, document.get("logicalType", ""), named, where)


def _named_or_primitive(kind: str, logical: str, named: Mapping[str, Node | None], where: str) -> Node:
    if kind in PRIMITIVES:
        known = logical if kind == "long" and logical in TIMESTAMPS else ""
        return Node(kind=kind, least_bytes=_LEAST_BYTES[kind], logical=known)
    node = named.get(kind)
    if node is None:
        raise SchemaError(
            f"{where or kind}: found the recursive type {kind}, expected a type of bounded depth"
        )
    return node


_LEAST_BYTES: Final = {
    "null": 0,
    "boolean": 1,
    "int": 1,
    "long": 1,
    "float": 4,
    "double": 8,
    "bytes": 1,
    "string": 1,
}


def _leaf(document: Json, kind: str, where: str) -> Node:
    aliases = tuple(_full_aliases(document))
    if kind == "fixed":
        size = document["size"]
        if not isinstance(size, int) or size < 0:
            raise SchemaError(f"{where}: found fixed size {size!r}, expected a whole number from 0")
        return Node(kind=kind, least_bytes=size, name=document["name"], aliases=aliases, size=size)
    symbols = tuple(document["symbols"])
    for symbol in symbols:
        _check_name(symbol, where)
    if not symbols or len(set(symbols)) != len(symbols):
        raise SchemaError(f"{where}: found an enum with no or repeated symbols, expected distinct symbols")
    default = document.get("default") or ""
    if default and default not in symbols:
        raise SchemaError(f"{where}: found enum default {default!r}, expected one of its symbols")
    return Node(
        kind=kind,
        least_bytes=1,
        name=document["name"],
        aliases=aliases,
        symbols=symbols,
        default_symbol=default,
    )


def _record(document: Json, named: dict[str, Node | None], where: str) -> Node:
    fields = []
    for item in document["fields"]:
        _check_name(item["name"], where)
        path = f"{where}.{item['name']}" if where else item["name"]
        fields.append(
            Field(
                name=item["name"],
                node=_node(item["type"], named, path),
                aliases=tuple(item.get("aliases", ())),
                default=item.get("default", NO_DEFAULT),
                pii=item.get("pii") is True,
            )
        )
    names = [item.name for item in fields]
    if len(set(names)) != len(names):
        raise SchemaError(
            f"{where or document['name']}: found a repeated field name, expected distinct names"
        )
    return Node(
        kind="record",
        least_bytes=sum(item.node.least_bytes for item in fields),
        leaves=_bounded(1 + sum(item.node.leaves for item in fields), where),
        name=document["name"],
        aliases=tuple(_full_aliases(document)),
        fields=tuple(fields),
    )


def _collection(document: Json, kind: str, named: dict[str, Node | None], where: str) -> Node:
    items = _node(document["items" if kind == "array" else "values"], named, f"{where}[]")
    # a block count of 2^40 in five bytes would otherwise be a list of 2^40 items; map entries carry a key,
    # and are refused all the same so that one rule holds for both
    if items.least_bytes == 0:
        raise SchemaError(
            f"{where}: found {kind} of zero-byte items ({items.kind}), expected items of at least one byte"
        )
    return Node(kind=kind, least_bytes=1, leaves=_bounded(1 + items.leaves, where), items=items)


def _union(document: Json, named: dict[str, Node | None], where: str) -> Node:
    branches = tuple(_node(branch, named, where) for branch in document)
    if not branches:
        raise SchemaError(f"{where}: found an empty union, expected at least one type")
    return Node(
        kind="union",
        least_bytes=1 + min(branch.least_bytes for branch in branches),
        leaves=_bounded(1 + sum(branch.leaves for branch in branches), where),
        branches=branches,
    )


def _bounded(leaves: int, where: str) -> int:
    if leaves > MAX_LEAVES:
        raise SchemaError(f"{where}: found more than {MAX_LEAVES} types in one value, expected fewer")
    return leaves


def _check_name(name: Json, where: str) -> None:
    """Raise for a name that Avro does not allow; fastavro takes it, other decoders do not."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SchemaError(f"{where}: found the name {name!r}, expected letters, digits and _")


def _full_aliases(document: Json) -> Iterator[str]:
    namespace = document["name"].rpartition(".")[0]
    for alias in document.get("aliases", ()):
        yield alias if "." in alias or not namespace else f"{namespace}.{alias}"


def _without_marks(document: Json) -> Json:
    """Return a copy without the marks of fastavro that say "already parsed" and would skip its checks."""
    if isinstance(document, list):
        return [_without_marks(item) for item in document]
    if isinstance(document, dict):
        return {key: _without_marks(item) for key, item in document.items() if not key.startswith("__")}
    return document


def _depth(document: Json) -> int:
    """Return the nesting of lists and objects without recursion of our own."""
    deepest, todo = 0, [(document, 1)]
    while todo:
        item, depth = todo.pop()
        deepest = max(deepest, depth)
        if depth <= 4 * MAX_DEPTH and isinstance(item, dict | list):
            inner = item.values() if isinstance(item, dict) else item
            todo.extend((child, depth + 1) for child in inner)
    return deepest // 2  # a level of Avro is an object and a list or a field: two levels of JSON


def from_text(text: str) -> Json:
    """Return the JSON of a schema text; a bare type name such as `string` is taken as its JSON string."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SchemaError(f"found no JSON ({' '.join(str(error).split())})") from error
