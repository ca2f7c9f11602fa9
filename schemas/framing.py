"""What stands between the magic byte of wire `confluent` and a payload that is no Avro."""

from __future__ import annotations

from typing import Final

import numpy as np

from schemas import kernels
from schemas.lane import Bad
from schemas.spans import Spans
from schemas.walk import Malformed, read_long

_ID_BYTES: Final = 4
_ANY: Final = 1 << 62
_MOST_INDEXES: Final = 64  # messages within each other


def unframe_id(payloads: Spans) -> tuple[Spans, Bad]:
    """Take the schema's id off, whatever it is: fields are known by their names.

    Args:
        payloads: n of them, behind the magic byte.

    Returns:
        All of them; of the bad ones nothing is left.
    """
    return _without_id(payloads)


def unframe_index(payloads: Spans, path: tuple[int, ...]) -> tuple[Spans, Bad]:
    """Take the schema's id off, and the path of the message in its file, which must be this one."""
    bodies, bad = _without_id(payloads)
    short = np.frombuffer(index_bytes(path), np.uint8)
    if not bad and kernels.all_fit(bodies.data, bodies.starts, bodies.ends, _ANY, short):
        return bodies.without(len(short)), bad
    starts = bodies.starts.copy()
    for row in range(len(bodies)):
        if row in bad:
            continue
        try:
            starts[row] += _skip_path(bodies[row], path)
        except Malformed as error:
            bad[row] = error
    return Spans(bodies.data, starts, np.maximum(bodies.ends, starts)), bad


def index_bytes(path: tuple[int, ...]) -> bytes:
    """The path of a message in its file as it is written: its length and its numbers, [0] as a single 0."""
    if path == (0,):
        return b"\x00"
    return b"".join(_zigzag(number) for number in (len(path), *path))


def _zigzag(number: int) -> bytes:
    raw, out = 2 * number, bytearray()
    while raw >= 0x80:
        out.append(raw & 0x7F | 0x80)
        raw >>= 7
    return bytes([*out, raw])


def _skip_path(body: bytes, path: tuple[int, ...]) -> int:
    """How many bytes the path has."""
    count, at = read_long(body, 0)
    if not 0 <= count <= _MOST_INDEXES:
        raise Malformed("unknown_schema", f"found {count} message indexes, expected 0 to {_MOST_INDEXES}")
    found = []
    for _ in range(count):
        index, at = read_long(body, at)
        found.append(index)
    if tuple(found or (0,)) != path:
        raise Malformed("unknown_schema", f"found message index {found or [0]}, expected {list(path)}")
    return at


def _without_id(payloads: Spans) -> tuple[Spans, Bad]:
    short = payloads.sizes < _ID_BYTES
    starts = payloads.starts + np.where(short, 0, _ID_BYTES)
    bad = {
        row: Malformed("truncated", f"found {payloads.sizes[row] + 1} bytes, expected a prefix of 5")
        for row in np.flatnonzero(short).tolist()
    }
    return Spans(payloads.data, starts, payloads.ends), bad
