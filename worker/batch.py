"""The columns that travel the line: decoded events, and their features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.columns import Columns, joined_columns
from worker.records import Record, Records, joined_records
from worker.trace_batch import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """One record that becomes a dead letter."""

    record: Record
    stage: str  # decode | validate | state | score
    reason: str  # a snake_case code, one of docs/dead-letters.md
    detail: str  # what was found, what was expected


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Events:
    """Decoded events in offset order by partition, and the next offset of everything polled with them."""

    columns: Columns  # (n,) of the reader's schema
    records: Records  # (n,) that they were decoded from; the key of each is its entity
    event_us: NDArray[np.int64]  # (n,) event time
    next_offsets: dict[int, int]  # partition to the offset to read next; rejected records count too
    complete_us: dict[int, int]  # partition to the event time that a time marker declared complete

    def __len__(self) -> int:
        return len(self.records)

    @property
    def table(self) -> pa.RecordBatch:
        """The columns for Arrow."""
        return self.columns.batch


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Features:
    """What the model may read about each event, and how far it can be trusted."""

    scalars: NDArray[np.float64]  # (n, f) columns in the order of FeaturePlan.names
    sequences: dict[str, NDArray[np.float32]]  # name to (n, length, channels), oldest first
    slots: NDArray[np.int64]  # (n,) row of each event's entity; -1 where the pipeline keeps none
    is_muted: NDArray[np.bool_]  # (n,) the outcome is already published: state only
    late: NDArray[np.bool_]  # (n,) too late to count in later windows
    time_order: NDArray[np.uint8]  # (n,) feature_cache.order: how the event stands in its entity's time
    refused: NDArray[np.bool_]  # (n,) its time is one that the file does not take: no row has changed
    clock_reset: NDArray[np.bool_]  # (n,) the entity's clock was set back, its row begins anew here
    incomplete: NDArray[np.bool_]  # (n,) some window reaches back over something forgotten
    degradation: NDArray[np.uint8]  # (n,) worst step of worker.degradation that the features stand on
    lookup_age_ms: NDArray[np.int64]  # (n,) how far behind the oldest lookup was; -1 without lookups
    quality: NDArray[np.uint8] | None = (
        None  # (n, q) flags of feature_cache.readings; None: nothing is judged
    )


Ends = tuple[NDArray[np.float32], NDArray[np.float32]]  # (n,) low and (n,) high


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Batch:
    """Events that go through the model together."""

    events: Events
    features: Features
    version: Any = ""  # of the model that scored: text for all events, or (n,) pyarrow strings
    ends: Ends | None = None  # of the interval around each score; NaN where there is none
    trace: Trace | None = None  # None: the batch is not traced

    def __len__(self) -> int:
        return len(self.events)


def is_of(batch: Batch, version: str) -> NDArray[np.bool_]:
    """(n,) whether this version of the model scored the event."""
    if isinstance(batch.version, str):
        return np.full(len(batch), batch.version == version)
    return np.asarray(pc.equal(batch.version, version).to_numpy(zero_copy_only=False))


def join(parts: list[Batch]) -> Batch:
    """One batch of several, in order; later next offsets win."""
    if len(parts) == 1:
        return parts[0]
    events = [part.events for part in parts]
    features = [part.features for part in parts]
    next_offsets: dict[int, int] = {}
    complete_us: dict[int, int] = {}
    for part in events:
        next_offsets.update(part.next_offsets)
        complete_us.update(part.complete_us)

    def flat(columns: list[Any]) -> Any:
        return np.concatenate(columns)

    return Batch(
        events=Events(
            columns=joined_columns([e.columns for e in events]),
            records=joined_records([e.records for e in events]),
            event_us=flat([e.event_us for e in events]),
            next_offsets=next_offsets,
            complete_us=complete_us,
        ),
        features=Features(
            scalars=flat([f.scalars for f in features]),
            sequences={name: flat([f.sequences[name] for f in features]) for name in features[0].sequences},
            slots=flat([f.slots for f in features]),
            is_muted=flat([f.is_muted for f in features]),
            late=flat([f.late for f in features]),
            time_order=flat([f.time_order for f in features]),
            refused=flat([f.refused for f in features]),
            clock_reset=flat([f.clock_reset for f in features]),
            incomplete=flat([f.incomplete for f in features]),
            degradation=flat([f.degradation for f in features]),
            lookup_age_ms=flat([f.lookup_age_ms for f in features]),
            quality=None if features[0].quality is None else flat([f.quality for f in features]),
        ),
    )


def take(batch: Batch, rows: NDArray[np.int64]) -> Batch:
    """These rows of a batch, ascending; its next offsets stay."""
    events, features = batch.events, batch.features
    columns: dict[str, Any] = {
        name: None if (column := getattr(features, name)) is None else column[rows]
        for name in Features.__dataclass_fields__
        if name != "sequences"
    }
    return Batch(
        events=Events(
            columns=events.columns.take(rows),
            records=events.records.take(rows),
            event_us=events.event_us[rows],
            next_offsets=events.next_offsets,
            complete_us=events.complete_us,
        ),
        features=Features(
            **columns, sequences={name: values[rows] for name, values in features.sequences.items()}
        ),
    )
