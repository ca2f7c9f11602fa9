"""Events at a time, or with a reading, that the file does not take leave as dead letters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from feature_cache.order import ORDERS
from feature_cache.readings import REFUSED
from worker.batch import Batch, Rejected, take


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """Reason and detail of a dead letter."""

    reason: str
    detail: str


BAD_READING = Why(reason="bad_reading", detail="a reading that watch.quality refuses")
_WHY = {
    "EQUAL": Why(reason="equal_event_time", detail="the event time is that of its key's newest event"),
    "OUT_OF_ORDER": Why(
        reason="out_of_order_event", detail="the event time is before that of its key's newest event"
    ),
    "LATE": Why(reason="late_event", detail="the event is older than what its key's windows remember"),
}


def set_refused_apart(batch: Batch) -> tuple[Batch, list[Rejected]]:
    """The batch without the events that `enrich` has refused, and these as dead letters."""
    features, events = batch.features, batch.events
    if not features.refused.any():
        return batch, []
    rejected = []
    is_bad = np.zeros(len(events), np.bool_)
    if features.quality is not None:
        is_bad = np.asarray((features.quality & REFUSED).any(axis=1))
    for row in np.flatnonzero(features.refused).tolist():
        if is_bad[row]:
            rejected.append(
                Rejected(
                    record=events.records[row],
                    stage="validate",
                    reason=BAD_READING.reason,
                    detail=BAD_READING.detail,
                )
            )
            continue
        order = ORDERS[features.time_order[row]]
        rejected.append(
            Rejected(
                record=events.records[row],
                stage="state",
                reason=_WHY[order].reason,
                detail=f"{_WHY[order].detail}; see source.time.{order.lower()}",
            )
        )
    return take(batch, np.flatnonzero(~features.refused)), rejected
