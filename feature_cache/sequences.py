"""The last readings of an entity as of each event: one compiled pass in offset order."""

from __future__ import annotations

from typing import Any

from numba import njit

from feature_cache.windows import _after, forget_all, remember


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def apply_sequences(
    slots: Any,
    event_us: Any,
    x: Any,
    clock_reset: Any,
    times: Any,
    values: Any,
    length: Any,
    forgotten: Any,
    lane_forgotten_us: Any,
    history_us: int,
    out: Any,
    late: Any,
    incomplete: Any,
) -> None:
    """Give each event its last readings, itself last, then remember it; in offset order.

    Args:
        slots, event_us: (n,) int64; a slot of -1: the event gets zeros and is not remembered.
        x: (n, channels) float32 readings.
        clock_reset: (n,) bool, see `apply_order`: the row forgets everything before the event.
        times, values: (rows, capacity) int64 and (rows, capacity, channels) float32, sorted by time.
        length, forgotten: (rows,) int64; see `remember`.
        lane_forgotten_us: (n,) int64; the lane may lack readings at or before this time.
        out: (n, L, channels) float32, filled, oldest first; a history shorter than L is padded in front
            with its oldest reading.
        late, incomplete: (n,) bool, set where the event came too late to be kept, or where fewer than L
            readings are known, or where others may belong between them.
    """
    steps = out.shape[1]
    for i in range(slots.shape[0]):
        s = slots[i]
        t = event_us[i]
        if s < 0:
            out[i] = 0.0
            continue
        if clock_reset[i]:
            forget_all(length, forgotten, s, t)
        p = _after(times[s], length[s], t)
        known = min(p, steps - 1)
        pad = steps - 1 - known
        for j in range(known):
            out[i, pad + j] = values[s, p - known + j]
        out[i, steps - 1] = x[i]
        for j in range(pad):
            out[i, j] = out[i, pad]
        if pad > 0 or (known > 0 and times[s, p - known] <= lane_forgotten_us[i]):
            incomplete[i] = True
        if remember(times, values, length, forgotten, s, t, x[i], history_us) == 2:
            late[i] = True
