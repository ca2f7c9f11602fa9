"""The remembered events of a row: aggregated over trailing windows, or handed out as they are or resampled.

What shares `_remember` shares this file: numba keeps compiled code by the date of a kernel's own file, and
would go on with an older `_remember` in one that imports it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from feature_cache.layout import AGGREGATES, FILLS, NEVER_US, asked
from feature_cache.prefetch import AHEAD, prefetch
from feature_cache.stretches import GroupArrays, make_room

# Position of each aggregate's flag in `wanted`.
_COUNT, _SUM, _MEAN, _MIN, _MAX, _STD, _LAST, _SINCE, _DISTINCT = range(len(AGGREGATES))

_LAST_KNOWN, LINEAR, MEAN = range(len(FILLS))


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _after(times: Any, length: int, t: int) -> int:
    """Index after the last remembered event with time <= t: ties keep offset order."""
    p = length
    while p > 0 and times[p - 1] > t:
        p -= 1
    return p


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _look_ahead(slots: Any, i: int, held: Any, times: Any, values: Any) -> None:
    """Ask for where a later event's row is, and for what the row of one before that remembers newest."""
    last = slots.shape[0] - 1
    prefetch(held, slots[min(i + 2 * AHEAD, last)])
    row = held[max(slots[min(i + AHEAD, last)], 0)]
    newest = row.start + row.begin + row.length - 1
    for back in range(0, 16, 8):  # what fills a line of memory, and the one before
        prefetch(times, newest - back)
        prefetch(values, newest - back)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _forget_all(held: Any, slot: int, t: int) -> None:
    """Begin a row anew at t: times before it are of a clock that has been set back since."""
    held[slot].length = 0
    held[slot].begin = 0
    held[slot].forgotten = t - 1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _remember(times: Any, values: Any, row: Any, t: int, x: Any, capacity: int, history_us: int) -> int:
    """Insert one event into a row in time order; 0 held, 1 held and another one forgotten for it, 2 too late.

    Invariant: every held event is at or after `forgotten`, the newest time ever dropped or refused.
    So a question about (a, b] is answered exactly when forgotten <= a.
    """
    n = row.length
    first = row.start + row.begin
    newest = t if n == 0 else max(t, times[first + n - 1])
    edge = newest - history_us
    # At the time of one that was dropped is not too late: it comes after that one, as ties keep offset order.
    if t < row.forgotten or t <= edge:
        row.forgotten = max(row.forgotten, t)
        return 2
    drop = 0
    while drop < n and times[first + drop] <= edge:
        drop += 1
    status = 0
    if n - drop == capacity:  # full of events that still matter: the oldest one goes
        status = 1
        if t < times[first + drop]:
            row.forgotten = max(row.forgotten, t)
            return 2
        drop += 1
    if drop > 0:
        row.forgotten = max(row.forgotten, times[first + drop - 1])
        n -= drop
        first += drop
    if first + n == row.start + row.room:  # at the end of the stretch: on from its front
        for j in range(n):
            times[row.start + j] = times[first + j]
            values[row.start + j] = values[first + j]
        first = row.start
    p = first + n
    while p > first and times[p - 1] > t:
        times[p] = times[p - 1]
        values[p] = values[p - 1]
        p -= 1
    times[p] = t
    values[p] = x
    row.begin = first - row.start
    row.length = n + 1
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
def _apply_windows(
    slots: Any,
    event_us: Any,
    x: Any,
    clock_reset: Any,
    times: Any,
    values: Any,
    held: Any,
    capacity: int,
    lane_forgotten_us: Any,
    windows_us: Any,
    codes: Any,
    history_us: int,
    out: Any,
    late: Any,
    incomplete: Any,
) -> int:
    overflow = 0
    for i in range(slots.shape[0]):
        _look_ahead(slots, i, held, times, values)
        s, t = slots[i], event_us[i]
        if s < 0:
            out[i] = 0.0
            continue
        if clock_reset[i]:
            _forget_all(held, s, t)
        row = held[s]
        first = row.start + row.begin
        last = first + row.length
        part_us, part = times[first:last], values[first:last]
        _aggregate(part_us, part, row.length, t, True, x[i], windows_us, codes, out[i])
        if max(row.forgotten, lane_forgotten_us[i]) > t - windows_us[-1]:
            incomplete[i] = True
        status = _remember(times, values, row, t, x[i], capacity, history_us)
        late[i] = late[i] or status == 2
        overflow += status == 1
    return overflow


