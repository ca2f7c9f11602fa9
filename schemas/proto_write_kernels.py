"""Cells to Protobuf messages of a flat schema, compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from schemas import array_types as t
from schemas.kernels import CONSTANT
from schemas.proto_kernels import CODES

MOST_BYTES = 32  # of a field that is neither bytes nor text: a tag and a time; of those: a tag and a length
_SINT32, _SINT64, _FIXED32 = CODES["sint32"], CODES["sint64"], CODES["fixed32"]
_WIDE = (CODES["fixed64"], CODES["sfixed64"], CODES["double"])
_STRING, _BYTES, _TIMESTAMP = CODES["string"], CODES["bytes"], CODES["timestamp"]
_1 = np.uint64(1)
_7 = np.uint64(7)
_NANOS = np.int64(1_000_000_000)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _put_raw(out: Any, to: int, raw: Any) -> Any:
    while raw >= np.uint64(0x80):
        out[to] = np.uint8(raw & np.uint64(0x7F)) | np.uint8(0x80)
        raw >>= _7
        to += 1
    out[to] = np.uint8(raw)
    return to + 1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _put_little(out: Any, to: int, bits: Any, width: int) -> Any:
    for j in range(width):
        out[to + j] = np.uint8((bits >> np.uint64(8 * j)) & np.uint64(0xFF))
    return to + width


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _put_timestamp(out: Any, to: int, ticks: int, per_s: int) -> Any:
    """A length and a google.protobuf.Timestamp; it is never longer than 127 bytes."""
    seconds = ticks // per_s
    nanos = (ticks - seconds * per_s) * (_NANOS // per_s)
    first = to
    to += 1
    if seconds:
        out[to] = 8
        to = _put_raw(out, to + 1, np.uint64(seconds))
    if nanos:
        out[to] = 16
        to = _put_raw(out, to + 1, np.uint64(nanos))
    out[first] = to - first - 1
    return to


@njit(
    (
        t.BYTES,
        t.BYTES,
        t.INT64S,
        t.INT8S,
        t.INT8S,
        t.INT64S,
        t.OUT_INT64_TABLE,
        t.OUT_INT32_TABLE,
        t.OUT_BOOL_TABLE,
        t.BYTES,
        t.OUT_BYTES,
        t.OUT_INT64S,
    ),
    cache=True,
    nogil=True,
)  # type: ignore[untyped-decorator]
def write_messages(  # noqa: PLR0912 one pass serves every kind
    prefix: Any,
    tags: Any,
    tag_at: Any,
    kinds: Any,
    codes: Any,
    per_s: Any,
    cells: Any,
    sizes: Any,
    valid: Any,
    data: Any,
    out: Any,
    ends: Any,
) -> None:
    """Write messages of a flat schema, one after the other.

    Args:
        prefix: uint8, put in front of every record.
        tags: uint8, the tag of each field.
        tag_at: (f + 1,) int64 where each begins in it.
        kinds, cells, sizes, valid: as in `kernels.write_records`; the cell of an enum is its number.
            CONSTANT: bytes with their tag.
        codes, per_s: as in `read_messages`.
        data: uint8 that bytes, texts and constants are taken from.
        out: uint8, large enough, filled.
        ends: (n,) int64, filled: where each record ends in out.
    """
    to = 0
    for i in range(ends.shape[0]):
        for j in range(prefix.shape[0]):
            out[to + j] = prefix[j]
        to += prefix.shape[0]
        for f in range(kinds.shape[0]):
            code, cell = codes[f], cells[f, i]
            if not valid[f, i]:
                continue
            if kinds[f] == CONSTANT:
                for j in range(sizes[f, i]):
                    out[to + j] = data[cell + j]
                to += sizes[f, i]
                continue
            for j in range(tag_at[f], tag_at[f + 1]):
                out[to] = tags[j]
                to += 1
            if code in (_STRING, _BYTES):
                to = _put_raw(out, to, np.uint64(sizes[f, i]))
                for j in range(sizes[f, i]):
                    out[to + j] = data[cell + j]
                to += sizes[f, i]
            elif code == _TIMESTAMP:
                to = _put_timestamp(out, to, cell, per_s[f])
            elif code in _WIDE:
                to = _put_little(out, to, np.uint64(cell), 8)
            elif code >= _FIXED32:
                to = _put_little(out, to, np.uint64(cell), 4)
            elif code in (_SINT32, _SINT64):
                to = _put_raw(out, to, (np.uint64(cell) << _1) ^ np.uint64(cell >> 63))
            else:
                to = _put_raw(out, to, np.uint64(cell))
        ends[i] = to
