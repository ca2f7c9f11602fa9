"""Whether a reader can use what a writer wrote, by Avro's rules of schema resolution."""

from typing import Any, Final

from schemas.tree import NO_DEFAULT, Json, Node, nullable

PROMOTIONS: Final = frozenset(
    {
        ("int", "long"),
        ("int", "float"),
        ("int", "double"),
        ("long", "float"),
        ("long", "double"),
        ("float", "double"),
        ("string", "bytes"),
        ("bytes", "string"),
    }
)


def mismatch(writer: Node, reader: Node, path: str = "") -> str | None:  # noqa: PLR0911
    """Return one sentence on why no value of the writer can be read, or None when it can.

    A difference that shows only for some values (a null, an enum symbol that the reader does not know) is no
    mismatch: those records are refused one by one. Beyond Avro's rules, two different timestamp units are a
    mismatch, because resolution would keep the number and change the time a thousandfold.
    """
    if writer.kind == "union":
        found = [mismatch(branch, reader, path) for branch in writer.branches]
        return None if None in found else found[-1]
    if reader.kind == "union":
        found = [mismatch(writer, branch, path) for branch in reader.branches]
        return None if None in found else found[-1]
    if writer.kind != reader.kind:
        if (writer.kind, reader.kind) in PROMOTIONS:
            return None
        return _sentence(path, writer.kind, reader.kind)
    if writer.logical and reader.logical and writer.logical != reader.logical:
        return _sentence(path, writer.logical, reader.logical)
    if writer.kind in {"array", "map"}:
        return mismatch(writer.inner, reader.inner, f"{path}[]")
    if writer.kind in {"fixed", "enum", "record"}:
        return _named(writer, reader, path)
    return None


def _named(writer: Node, reader: Node, path: str) -> str | None:
    names = {reader.unqualified, *reader.aliases}
    if writer.unqualified not in names and writer.name not in names:
        return _sentence(path, f"{writer.kind} {writer.name}", f"{reader.name} or one of its aliases")
    if writer.size != reader.size:
        return _sentence(path, f"{writer.size} bytes", f"{reader.size}")
    written = {field.name: field for field in writer.fields}
    for field in reader.fields:
        where = f"{path}.{field.name}" if path else field.name
        names_of_field = (field.name, *field.aliases)
        source = next((written[name] for name in names_of_field if name in written), None)
        if source is None:
            if field.default is NO_DEFAULT:
                return f"{where}: found no such field in the writer schema, expected it or a default"
            continue
        inner = mismatch(source.node, field.node, where)
        if inner is not None:
            return inner
    return None


def _sentence(path: str, found: str, expected: str) -> str:
    return f"{path + ': ' if path else ''}found {found} in the writer schema, expected {expected}"


def default_value(node: Node, default: Json) -> Any:  # noqa: PLR0911
    """Return the value that a default in a schema stands for; bytes are written there as Latin-1 text."""
    if node.kind == "union":
        optional = nullable(node)
        if default is None and optional:
            return None
        return default_value(optional[0] if optional else node.branches[0], default)
    if node.kind in {"bytes", "fixed"}:
        return default.encode("latin-1")
    if node.kind in {"float", "double"}:
        return float(default)
    if node.kind == "enum" and default not in node.symbols:
        raise ValueError(f"found {default!r}, expected one of {node.symbols}")
    if node.kind == "array":
        return [default_value(node.inner, item) for item in default]
    if node.kind == "map":
        return {key: default_value(node.inner, item) for key, item in default.items()}
    if node.kind == "record":
        return {
            field.name: default_value(field.node, default.get(field.name, field.default))
            for field in node.fields
        }
    return default