def apply_windows(
    group: GroupArrays,
    slots: NDArray[np.int64],
    event_us: NDArray[np.int64],
    x: NDArray[np.float64],
    clock_reset: NDArray[np.bool_],
    lane_forgotten_us: NDArray[np.int64],
    out: NDArray[np.float64],
    late: NDArray[np.bool_],
    incomplete: NDArray[np.bool_],
) -> int:
    """Give each event its windows (t - w, t], itself included, then remember it; in offset order.

    Args:
        group: of a WindowGroup with w windows and a aggregates.
        slots: (n,) int64 row of each event; -1: the event gets zeros and is not remembered.
        event_us: (n,) int64 event time.
        x: (n,) float64 the value aggregated.
        clock_reset: (n,) bool, see `apply_order`: the row forgets everything before the event.
        lane_forgotten_us: (n,) int64; the lane knows nothing at or before this time.
        out: (n, w * a) float64, filled. std is of the population; last and since_last look at the event
            before this one (since_last in seconds, the window's length when there is none).
        late, incomplete: (n,) bool, set where the event came too late to count, or where its windows
            reach back over something forgotten.

    Returns:
        How many events were forgotten because a row was full.
    """
    make_room(group, slots)
    overflow: int = _apply_windows(
        slots,
        event_us,
        x,
        clock_reset,
        group.times,
        group.values.reshape(-1),
        group.held,
        group.spec.capacity,
        lane_forgotten_us,
        *asked(group.spec),
        group.spec.history_us,
        out,
        late,
        incomplete,
    )
    return overflow


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _read_windows(
    slots: Any,
    event_us: Any,
    times: Any,
    values: Any,
    held: Any,
    lane_forgotten_us: Any,
    windows_us: Any,
    codes: Any,
    out: Any,
    incomplete: Any,
) -> None:
    for i in range(slots.shape[0]):
        _look_ahead(slots, i, held, times, values)
        s, t = slots[i], event_us[i]
        known_us = lane_forgotten_us[i]
        if s >= 0:
            row = held[s]
            first = row.start + row.begin
            last = first + row.length
            part_us, part = times[first:last], values[first:last]
            _aggregate(part_us, part, row.length, t, False, 0.0, windows_us, codes, out[i])
            known_us = max(known_us, row.forgotten)
        else:
            out[i] = 0.0
        if known_us > t - windows_us[-1]:
            incomplete[i] = True


def read_windows(
    group: GroupArrays,
    slots: NDArray[np.int64],
    event_us: NDArray[np.int64],
    lane_forgotten_us: NDArray[np.int64],
    out: NDArray[np.float64],
    incomplete: NDArray[np.bool_],
) -> None:
    """The windows (t - w, t] of somebody else's rows as of t, nothing newer, nothing remembered.

    Shapes as in `apply_windows`; a slot of -1 is an entity without a row: every aggregate is 0.
    """
    _read_windows(
        slots,
        event_us,
        group.times,
        group.values.reshape(-1),
        group.held,
        lane_forgotten_us,
        *asked(group.spec),
        out,
        incomplete,
    )


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _resample(
    times: Any, values: Any, count: int, t: int, x: Any, every_us: int, how: int, out: Any
) -> tuple[int, int, bool]:
    """Fill out with the readings (times, values)[:count] and (t, x) at t, t - every, ..., newest last.

    Returns how many points the readings reach back to; since when readings are relied on; and whether on all
    of them, or only on those that are held being the newest.
    """
    steps, channels = out.shape
    k = count  # the newest reading at or before the point; `count` is the event itself
    known, since, is_all, total = 0, t + 1, False, np.empty(channels)
    for j in range(steps - 1, -1, -1):
        at = t - (steps - 1 - j) * every_us
        while k >= 0 and (t if k == count else times[k]) > at:
            k -= 1
        if k < 0:
            break
        known += 1
        v = after = x if k == count else values[k]
        weight, until = 0.0, k  # values[until + 1 : k + 1] are in the step that ends here
        if how == LINEAR and k < count and times[k] < at:
            after = x if k + 1 == count else values[k + 1]
            weight = (at - times[k]) / ((t if k + 1 == count else times[k + 1]) - times[k])
        while how == MEAN and until >= 0 and (t if until == count else times[until]) > at - every_us:
            until -= 1
        is_all = until < k
        for c in range(channels):
            total[c] = v[c] + (after[c] - np.float64(v[c])) * weight
        for m in range(until + 1, k):
            for c in range(channels):
                total[c] += values[m, c]
        for c in range(channels):
            out[j, c] = total[c] / max(k - until, 1)
        since = at - every_us + 1 if is_all else (times[k] if k < count else t + 1)
    return known, since, is_all


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def apply_sequences_kernel(
    slots: Any,
    event_us: Any,
    x: Any,
    clock_reset: Any,
    times: Any,
    values: Any,
    held: Any,
    capacity: int,
    lane_forgotten_us: Any,
    history_us: int,
    every_us: int,
    how: int,
    padding: float,
    complete_from: int,
    out: Any,
    late: Any,
    incomplete: Any,
) -> None:
    """See sequences.apply_sequences; every_us 0: the readings as they are, padding inf: the oldest one."""
    steps = out.shape[1]
    for i in range(slots.shape[0]):
        _look_ahead(slots, i, held, times, values)
        s, t = slots[i], event_us[i]
        if s < 0:
            out[i] = 0.0
            continue
        if clock_reset[i]:
            _forget_all(held, s, t)
        row = held[s]
        first = row.start + row.begin
        p = _after(times[first : first + row.length], row.length, t)
        if every_us > 0:
            part_us, part = times[first : first + p], values[first : first + p]
            known, since, is_all = _resample(part_us, part, p, t, x[i], every_us, how, out[i])
        else:
            known = min(p, steps - 1) + 1
            oldest = first + p - known + 1
            out[i, steps - known : steps - 1] = values[oldest : first + p]
            out[i, steps - 1] = x[i]
            since, is_all = times[oldest] if known > 1 else t + 1, False
        pad = steps - known
        out[i, :pad] = padding
        if pad > 0 and np.isinf(padding):
            out[i, :pad] = out[i, pad]
        forgotten = max(row.forgotten, lane_forgotten_us[i])
        if (
            known < complete_from
            or (pad > 0 and forgotten > NEVER_US)  # what is missing may have been there
            or since <= (forgotten if is_all else lane_forgotten_us[i])
        ):
            incomplete[i] = True
        if _remember(times, values, row, t, x[i], capacity, history_us) == 2:
            late[i] = True
