"""Chunks of a stream of time: every event of a stretch of event time, several streams side by side."""

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from loadgen.events import Events, Names, label_events, part, reading_events, together, transaction_events
from loadgen.transactions import Transactions
from loadgen.turbofan import Readings
from schemas.schema import Schema


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slab:
    """All events of from_ms <= event time < until_ms that no earlier slab had."""

    streams: tuple[Events, ...]  # of events of the same time, those of the earlier stream go first
    from_ms: int
    until_ms: int


def fraud_slabs(
    chunks: Iterator[Transactions],
    *,
    customers: Names,
    terminals: Names,
    transaction: Schema,
    label: Schema,
    label_delay_s: int | None,
    slab_s: int,
    all_labels: bool = False,
) -> Iterator[Slab]:
    """Cut transactions into slabs and put their labels, which become known later, in front of them.

    Args:
        chunks: transactions in event-time order.
        customers, terminals: the names behind the indices.
        transaction, label: the schemas to write.
        label_delay_s: a label's event time minus that of its transaction; no labels when None.
        slab_s: event time in one slab.
        all_labels: go on after the last transaction until its label is out.
    """
    waiting: deque[Transactions] = deque()  # labels not out yet, oldest first
    until_s = 0
    for transactions in _cut(chunks, slab_s):
        from_s = int(transactions.event_time_s[0]) // slab_s * slab_s
        # Stretches without transactions may still have labels: they go out with the slab that follows.
        until_s = from_s + slab_s
        payments = transaction_events(transactions, customers, terminals, transaction)
        if label_delay_s is None:
            yield Slab(streams=(payments,), from_ms=from_s * 1000, until_ms=until_s * 1000)
            continue
        waiting.append(transactions)
        due = _due_labels(waiting, until_s - label_delay_s)
        streams = [label_events(one, customers, terminals, label_delay_s, label) for one in due]
        labels = (together(streams),) if streams else ()
        first_ms = min(from_s * 1000, *(int(events.event_time_ms[0]) for events in (*labels, payments)))
        yield Slab(streams=(*labels, payments), from_ms=first_ms, until_ms=until_s * 1000)
    while all_labels and waiting and label_delay_s is not None:
        due = _due_labels(waiting, until_s + slab_s - label_delay_s)
        streams = [label_events(one, customers, terminals, label_delay_s, label) for one in due]
        if streams:
            yield Slab(
                streams=(together(streams),), from_ms=until_s * 1000, until_ms=(until_s + slab_s) * 1000
            )
        until_s += slab_s


def reading_slabs(
    chunks: Iterator[Readings], *, prefix: str, reading: Schema, at_least: int = 1_000
) -> Iterator[Slab]:
    """Turn readings into slabs.

    Args:
        chunks: readings in event-time order.
        prefix: machines are named by it and their unit number.
        reading: the schema to write.
        at_least: rows in one slab (but the last): encoding 200 costs half of what encoding 1,000 does.
    """
    held: list[Readings] = []
    for readings in chunks:
        held.append(readings)
        if sum(map(len, held)) >= at_least:
            yield _reading_slab(held, prefix, reading)
            held = []
    if held:
        yield _reading_slab(held, prefix, reading)


def _reading_slab(parts: list[Readings], prefix: str, reading: Schema) -> Slab:
    columns = {name: np.concatenate([getattr(one, name) for one in parts]) for name in Readings.__slots__}
    events = reading_events(Readings(**columns), prefix, reading)
    first_ms, last_ms = int(events.event_time_ms[0]), int(events.event_time_ms[-1])
    return Slab(streams=(events,), from_ms=first_ms, until_ms=last_ms + 1)


def first_events(slabs: Iterator[Slab], count: int) -> Iterator[Slab]:
    """Stop after so many events of the last stream of the slabs, in the middle of a slab if need be."""
    for slab in slabs:
        lead = slab.streams[-1]
        if len(lead) < count:
            count -= len(lead)
            yield slab
            continue
        last_ms = int(lead.event_time_ms[count - 1])
        companions = [
            part(events, slice(0, int(np.searchsorted(events.event_time_ms, last_ms, "right"))))
            for events in slab.streams[:-1]
        ]
        streams = (*companions, part(lead, slice(0, count)))
        yield Slab(streams=streams, from_ms=slab.from_ms, until_ms=last_ms + 1)
        return


def _cut(chunks: Iterator[Transactions], slab_s: int) -> Iterator[Transactions]:
    held: Transactions | None = None
    for chunk in chunks:
        if len(chunk) == 0:
            continue
        turn = chunk.event_time_s // slab_s
        bounds = [0, *(np.flatnonzero(np.diff(turn)) + 1).tolist(), len(chunk)]
        for low, high in itertools.pairwise(bounds):
            piece = rows(chunk, slice(low, high))
            if held is not None and held.event_time_s[0] // slab_s == turn[low]:
                held = _joined([held, piece])
                continue
            if held is not None:
                yield held
            held = piece
    if held is not None:
        yield held


def _due_labels(waiting: deque[Transactions], before_s: int) -> list[Transactions]:
    """Take what becomes known before a second from the front."""
    due: list[Transactions] = []
    while waiting and waiting[0].event_time_s[0] < before_s:
        oldest = waiting.popleft()
        at = int(np.searchsorted(oldest.event_time_s, before_s, "left"))
        due.append(rows(oldest, slice(0, at)))
        if at < len(oldest):
            waiting.appendleft(rows(oldest, slice(at, len(oldest))))
            break
    return due


def rows(transactions: Transactions, chosen: slice) -> Transactions:
    """Return some of the rows, without copying."""
    return Transactions(**{name: getattr(transactions, name)[chosen] for name in Transactions.__slots__})


def _joined(parts: list[Transactions]) -> Transactions:
    return Transactions(
        **{name: np.concatenate([getattr(one, name) for one in parts]) for name in Transactions.__slots__}
    )
