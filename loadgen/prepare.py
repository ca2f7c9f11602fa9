"""From a slab to records ready to send: encoded, merged in event-time order, each with its due time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from loadgen.events import Events, Stream
from loadgen.mutate import Mutator
from loadgen.pace import Pace
from loadgen.slabs import Slab

Encode = Callable[[pa.RecordBatch], list[bytes]]
SCORED: tuple[Stream, ...] = ("transactions", "readings")


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where the events of a stream go, and how they become bytes."""

    topic: str
    encode: Encode


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """What the ledger has to know about the scored events of a chunk, (s,) each."""

    first_number: int
    due_s: NDArray[np.float64]
    truth: NDArray[np.float64]
    mutation: NDArray[np.int8]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """Records in the order of sending, (n,) each."""

    topics: list[str]
    keys: list[bytes | None]
    values: list[bytes | None]
    due_s: NDArray[np.float64]  # ascending
    scored_before: NDArray[np.int64]  # (n + 1,) how many of the first i records are scored events
    marks: tuple[
        tuple[int, int], ...
    ]  # (position, event time in ms): a time marker goes before the record there
    plan: Plan | None
    from_ms: int
    until_ms: int


def prepare(
    slab: Slab,
    routes: Mapping[Stream, Route],
    pace: Pace,
    *,
    mark_every_ms: int | None = None,
    mutator: Mutator | None = None,
) -> Prepared:
    """Make a slab ready.

    Args:
        slab: events of several streams; of one event time, those of the earlier stream go first.
        routes: topic and encoder of each stream.
        pace: gives the due times.
        mark_every_ms: distance of time markers in event time; none when None.
        mutator: damages records of scored streams.
    """
    due = pace(slab)
    encoded = [_encoded(events, routes[events.stream], mutator) for events in slab.streams]
    scored = [events.stream in SCORED for events in slab.streams]
    plan = next(
        (
            Plan(first_number=int(events.number[0]), due_s=due_s, truth=events.truth, mutation=kind)
            for events, due_s, (_, _, kind), is_scored in zip(slab.streams, due, encoded, scored, strict=True)
            if is_scored and len(events)
        ),
        None,
    )
    times_ms = np.concatenate([events.event_time_ms for events in slab.streams])
    order = np.argsort(times_ms, kind="stable")
    rows = order.tolist()
    counts = [len(events) for events in slab.streams]
    topics = [routes[events.stream].topic for events in slab.streams for _ in range(len(events))]
    keys = [key for _, part, _ in encoded for key in part]
    values = [value for part, _, _ in encoded for value in part]
    return Prepared(
        topics=[topics[row] for row in rows],
        keys=[keys[row] for row in rows],
        values=[values[row] for row in rows],
        due_s=np.concatenate(due)[order],
        scored_before=np.concatenate([[0], np.cumsum(np.repeat(scored, counts)[order])]),
        marks=_marks(times_ms[order], slab.until_ms, mark_every_ms),
        plan=plan,
        from_ms=slab.from_ms,
        until_ms=slab.until_ms,
    )


def _encoded(
    events: Events, route: Route, mutator: Mutator | None
) -> tuple[list[bytes | None], list[bytes | None], NDArray[np.int8]]:
    if mutator is None or events.stream not in SCORED:
        return list(route.encode(events.table)), list(events.key), np.zeros(len(events), np.int8)
    kind = mutator.choose(events.table)
    values = route.encode(mutator.in_columns(events.table, kind))
    return *mutator.in_records(values, events.key, kind), kind


def _marks(times_ms: NDArray[np.int64], until_ms: int, every_ms: int | None) -> tuple[tuple[int, int], ...]:
    if every_ms is None or not len(times_ms):
        return ()
    bounds = np.arange(int(times_ms[0]) // every_ms * every_ms + every_ms, until_ms, every_ms)
    bounds = np.append(bounds, until_ms)
    # All events before the bound are out: nothing at or before its last millisecond follows.
    positions = np.searchsorted(times_ms, bounds, "left")
    return tuple(zip(positions.tolist(), (bounds - 1).tolist(), strict=True))
