"""Readings judged before any feature sees them: flagged, masked by the last good one, or refused."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_cache.layout import SequenceGroup
from feature_cache.readings import KINDS, MASKED, NO_LIMIT, POLICIES, Limits, judge_readings
from feature_cache.rows import HotRows
from schemas.columns import Columns
from worker.batch import Events
from worker.metrics import Meter
from worker.watch_types import Reading


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class QualityPlan:
    """Which event fields are judged, by which limits, and what remembers the readings before."""

    fields: tuple[str, ...]  # (q,)
    sequence: str | None  # None: no check needs the readings before
    limits: Limits


def quality_plan(checks: dict[str, Reading], sequences: tuple[SequenceGroup, ...]) -> QualityPlan | None:
    """Lay out the section watch.quality; None where nothing is judged."""
    if not checks:
        return None
    group = remembers(checks, sequences)
    rows = list(checks.values())

    def column(values: list[float | None], otherwise: float) -> NDArray[np.float64]:
        return np.array([otherwise if value is None else value for value in values], np.float64)

    def whole(values: list[int | None]) -> NDArray[np.int64]:
        return np.array([NO_LIMIT if value is None else value for value in values], np.int64)

    known = group.fields if group is not None else ()
    return QualityPlan(
        fields=tuple(checks),
        sequence=group.name if group is not None else None,
        limits=Limits(
            channel=np.array([known.index(f) if f in known else -1 for f in checks], np.int64),
            low=column([row.min for row in rows], -np.inf),
            high=column([row.max for row in rows], np.inf),
            jump=column([row.max_jump for row in rows], np.inf),
            accept_after=np.array([row.accept_after for row in rows], np.int64),
            stuck=whole([row.stuck_events for row in rows]),
            flat_us=whole([row.flat_for_us for row in rows]),
            flat_within=np.array([row.flat_within for row in rows], np.float64),
            gap_us=whole([row.max_gap_us for row in rows]),
            policy=np.array([POLICIES.index(row.policy) for row in rows], np.int64),
        ),
    )


def remembers(checks: dict[str, Reading], sequences: tuple[SequenceGroup, ...]) -> SequenceGroup | None:
    """The first sequence that holds every field whose check needs the readings before; None without one."""
    wanted = {field for field, check in checks.items() if check.needs_history}
    return next((s for s in sequences if wanted <= set(s.fields)), None) if wanted else None


def judge(
    events: Events,
    plan: QualityPlan,
    rows: HotRows,
    slots: NDArray[np.int64],
    clock_reset: NDArray[np.bool_],
    refused: NDArray[np.bool_],
    meter: Meter,
) -> tuple[Events, NDArray[np.uint8]]:
    """The events as features may read them, and (n, q) flags of their readings.

    Args:
        events: in offset order.
        plan: see there.
        rows: where the sequence is kept.
        slots, clock_reset: (n,) of each event.
        refused: (n,) events that change nothing; those with a reading that is refused are added.
        meter: counts what is found.
    """
    x = np.empty((len(events), len(plan.fields)))
    for column, field in enumerate(plan.fields):
        x[:, column] = events.columns.numbers(field)
    group = next((g for g in rows.groups if g.spec.name == plan.sequence), None)
    flags = judge_readings(group, slots, events.event_us, x, clock_reset, refused, plan.limits)
    if flags.any():
        _count(flags, plan, meter)
        events = _masked(events, plan, x, flags)
    return events, flags


def _count(flags: NDArray[np.uint8], plan: QualityPlan, meter: Meter) -> None:
    for bit, kind in enumerate(KINDS):
        for field, count in zip(plan.fields, (flags >> bit & 1).sum(axis=0).tolist(), strict=True):
            if count:
                meter.bad_readings(field, kind, count)


def _masked(events: Events, plan: QualityPlan, x: NDArray[np.float64], flags: NDArray[np.uint8]) -> Events:
    table = events.table
    for column in np.flatnonzero((flags & MASKED).any(axis=0)).tolist():
        at = table.schema.get_field_index(plan.fields[column])
        field = table.schema.field(at)
        table = table.set_column(at, field, pa.array(x[:, column]).cast(field.type, safe=False))
    return replace(events, columns=Columns(table))


def are_masked(flags: NDArray[np.uint8] | None, n: int) -> NDArray[np.bool_]:
    """(n,) which events have a reading that something stands in for."""
    if flags is None:
        return np.zeros(n, np.bool_)
    return np.asarray((flags & MASKED).any(axis=1))
