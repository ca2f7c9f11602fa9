"""Features of each event: of itself, of its entity's rows, of rows that other pipelines keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_cache.lanes import Lanes
from feature_cache.layout import NEVER_US
from feature_cache.order import FUTURE, LATE, apply_order, late_after_us
from feature_cache.recent import apply_windows
from feature_cache.rows import WrongLaneError
from feature_cache.sequences import apply_sequences
from worker.batch import Events, Features
from worker.by_lane import sum_up
from worker.config import CalendarFeature
from worker.decode import future_from_us
from worker.degradation import STALE_LOOKUP, WITHOUT_ROWS
from worker.lookups import Known, Lookup
from worker.metrics import Meter
from worker.plan import FeaturePlan
from worker.profiles import Profile
from worker.quality import judge
from worker.records import index_keys

_HOUR_US = 3_600_000_000


def calendar(event_us: NDArray[np.int64], feature: CalendarFeature) -> NDArray[np.int64 | np.bool_]:
    """(n,) whether the event time lies in the part of the week or day, or its number, in UTC."""
    if feature.number == "weekday" or feature.is_ == "weekend":
        weekday = (event_us // (24 * _HOUR_US) + 3) % 7  # day 0, 1970-01-01, was a Thursday; Monday is 0
        return weekday if feature.number is not None else np.asarray(weekday >= 5)
    hour = event_us // _HOUR_US % 24
    if feature.number is not None:
        return hour
    assert feature.hours is not None
    return np.asarray((hour >= feature.hours[0]) & (hour < feature.hours[1]))


def enrich(
    events: Events,
    plan: FeaturePlan,
    lanes: Lanes,
    lookups: tuple[Lookup | Profile | Known, ...],
    meter: Meter,
    may_wait: Callable[[], None] = lambda: None,
) -> Features:
    """Compute every feature as of each event's own time, and let the rows remember the events.

    Rows change in offset order; lookups are read first, so an error of a store leaves no trace and the
    same events can be enriched again.

    Args:
        may_wait: see Lookup.read.

    Raises:
        StoreUnavailableError, FencedError, RowsFullError, WrongLaneError: see Lanes.load.
    """
    n = len(events)
    scalars = np.zeros((n, len(plan.names)))
    (late, incomplete), degradation = np.zeros((2, n), np.bool_), np.zeros(n, np.uint8)
    lookup_age_ms = np.full(n, -1, np.int64)
    for lookup in lookups:
        found = lookup.read(events, may_wait)
        scalars[:, lookup.columns] = found.values
        incomplete |= found.incomplete
        degradation[found.is_stale] = STALE_LOOKUP
        lookup_age_ms = np.maximum(lookup_age_ms, found.age_ms)
    slots = np.full(n, -1, np.int64)
    if plan.keeps_rows:
        slots, loaded, new = _load(events, lanes)
        degradation[lanes.rows.is_guess[slots]] = WITHOUT_ROWS
        meter.rows(hits=n - loaded - new, loaded=loaded, new=new)
    order, quality = _order(events, plan, lanes, slots), None
    if plan.quality is not None:
        was_refused = order.refused.copy()
        events, quality = judge(
            events, plan.quality, lanes.rows, slots, order.clock_reset, order.refused, meter
        )
        # The event that sets a clock back begins its row anew: refused for its reading, it would not.
        order.refused[order.clock_reset] = was_refused[order.clock_reset]
    for column, field in plan.fields:
        scalars[:, column] = events.columns.numbers(field)
    for column, feature in plan.calendars:
        scalars[:, column] = calendar(events.event_us, feature)
    sequences = _remember(events, plan, lanes, slots, order, scalars, late, incomplete)
    if late.any():
        order.code[late & (order.code != FUTURE)] = LATE  # also what a row was too full for
    meter.times(order.code, order.clock_reset)
    if plan.keeps_rows:
        lanes.changed(slots)
    return Features(
        scalars=scalars,
        sequences=sequences,
        slots=slots,
        is_muted=_advance(events, lanes, order.code),
        late=late,
        time_order=order.code,
        refused=order.refused,
        clock_reset=order.clock_reset,
        incomplete=incomplete,
        degradation=degradation,
        lookup_age_ms=lookup_age_ms,
        quality=quality,
    )


def _load(events: Events, lanes: Lanes) -> tuple[NDArray[np.int64], int, int]:
    records = events.records
    try:
        return lanes.load(index_keys(records.keys), records.partition)
    except WrongLaneError as error:
        partition, offset = int(records.partition[error.row]), int(records.offset[error.row])
        place = f"{records.topic} partition {partition} offset {offset}"
        raise WrongLaneError(f"{place}: {error}", error.row) from error


@dataclass(frozen=True, slots=True, eq=False)
class _Order:
    """How (n,) events stand in their entities' time; see apply_order."""

    code: NDArray[np.uint8]
    refused: NDArray[np.bool_]
    clock_reset: NDArray[np.bool_]


