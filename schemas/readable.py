"""Whether values of a schema can be columns, which is asked of readers and not of writers."""

import pyarrow as pa

from schemas.resolve import default_value
from schemas.schema import arrow_type
from schemas.tree import NO_DEFAULT, Field, Node, SchemaError, nullable


def refuse_unreadable(node: Node, path: str) -> None:
    """Raise for what is no column, and for a default that would fail in the middle of the work.

    A writer may have such things where the reader has no field for them.

    Raises:
        SchemaError: one line that names the field.
    """
    if node.kind == "union" and nullable(node) is None:
        kinds = ", ".join(branch.kind for branch in node.branches)
        raise SchemaError(f"{path}: found a union of {kinds}, expected one type, or null and one type")
    if node.kind == "record" and not node.fields:
        raise SchemaError(f"{path}: found a record without fields, expected at least one")
    for field in node.fields:
        refuse_unreadable(field.node, f"{path}.{field.name}")
        _refuse_bad_default(field, f"{path}.{field.name}")
    for child in (*node.branches, *((node.items,) if node.items else ())):
        refuse_unreadable(child, path)


def _refuse_bad_default(field: Field, path: str) -> None:
    if field.default is NO_DEFAULT:
        return
    try:
        pa.scalar(default_value(field.node, field.default), arrow_type(field.node))
    except Exception as error:  # whatever is wrong with it
        raise SchemaError(f"{path}: found default {field.default!r}, expected a value of it") from error
