"""The remembered events of a row: aggregated over trailing windows, or handed out as they are.

What shares `remember` shares this file: numba keeps compiled code by the date of a kernel's own file, and
would go on with an older `remember` in one that imports it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from feature_cache.layout import AGGREGATES

# Position of each aggregate's flag in `wanted`.
_COUNT, _SUM, _MEAN, _MIN, _MAX, _STD, _LAST, _SINCE, _DISTINCT = range(len(AGGREGATES))

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def aggregate_codes(aggregates: tuple[str, ...]) -> NDArray[np.int64]:
    """The aggregates as the numbers that the kernels take, in the order asked for."""
    return np.array([AGGREGATES.index(name) for name in aggregates], np.int64)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _after(times: Any, length: int, t: int) -> int:
    """Index after the last remembered event with time <= t: ties keep offset order."""
    p = length
    while p > 0 and times[p - 1] > t:
        p -= 1
    return p


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def forget_all(length: Any, forgotten: Any, slot: int, t: int) -> None:
    """Begin a row anew at t: times before it are of a clock that has been set back since."""
    length[slot] = 0
    forgotten[slot] = t - 1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def remember(
    times: Any, values: Any, length: Any, forgotten: Any, slot: int, t: int, x: Any, history_us: int
) -> int:
    """Insert one event into a row in time order; 0 held, 1 held and another one forgotten for it, 2 too late.

    Invariant: every held event is at or after `forgotten`, the newest time ever dropped or refused.
    So a question about (a, b] is answered exactly when forgotten <= a.
    """
    n = length[slot]
    capacity = times.shape[1]
    newest = t if n == 0 or t > times[slot, n - 1] else times[slot, n - 1]
    edge = newest - history_us
    # At the time of one that was dropped is not too late: it comes after that one, as ties keep offset order.
    if t < forgotten[slot] or t <= edge:
        forgotten[slot] = max(forgotten[slot], t)
        return 2
    drop = 0
    while drop < n and times[slot, drop] <= edge:
        drop += 1
    status = 0
    if n - drop == capacity:  # full of events that still matter: the oldest one goes
        status = 1
        if t < times[slot, drop]:
            forgotten[slot] = max(forgotten[slot], t)
            return 2
        drop += 1
    if drop > 0:
        forgotten[slot] = max(forgotten[slot], times[slot, drop - 1])
        n -= drop
        for j in range(n):
            times[slot, j] = times[slot, j + drop]
            values[slot, j] = values[slot, j + drop]
    p = _after(times[slot], n, t)
    for j in range(n, p, -1):
        times[slot, j] = times[slot, j - 1]
        values[slot, j] = values[slot, j - 1]
    times[slot, p] = t
    values[slot, p] = x
    length[slot] = n + 1
    return status


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _aggregate(  # noqa: PLR0912 one pass over the row serves every aggregate
    times: Any,
    values: Any,
    length: int,
    t: int,
    has_current: bool,
    x: float,
    windows_us: Any,
    codes: Any,
    out: Any,
) -> None:
    """Fill out with every window's aggregates as of t, newest event first, so windows nest in one pass."""
    p = _after(times, length, t)
    edge = p  # values[edge:p] are inside the window so far
    count = 1 if has_current else 0
    total = x if has_current else 0.0
    low = x if has_current else np.inf
    high = x if has_current else -np.inf
    k = 0
    for w in range(windows_us.shape[0]):
        since = t - windows_us[w]
        while edge > 0 and times[edge - 1] > since:
            edge -= 1
            v = values[edge]
            total += v
            low = min(low, v)
            high = max(high, v)
            count += 1
        for c in range(codes.shape[0]):
            code = codes[c]
            r = 0.0  # an empty window is 0 whatever is asked of it
            if code == _COUNT:
                r = float(count)
            elif code == _SUM:
                r = total
            elif code == _MEAN:
                r = total / count if count > 0 else 0.0
            elif code == _MIN:
                r = low if count > 0 else 0.0
            elif code == _MAX:
                r = high if count > 0 else 0.0
            elif code == _STD:
                if count > 0:
                    mean = total / count
                    square = (x - mean) ** 2 if has_current else 0.0
                    for j in range(edge, p):
                        square += (values[j] - mean) ** 2
                    r = np.sqrt(square / count)
            elif code == _LAST:
                r = values[p - 1] if p > edge else 0.0
            elif code == _SINCE:
                r = (t - times[p - 1]) / 1e6 if p > edge else windows_us[w] / 1e6
            elif code == _DISTINCT:
                seen = np.sort(values[edge:p])
                for j in range(seen.shape[0]):
                    if j == 0 or seen[j] != seen[j - 1]:
                        r += 1.0
                if has_current and not np.any(seen == x):
                    r += 1.0
            out[k] = r
            k += 1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def apply_windows(
    slots: Any,
    event_us: Any,
    x: Any,
    clock_reset: Any,
    times: Any,
    values: Any,
    length: Any,
    forgotten: Any,
    lane_forgotten_us: Any,
    windows_us: Any,
    codes: Any,
    history_us: int,
    out: Any,
    late: Any,
    incomplete: Any,
) -> int:
    """Give each event its windows (t - w, t], itself included, then remember it; in offset order.

    Args:
        slots: (n,) int64 row of each event; -1: the event gets zeros and is not remembered.
        event_us: (n,) int64 event time.
        x: (n,) float64 the value aggregated.
        clock_reset: (n,) bool, see `apply_order`: the row forgets everything before the event.
        times, values: (rows, capacity) int64, float64; sorted by time, ties in offset order.
        length, forgotten: (rows,) int64; see `remember`.
        lane_forgotten_us: (n,) int64; the lane knows nothing at or before this time.
        windows_us: (w,) int64 ascending.
        codes: (a,) int64 from `aggregate_codes`.
        out: (n, w * a) float64, filled. std is of the population; last and since_last look at the event
            before this one (since_last in seconds, the window's length when there is none).
        late, incomplete: (n,) bool, set where the event came too late to count, or where its windows
            reach back over something forgotten.

    Returns:
        How many events were forgotten because a row was full.
    """
    overflow = 0
    for i in range(slots.shape[0]):
        s = slots[i]
        t = event_us[i]
        if s < 0:
            out[i] = 0.0
            continue
        if clock_reset[i]:
            forget_all(length, forgotten, s, t)
        _aggregate(times[s], values[s], length[s], t, True, x[i], windows_us, codes, out[i])
        if max(forgotten[s], lane_forgotten_us[i]) > t - windows_us[-1]:
            incomplete[i] = True
        status = remember(times, values, length, forgotten, s, t, x[i], history_us)
        if status == 2:
            late[i] = True
        elif status == 1:
            overflow += 1
    return overflow


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def read_windows(
    slots: Any,
    event_us: Any,
    times: Any,
    values: Any,
    length: Any,
    forgotten: Any,
    lane_forgotten_us: Any,
    windows_us: Any,
    codes: Any,
    out: Any,
    incomplete: Any,
) -> None:
    """The windows (t - w, t] of somebody else's rows as of t, nothing newer, nothing remembered.

    Shapes as in `apply_windows`; a slot of -1 is an entity without a row: every aggregate is 0.
    """
    for i in range(slots.shape[0]):
        s = slots[i]
        t = event_us[i]
        known_us = lane_forgotten_us[i]
        if s >= 0:
            _aggregate(times[s], values[s], length[s], t, False, 0.0, windows_us, codes, out[i])
            known_us = max(known_us, forgotten[s])
        else:
            out[i] = 0.0
        if known_us > t - windows_us[-1]:
            incomplete[i] = True


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