def _order(events: Events, plan: FeaturePlan, lanes: Lanes, slots: NDArray[np.int64]) -> _Order:
    """Compare each event with its row's newest, and let the row note the newer one."""
    n, times, rows = len(events), plan.times, lanes.rows
    refused, clock_reset, is_ahead = np.zeros((3, n), np.bool_)
    found = _Order(np.zeros(n, np.uint8), refused, clock_reset)
    if times.max_future_us is not None:
        latest_us = future_from_us(events.records.produced_ms, times.max_future_us)
        is_ahead = (events.records.produced_ms >= 0) & (events.event_us > latest_us)
    if not plan.keeps_rows:
        if times.max_future_us is not None:
            found.code[is_ahead] = FUTURE
        return found
    apply_order(
        slots,
        events.event_us,
        is_ahead,
        rows.newest_us,
        rows.steps_back,
        late_after_us(plan.layout),
        times.clock_back_us,
        times.clock_back_events,
        np.array(times.refuses, np.bool_),
        found.code,
        found.refused,
        found.clock_reset,
    )
    return found


def _remember(
    events: Events,
    plan: FeaturePlan,
    lanes: Lanes,
    slots: NDArray[np.int64],
    order: _Order,
    scalars: NDArray[np.float64],
    late: NDArray[np.bool_],
    incomplete: NDArray[np.bool_],
) -> dict[str, NDArray[np.float32]]:
    """Fill the window columns, return the sequences, and update the rows."""
    if not (plan.windows or plan.sequences):
        return {}
    if order.refused.any():
        slots = np.where(order.refused, -1, slots)
    arrays = {group.spec.name: group for group in lanes.rows.groups}
    lane_forgotten_us = _lane_forgotten(events, lanes)
    for column, group, field in plan.windows:
        out = np.empty((len(events), len(group.columns)))
        x = events.columns.numbers(field)
        apply_windows(
            arrays[group.name],
            slots,
            events.event_us,
            x,
            order.clock_reset,
            lane_forgotten_us,
            out,
            late,
            incomplete,
        )
        scalars[:, column : column + out.shape[1]] = out
    sequences: dict[str, NDArray[np.float32]] = {}
    for sequence in plan.sequences:
        readings = np.empty((len(events), len(sequence.fields)), np.float32)
        for channel, field in enumerate(sequence.fields):
            readings[:, channel] = events.columns.numbers(field)
        out_f32 = np.empty((len(events), sequence.length, len(sequence.fields)), np.float32)
        apply_sequences(
            arrays[sequence.name],
            slots,
            events.event_us,
            readings,
            order.clock_reset,
            lane_forgotten_us,
            out_f32,
            late,
            incomplete,
        )
        sequences[sequence.name] = out_f32
    return sequences


def _lane_forgotten(events: Events, lanes: Lanes) -> NDArray[np.int64]:
    """(n,) the event time before which the event's lane knows nothing at all."""
    forgotten_us = np.full(_lanes_seen(events), NEVER_US, np.int64)
    for partition in events.next_offsets:
        lane, here = lanes[partition], events.records.partition == partition
        # A lane that starts blind learns with its first event since when it knows anything.
        is_blind = lane.starts_blind and here.any()
        forgotten_us[partition] = events.event_us[here][0] if is_blind else lane.forgotten_us
    return forgotten_us[events.records.partition]


def _lanes_seen(events: Events) -> int:
    """How long an array is that has a place for each partition of these events."""
    return max(events.next_offsets, default=0) + 1


def _advance(events: Events, lanes: Lanes, order: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Move the lanes' watermarks; (n,) which events already have their outcome.

    A time in the future says nothing of how far a lane has come: lookups that read it would never be stale.
    """
    records, is_muted = events.records, np.empty(len(events), np.bool_)
    mute_until, first_us, newest_us = np.zeros((3, _lanes_seen(events)), np.int64)
    for partition in events.next_offsets:
        mute_until[partition] = lanes[partition].mute_until
    sum_up(
        records.partition,
        records.offset,
        events.event_us,
        order,
        mute_until,
        is_muted,
        first_us,
        newest_us,
    )
    for partition, next_offset in events.next_offsets.items():
        # Another event of the newest time may follow: only what is before it is complete.
        complete_us = max(events.complete_us.get(partition, NEVER_US), int(newest_us[partition]) - 1)
        lanes.advance(partition, next_offset, complete_us, int(first_us[partition]))
    return is_muted
