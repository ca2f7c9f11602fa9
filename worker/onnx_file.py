"""Which other files an ONNX file names, found by reading its bytes and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

MAX_ONNX_BYTES = (2 << 30) - 1  # no protobuf message is longer
_MAX_DEPTH = 64
_VARINT, _EIGHT_BYTES, LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_SIZES = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}

# Field numbers that lead to tensors, by kind of message (onnx.proto3).
_INSIDE = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
}
_OPERATOR = 4  # of a node
_KEY, _VALUE = 1, 2  # of an external entry
_LEADS_OUT = b"EPContext"  # an operator that loads compiled code from a path


class OnnxFileError(ValueError):
    """Not an ONNX file that we would hand to ONNX Runtime; the message says what was found."""


def external_files(data: bytes) -> tuple[str, ...]:
    """Return the locations of all external data, as written, each once and in order.

    Every occurrence counts, also in subgraphs, functions, training graphs and attributes, and also where
    another reader would let a later one win: what is not listed cannot be opened.

    Raises:
        OnnxFileError: not protobuf, nested without end, or an operator that loads code from a file.
    """
    found: dict[str, None] = {}
    pending: list[tuple[str, memoryview, int]] = [("model", memoryview(data), 0)]
    while pending:
        kind, message, depth = pending.pop()
        if depth > _MAX_DEPTH:
            raise OnnxFileError(f"found more than {_MAX_DEPTH} levels of messages")
        entry: dict[int, bytes] = {}
        for number, inner in _messages(message):
            if kind == "external":
                entry[number] = bytes(inner)
                if entry.get(_KEY) == b"location" and _VALUE in entry:
                    found[_text(entry[_VALUE])] = None
            elif kind == "node" and number == _OPERATOR and bytes(inner) == _LEADS_OUT:
                raise OnnxFileError(f"found the operator {_LEADS_OUT.decode()}, which loads code from a file")
            elif number in _INSIDE[kind]:
                pending.append((_INSIDE[kind][number], inner, depth + 1))
    return tuple(sorted(found))


def _messages(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield number and content of every length-delimited field."""
    for number, wire, content in fields(message):
        if wire == LENGTH and not isinstance(content, int):
            yield number, content


def fields(message: memoryview) -> Iterator[tuple[int, int, memoryview | int]]:
    """Yield number, wire type and content of every field: an integer for a varint, else its bytes.

    Raises:
        OnnxFileError: not protobuf.
    """
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = varint(message, at)
            yield number, wire, value
            continue
        if wire in _SIZES:
            length = _SIZES[wire]
        elif wire == LENGTH:
            length, at = varint(message, at)
        else:
            raise OnnxFileError(f"found wire type {wire}, which ONNX does not use")
        if length > len(message) - at:
            raise OnnxFileError("found a field that is longer than its message")
        yield number, wire, message[at : at + length]
        at += length


def varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return the number that begins here, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise OnnxFileError("found the end in the middle of a number")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise OnnxFileError("found a number of more than 64 bits")


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise OnnxFileError("found an external location that is not UTF-8") from None
