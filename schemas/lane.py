"""One writer's payloads as columns of one reader: fast where that is possible, record by record where not."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas import flat, slow
from schemas.resolve import mismatch
from schemas.schema import Schema
from schemas.spans import Spans
from schemas.walk import Malformed, Walk, compile_walk

Bad = dict[int, Malformed]  # by index of the payload


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lane:
    """What is prepared once for a pair of schemas."""

    reader: Schema
    plan: flat.Plan | None  # None: every record goes through fastavro
    walk: Walk
    read: Callable[[bytes], slow.Row]
    problem: str | None  # why no record of this writer can be read


def lane(writer: Schema, reader: Schema) -> Lane:
    """Return the lane of a pair of schemas; a pair that cannot work has a problem."""
    problem = mismatch(writer.tree, reader.tree)
    same = writer.fingerprint == reader.fingerprint and problem is None
    return Lane(
        reader=reader,
        plan=flat.plan(reader) if same else None,
        walk=compile_walk(writer.tree),
        read=slow.compile_read(writer, reader if not same else writer),
        problem=problem,
    )


def decode(lane: Lane, payloads: Spans) -> tuple[pa.RecordBatch, Bad]:
    """Return the columns of the good payloads, in order, and what is wrong with each other one.

    Args:
        lane: the pair of schemas.
        payloads: n records without their prefixes.
    """
    if lane.problem is not None:
        bad = {i: Malformed("incompatible_schema", lane.problem) for i in range(len(payloads))}
        return slow.to_batch(lane.reader, []), bad
    if lane.plan is None:
        return _decode_slow(lane, payloads)
    table, good = flat.decode(lane.plan, payloads)
    if good is None:
        return table, {}
    suspects = np.flatnonzero(~good)
    bad = _walk_all(lane.walk, payloads, suspects)
    if len(bad) < len(suspects):  # the walk lets pass what the kernel did not: no such record is known
        return _decode_slow(lane, payloads)
    return table.take(pa.array(np.flatnonzero(good))), bad


def _walk_all(walk: Walk, payloads: Spans, indices: NDArray[np.int64]) -> Bad:
    bad: Bad = {}
    for index in indices.tolist():
        try:
            walk(payloads[index])
        except Malformed as error:
            bad[index] = error
    return bad


def _decode_slow(lane: Lane, payloads: Spans) -> tuple[pa.RecordBatch, Bad]:
    rows, bad = [], {}
    for index, payload in enumerate(payloads.to_list()):
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
