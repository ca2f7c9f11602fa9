"""One writer's payloads as columns of one reader: fast where that is possible, record by record where not."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas import fast, slow
from schemas.resolve import mismatch
from schemas.schema import Schema
from schemas.walk import Malformed, Walk, compile_walk

# pyruhvro takes 30 us for one record and 200 us for a thousand, the walk about 5 us each: with this many
# records or fewer it is quicker to walk them all than to halve again in search of the bad ones
_WALK_AT_MOST = 16

Bad = dict[int, Malformed]  # by index of the payload


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lane:
    """What is prepared once for a pair of schemas."""

    reader: Schema
    plan: fast.Plan | None  # None: every record goes through fastavro
    walk: Walk
    read: Callable[[bytes], slow.Row]
    problem: str | None  # why no record of this writer can be read


def lane(writer: Schema, reader: Schema) -> Lane:
    """Return the lane of a pair of schemas; a pair that cannot work has a problem."""
    problem = mismatch(writer.tree, reader.tree)
    same = writer.fingerprint == reader.fingerprint and problem is None
    return Lane(
        reader=reader,
        plan=fast.plan(reader) if same else None,
        walk=compile_walk(writer.tree),
        read=slow.compile_read(writer, reader if not same else writer),
        problem=problem,
    )


def decode(lane: Lane, payloads: list[bytes], sizes: NDArray[np.int64]) -> tuple[pa.RecordBatch, Bad]:
    """Return the columns of the good payloads, in order, and what is wrong with each other one.

    Args:
        lane: the pair of schemas.
        payloads: n records without their prefixes.
        sizes: (n,) length of each payload.
    """
    if lane.problem is not None:
        bad = {i: Malformed("incompatible_schema", lane.problem) for i in range(len(payloads))}
        return slow.to_batch(lane.reader, []), bad
    if lane.plan is None or not payloads:
        return _decode_slow(lane, payloads)
    return _decode_fast(lane, lane.plan, payloads, sizes) or _decode_slow(lane, payloads)


def _decode_fast(
    lane: Lane, plan: fast.Plan, payloads: list[bytes], sizes: NDArray[np.int64]
) -> tuple[pa.RecordBatch, Bad] | None:
    """Return the result of the fast path, or None when it fails on records that the walk lets pass."""
    first = _try(plan, payloads, sizes)
    if first is not None:
        table, suspects = first
        bad = _walk_all(lane.walk, payloads, np.flatnonzero(suspects))
        return (table.take(pa.array(kept(len(payloads), bad))) if bad else table), bad
    bad = _search(lane, plan, payloads, 0, len(payloads))
    left = kept(len(payloads), bad)
    second = _try(plan, [payloads[i] for i in left], sizes[left]) if bad else None
    if second is None:
        return None
    table, suspects = second
    late = _walk_all(lane.walk, payloads, left[suspects])
    return (table.filter(pa.array(~np.isin(left, list(late)))) if late else table), bad | late


def _try(
    plan: fast.Plan, payloads: list[bytes], sizes: NDArray[np.int64]
) -> tuple[pa.RecordBatch, NDArray[np.bool_]] | None:
    try:
        return fast.decode(plan, payloads, sizes)
    except Exception:  # it names no row, so the search below finds them
        return None


def _search(lane: Lane, plan: fast.Plan, payloads: list[bytes], start: int, stop: int) -> Bad:
    """Return what is wrong in a stretch that cannot be read as a whole."""
    if stop - start <= _WALK_AT_MOST:
        return _walk_all(lane.walk, payloads, np.arange(start, stop))
    bad: Bad = {}
    middle = (start + stop) // 2
    for low, high in ((start, middle), (middle, stop)):
        if not fast.readable(plan, payloads[low:high]):
            bad |= _search(lane, plan, payloads, low, high)
    return bad


def _walk_all(walk: Walk, payloads: list[bytes], indices: NDArray[np.int64]) -> Bad:
    bad: Bad = {}
    for index in indices.tolist():
        try:
            walk(payloads[index])
        except Malformed as error:
            bad[index] = error
    return bad


def _decode_slow(lane: Lane, payloads: list[bytes]) -> tuple[pa.RecordBatch, Bad]:
    rows, bad = [], {}
    for index, payload in enumerate(payloads):
        try:
            rows.append(lane.read(payload))
        except Malformed as error:
            bad[index] = error
    return slow.to_batch(lane.reader, rows), bad


def kept(count: int, bad: Bad) -> NDArray[np.int64]:
    """Return the indices below `count` that are not bad, ascending."""
    good = np.ones(count, np.bool_)
    good[list(bad)] = False
    return np.flatnonzero(good)
