"""How each event stands in its key's time: one compiled pass in offset order, before any is remembered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numba import njit

from feature_cache.layout import FOREVER_US, Layout, WindowGroup

ORDERS = ("IN_ORDER", "EQUAL", "OUT_OF_ORDER", "LATE", "FUTURE")
IN_ORDER, EQUAL, OUT_OF_ORDER, LATE, FUTURE = range(len(ORDERS))


@dataclass(frozen=True, slots=True, kw_only=True)
class TimePolicy:
    """What the pipeline file says of events that are not in order."""

    refuses: tuple[bool, ...] = (False,) * len(ORDERS)  # by order: such an event changes no state
    max_future_us: int | None = None  # further ahead of the record's timestamp is FUTURE
    clock_back_us: int = 0  # a step further back than this may be a clock that was reset
    clock_back_events: int = 0  # so many such events in a row are; 0: never


def late_after_us(layout: Layout) -> int:
    """How far behind its key's newest event one may be and still count in every window."""
    return min(
        (group.history_us for group in layout.groups if isinstance(group, WindowGroup)), default=FOREVER_US
    )


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def apply_order(
    slots: Any,
    event_us: Any,
    is_ahead: Any,
    newest_us: Any,
    steps_back: Any,
    late_us: int,
    clock_back_us: int,
    clock_back_events: int,
    refuses: Any,
    order: Any,
    refused: Any,
    clock_reset: Any,
) -> None:
    """Compare each event with the newest one remembered of its key, in offset order.

    Args:
        slots, event_us: (n,) int64.
        is_ahead: (n,) bool, too far ahead of the record's own timestamp.
        newest_us: (rows,) int64 event time of the newest event not refused; NEVER_US when there is none.
        steps_back: (rows,) uint8 how many events in a row were more than clock_back_us behind the newest.
        late_us: this far behind the newest, or further, is late.
        clock_back_us, clock_back_events: see TimePolicy.
        refuses: (5,) bool by order.
        order: (n,) uint8, filled.
        refused, clock_reset: (n,) bool, set where the event is to change nothing, and where the key's clock
            was set back: its row begins anew with this event.
    """
    for i in range(slots.shape[0]):
        s = slots[i]
        t = event_us[i]
        newest = newest_us[s]
        if t > newest:
            code = IN_ORDER
        elif t == newest:
            code = EQUAL
        elif t > newest - late_us:
            code = OUT_OF_ORDER
        else:
            code = LATE
        if clock_back_events > 0 and t < newest - clock_back_us:
            steps_back[s] += 1
            if steps_back[s] >= clock_back_events:
                steps_back[s] = 0
                newest_us[s] = t
                clock_reset[i] = True
                code = IN_ORDER
        else:
            steps_back[s] = 0
        if is_ahead[i]:
            code = FUTURE
        order[i] = code
        if refuses[code]:
            refused[i] = True
        elif t > newest_us[s]:
            newest_us[s] = t
