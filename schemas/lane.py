"""One writer's payloads as columns of one reader: fast where that is possible, record by record where not."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from schemas import flat, slow
from schemas.columns import Columns, joined_columns
from schemas.resolve import mismatch
from schemas.schema import Schema
from schemas.spans import Spans
from schemas.walk import Malformed

Bad = dict[int, Malformed]  # by index of the payload


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lane:
    """What is prepared once for a pair of schemas."""

    reader: Schema
    # The columns of n payloads, and which of them are good (None: all); None: all are read one by one.
    fast: Callable[[Spans], tuple[flat.Found, NDArray[np.bool_] | None]] | None
    read: Callable[[bytes], slow.Row]  # one payload, or Malformed
    problem: str | None = None  # why no record of this writer can be read
    unframe: Callable[[Spans], tuple[Spans, Bad]] | None = None  # takes off what the prefix does not


def lane(writer: Schema, reader: Schema) -> Lane:
    """Return the lane of a pair of Avro schemas; a pair that cannot work has a problem."""
    problem = mismatch(writer.tree, reader.tree)
    same = writer.fingerprint == reader.fingerprint and problem is None
    plan = flat.plan(reader) if same else None
    return Lane(
        reader=reader,
        fast=None if plan is None else partial(flat.decode, plan),
        read=slow.compile_read(writer, reader if not same else writer),
        problem=problem,
    )


def decode(lane: Lane, payloads: Spans) -> tuple[Columns, Bad]:
    """Return the columns of the good payloads, in order, and what is wrong with each other one.

    Args:
        lane: the pair of schemas.
        payloads: n records without their prefixes.
    """
    if lane.problem is not None:
        bad = {i: Malformed("incompatible_schema", lane.problem) for i in range(len(payloads))}
        return Columns(slow.to_batch(lane.reader, [])), bad
    if lane.unframe is None:
        return _decode(lane, payloads)
    bodies, bad = lane.unframe(payloads)
    if not bad:
        return _decode(lane, bodies)
    rest = kept(len(payloads), bad)
    columns, worse = _decode(lane, bodies.take(rest))
    return columns, bad | {int(rest[index]): error for index, error in worse.items()}


def _decode(lane: Lane, payloads: Spans) -> tuple[Columns, Bad]:
    if lane.fast is None:
        rows, _, bad = _read(lane, payloads, range(len(payloads)))
        return Columns(slow.to_batch(lane.reader, rows)), bad
    found, good = lane.fast(payloads)
    columns = Columns(found)
    if good is None:
        return columns, {}
    rows, places, bad = _read(lane, payloads, np.flatnonzero(~good).tolist())
    fast_rows = np.flatnonzero(good)
    columns = columns.take(fast_rows)
    if not rows:
        return columns, bad
    # What the kernel leaves to the reader of single records is put back into its place.
    order = np.argsort(np.concatenate([fast_rows, np.array(places, np.int64)]))
    return joined_columns([columns, Columns(slow.to_batch(lane.reader, rows))]).take(order), bad


def _read(lane: Lane, payloads: Spans, indices: list[int] | range) -> tuple[list[slow.Row], list[int], Bad]:
    """The rows of these payloads one by one, which they are, and what is wrong with each other one."""
    rows, places, bad = [], [], {}
    for index in indices:
        try:
            rows.append(lane.read(payloads[index]))
        except Malformed as error:
            bad[index] = error
        else:
            places.append(index)
    return rows, places, bad


def kept(count: int, bad: Bad) -> NDArray[np.int64]:
    """Return the indices below `count` that are not bad, ascending."""
    good = np.ones(count, np.bool_)
    good[list(bad)] = False
    return np.flatnonzero(good)
