"""Due times of a slab's events: by an arrival process, or by their own event time."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from loadgen.arrivals import Arrivals, capped
from loadgen.slabs import Slab

# Due times of each stream of the slab, (n,) seconds since the start, ascending. Called once a slab, in order.
Pace = Callable[[Slab], tuple[NDArray[np.float64], ...]]


def by_arrivals(arrivals: Arrivals) -> Pace:
    """Pace the last stream of each slab by the process; earlier streams ride along in event-time order."""
    last_s = 0.0

    def pace(slab: Slab) -> tuple[NDArray[np.float64], ...]:
        nonlocal last_s
        lead = slab.streams[-1]
        due_s = arrivals.take(len(lead))
        ends_s = float(due_s[-1]) if len(due_s) else last_s
        # A companion goes with the first event that is not earlier, or else with the last one.
        after = np.append(due_s, ends_s)
        riding = [
            after[np.searchsorted(lead.event_time_ms, events.event_time_ms, "left")]
            for events in slab.streams[:-1]
        ]
        last_s = ends_s
        return (*riding, due_s)

    return pace


def by_event_time(speed: float, *, max_per_s: float | None = None) -> Pace:
    """Pace events by their own time.

    Args:
        speed: seconds of event time in one second; 0 sends everything at once.
        max_per_s: events a second over all streams together.
    """
    start_ms: int | None = None
    free_s = 0.0

    def pace(slab: Slab) -> tuple[NDArray[np.float64], ...]:
        nonlocal start_ms, free_s
        if start_ms is None:
            start_ms = slab.from_ms
        times_ms = np.concatenate([events.event_time_ms for events in slab.streams])
        due_s = np.maximum(times_ms - start_ms, 0) / (1000 * speed) if speed > 0 else np.zeros(len(times_ms))
        if max_per_s is not None and len(due_s):
            order = np.argsort(times_ms, kind="stable")
            slotted = capped(due_s[order], max_per_s, free_s)
            due_s[order] = slotted
            free_s = float(slotted[-1]) + 1 / max_per_s
        return tuple(np.split(due_s, np.cumsum([len(events) for events in slab.streams])[:-1]))

    return pace
