"""The attributes of an ONNX file's nodes of one kind, read from its bytes: scoring needs no onnx package."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from worker.onnx_file import LENGTH, fields, varint

# Field numbers of onnx.proto3.
_GRAPH = 7  # of a model
_NODE = 1  # of a graph
_OPERATOR, _ATTRIBUTE = 4, 5  # of a node
_NAME, _FLOAT, _INT, _TEXT, _FLOATS, _INTS, _TEXTS = 1, 2, 3, 4, 7, 8, 9  # of an attribute


def nodes_of(data: bytes, prefix: str) -> list[tuple[str, dict[str, Any]]]:
    """Operator and attributes of every node of the main graph whose operator begins so.

    Attributes are int, float, bytes, int64 and float32 arrays, or lists of bytes; those of any other kind,
    such as tensors, are None.

    Raises:
        OnnxFileError: not protobuf.
    """
    found = []
    for graph in _inside(memoryview(data), _GRAPH):
        for node in _inside(graph, _NODE):
            operator = b"".join(bytes(name) for name in _inside(node, _OPERATOR)).decode(errors="replace")
            if operator.startswith(prefix):
                found.append((operator, dict(_attribute(each) for each in _inside(node, _ATTRIBUTE))))
    return found


def _inside(message: memoryview, wanted: int) -> Iterator[memoryview]:
    for number, wire, content in fields(message):
        if number == wanted and wire == LENGTH and not isinstance(content, int):
            yield content


def _attribute(message: memoryview) -> tuple[str, Any]:
    """Name and value; lists may be packed or not, as one writer or another likes."""
    raw: dict[int, bytearray] = {}  # by field number
    ints: dict[int, list[int]] = {}
    texts: list[bytes] = []
    for number, wire, content in fields(message):
        if isinstance(content, int):
            ints.setdefault(number, []).append(_signed(content))
        elif number == _INTS and wire == LENGTH:
            ints.setdefault(number, []).extend(_packed(content))
        elif number == _TEXTS:
            texts.append(bytes(content))
        else:
            raw.setdefault(number, bytearray()).extend(content)
    name = raw.get(_NAME, b"").decode(errors="replace")
    if _FLOATS in raw or _FLOAT in raw:
        floats = np.frombuffer(bytes(raw.get(_FLOATS) or raw[_FLOAT]), "<f4")
        return name, floats if _FLOATS in raw else float(floats[0])
    if _INTS in ints or _INT in ints:
        return name, np.array(ints[_INTS], np.int64) if _INTS in ints else ints[_INT][-1]
    return name, bytes(raw[_TEXT]) if _TEXT in raw else texts or None


def _packed(content: memoryview) -> Iterator[int]:
    at = 0
    while at < len(content):
        value, at = varint(content, at)
        yield _signed(value)


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
