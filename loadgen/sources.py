"""What can be sent: simulated and stored streams, each with its pace."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

from loadgen.arrivals import Arrivals
from loadgen.events import Names, numbered_names
from loadgen.pace import Pace, by_arrivals, by_event_time
from loadgen.replay import dataset_of, stored_readings, stored_transactions
from loadgen.slabs import Slab, fraud_slabs, reading_slabs
from loadgen.transactions import DAY_S, Transactions, World, days
from loadgen.turbofan import Fleet, cycles
from schemas.schema import load_schema

Pipeline = Literal["fraud", "maintenance"]
LABEL_DELAY_S = 7 * DAY_S
_SIMULATED_SLAB_S = 7_200
_SIMULATED_MARK_MS = 1_800_000
_REPLAY_MARK_MS = 300_000
_STORED_IDS = 1 << 15  # the datasets number their entities in 16 bits


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """A stream that one pipeline scores, with its labels if it has any."""

    pipeline: Pipeline
    slabs: Iterator[Slab]
    pace: Pace
    mark_every_ms: int | None  # distance of the label topic's time markers in event time


def simulated_fraud(
    arrivals: Arrivals, *, world: World | None = None, label_delay_s: int = LABEL_DELAY_S, labels: bool = True
) -> Source:
    """Simulated card transactions, paced by an arrival process; their labels ride along in event time."""
    world = world or World()
    return Source(
        pipeline="fraud",
        slabs=_fraud(
            days(world),
            numbered_names("C", world.customers),
            numbered_names("T", world.terminals),
            label_delay_s,
            _SIMULATED_SLAB_S,
            labels=labels,
            all_labels=False,
        ),
        pace=by_arrivals(arrivals),
        mark_every_ms=_SIMULATED_MARK_MS if labels else None,
    )


def simulated_maintenance(arrivals: Arrivals, *, fleet: Fleet | None = None) -> Source:
    """Simulated readings of a fleet of engines, paced by an arrival process."""
    return Source(
        pipeline="maintenance",
        slabs=reading_slabs(cycles(fleet or Fleet()), prefix="M", reading=load_schema("sensor_reading")),
        pace=by_arrivals(arrivals),
        mark_every_ms=None,
    )


def stored(
    path: Path,
    *,
    from_date: date | None = None,
    until_date: date | None = None,
    speed: float = 0.0,
    max_per_s: float | None = None,
    label_delay_s: int = LABEL_DELAY_S,
    labels: bool = True,
    all_labels: bool = False,
    mark_every_ms: int = _REPLAY_MARK_MS,
    slab_s: int = DAY_S,
    truth_path: Path | None = None,
) -> Source:
    """A stored dataset in event time; which one is told by its columns.

    Args:
        path: Parquet: the handbook's transactions, or C-MAPSS readings.
        from_date, until_date: transactions only: first day, and the day after the last.
        speed: seconds of event time a second; 0 as fast as possible.
        max_per_s: events a second over all topics together.
        label_delay_s: from a transaction to its label.
        labels: send labels at all.
        all_labels: send those too that become known after the last transaction.
        mark_every_ms: distance of the label topic's time markers.
        slab_s: event time in one chunk; transactions only.
        truth_path: remaining cycles after the last reading of each engine; C-MAPSS only.

    Raises:
        ReplayError: the file is something else, or has nothing in these days.
    """
    pace = by_event_time(speed, max_per_s=max_per_s)
    if dataset_of(path) == "cmapss":
        readings = stored_readings(path, truth_path=truth_path)
        slabs = reading_slabs(readings, prefix=f"{path.stem}-", reading=load_schema("sensor_reading"))
        return Source(pipeline="maintenance", slabs=slabs, pace=pace, mark_every_ms=None)
    names = numbered_names("", _STORED_IDS)
    chunks = stored_transactions(path, from_date=from_date, until_date=until_date)
    return Source(
        pipeline="fraud",
        slabs=_fraud(chunks, names, names, label_delay_s, slab_s, labels=labels, all_labels=all_labels),
        pace=pace,
        mark_every_ms=mark_every_ms if labels else None,
    )


def _fraud(
    chunks: Iterator[Transactions],
    customers: Names,
    terminals: Names,
    label_delay_s: int,
    slab_s: int,
    *,
    labels: bool,
    all_labels: bool,
) -> Iterator[Slab]:
    return fraud_slabs(
        chunks,
        customers=customers,
        terminals=terminals,
        transaction=load_schema("transaction"),
        label=load_schema("label"),
        label_delay_s=label_delay_s if labels else None,
        slab_s=slab_s,
        all_labels=labels and all_labels,
    )
