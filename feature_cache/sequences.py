"""The last readings of an entity as of each event: one compiled pass in offset order."""

from __future__ import annotations

from typing import Any

from numba import njit

from feature_cache.windows import _after, remember


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def apply_sequences(
    slots: Any,
    event_us: Any,
    x: Any,
    times: Any,
    values: Any,
    length: Any,
    forgotten: Any,
    history_us: int,
    out: Any,
    late: Any,
    incomplete: Any,
) -> None:
    """Give each event its last readings, itself last, then remember it; in offset order.

    Args:
        slots, event_us: (n,) int64.
        x: (n, channels) float32 readings.
        times, values: (rows, capacity) int64 and (rows, capacity, channels) float32, sorted by time.
        length, forgotten: (rows,) int64; see `remember`.
        out: (n, L, channels) float32, filled, oldest first; a history shorter than L is padded in front
            with its oldest reading.
        late, incomplete: (n,) bool, set where the event came too late to be kept, or where fewer than L
            readings are known.
    """
    steps = out.shape[1]
    for i in range(slots.shape[0]):
        s = slots[i]
        t = event_us[i]
        p = _after(times[s], length[s], t)
        known = min(p, steps - 1)
        pad = steps - 1 - known
        for j in range(known):
            out[i, pad + j] = values[s, p - known + j]
        out[i, steps - 1] = x[i]
        for j in range(pad):
            out[i, j] = out[i, pad]
        if pad > 0:
            incomplete[i] = True
        if remember(times, values, length, forgotten, s, t, x[i], history_us) == 2:
            late[i] = True
