"""Readings that a sensor cannot mean, told by what its row remembers: out of range, gaps, flat, stuck, jumps.

What becomes of a reading depends on it and on the readings of its row before it, in the order of their times,
and on nothing else: neither on how events are cut into batches nor on when rows were loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from feature_cache.stretches import HELD, GroupArrays

KINDS = ("RANGE", "GAP", "FLAT", "STUCK", "JUMP")  # bit 0, 1, ... of a reading's flags
_RANGE, _GAP, _FLAT, _STUCK, _JUMP, MASKED, REFUSED = (1 << bit for bit in range(7))
ALL_KINDS = (1 << len(KINDS)) - 1
SENTENCES = {
    "RANGE": "the reading is outside its range",
    "GAP": "there was no reading for longer than max_gap",
    "FLAT": "readings have not moved for flat_for",
    "STUCK": "stuck_events readings in a row are equal",
    "JUMP": "the reading is further than max_jump from the one before",
}
FLAG, MASK, REFUSE = range(3)
POLICIES = ("flag", "mask", "refuse")
NO_LIMIT = np.iinfo(np.int64).max
_NEVER_US = np.iinfo(np.int64).min


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Limits:
    """What readings of q fields can be; where a check is off, its limit is out of reach."""

    channel: NDArray[np.int64]  # (q,) of the sequence that remembers the field; -1: judged by itself
    low: NDArray[np.float64]  # (q,) -inf: any
    high: NDArray[np.float64]  # (q,) inf: any
    jump: NDArray[np.float64]  # (q,) inf: any
    accept_after: NDArray[np.int64]  # (q,)
    stuck: NDArray[np.int64]  # (q,) equal readings; NO_LIMIT: any
    flat_us: NDArray[np.int64]  # (q,) NO_LIMIT: any
    flat_within: NDArray[np.float64]  # (q,)
    gap_us: NDArray[np.int64]  # (q,) NO_LIMIT: any
    policy: NDArray[np.int64]  # (q,) FLAG, MASK or REFUSE


_NO_TIMES, _NO_VALUES, _NO_ROWS = np.zeros(0, np.int64), np.zeros((0, 1), np.float32), np.zeros(0, HELD)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _look_back(
    time_us: int,
    x: Any,
    q: int,
    node: int,
    place: int,
    first: int,
    capacity: int,
    value: Any,
    channel: int,
    limits: Any,
    event_us: Any,
    earlier: Any,
    times: Any,
    values: Any,
) -> tuple[int, Any, Any]:
    """Flags of a reading by those before it, the one before it, and whether a jump is the new level.

    The readings before it are those of the batch (node, then earlier[node], ...) and those of the row (place,
    place - 1, ... first), merged by time; of one time the batch's is the later.
    """
    jump, accept_after, stuck, flat_us, flat_within, gap_us = limits
    flags, steps, equal, level = 0, 0, 0, 0
    last = np.float32(0)
    is_flat, is_equal, is_level = flat_us[q] < NO_LIMIT, stuck[q] < NO_LIMIT, True
    while steps < capacity and (is_flat or is_equal or is_level) and (node >= 0 or place >= first):
        if node >= 0 and (place < first or event_us[node] >= times[place]):
            then_us, before = event_us[node], np.float32(x[node, q])
            node = earlier[node]
        else:
            then_us, before = times[place], values[place, channel]
            place -= 1
        if steps == 0:
            last = before
            if time_us - then_us > gap_us[q]:
                flags |= _GAP
            elif abs(np.float64(value) - np.float64(before)) > jump[q]:
                flags |= _JUMP
            is_level = (flags & _JUMP) != 0
        steps += 1
        if is_level:
            level += before == last
            is_level = before == last and level < accept_after[q]
        if is_equal:
            equal += before == value
            is_equal = before == value
            if equal + 1 >= stuck[q]:
                flags |= _STUCK
                is_equal = False
        if is_flat:
            is_flat = abs(np.float64(value) - np.float64(before)) <= flat_within[q]
            if is_flat and time_us - then_us >= flat_us[q]:
                flags |= _FLAT
                is_flat = False
    return flags, last, level >= accept_after[q]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _judge(
    slots: Any,
    entity: Any,
    event_us: Any,
    x: Any,
    clock_reset: Any,
    refused: Any,
    times: Any,
    values: Any,
    held: Any,
    capacity: int,
    channel: Any,
    low: Any,
    high: Any,
    policy: Any,
    limits: Any,
    flags: Any,
) -> None:
    n = slots.shape[0]
    earlier = np.full(n, -1, np.int64)  # of a reading of this batch, the one before it in time
    newest = np.full(n, -1, np.int64)  # by entity
    reset_us = np.full(n, _NEVER_US, np.int64)  # by entity: what the row remembers is of another clock
    for i in range(n):
        if refused[i]:
            continue
        e, t, is_remembered = entity[i], event_us[i], capacity > 0 and slots[i] >= 0
        if clock_reset[i]:
            newest[e], reset_us[e] = -1, t - 1
        first, place, forgotten = 0, -1, reset_us[e]
        if is_remembered and reset_us[e] == _NEVER_US:
            row = held[slots[i]]
            first = row.start + row.begin
            place = first + np.int64(row.length) - 1
            forgotten = row.forgotten
        node = newest[e]
        # Among readings that are newer, what came before it says little: it is judged by itself.
        is_newest = (node < 0 or event_us[node] <= t) and (place < first or times[place] <= t)
        for q in range(channel.shape[0]):
            value = np.float32(x[i, q])
            found, last, is_level = 0, np.float32(0), False
            has_last = channel[q] >= 0 and is_newest and (node >= 0 or place >= first)
            if has_last:
                found, last, is_level = _look_back(
                    t,
                    x,
                    q,
                    node,
                    place,
                    first,
                    capacity,
                    value,
                    channel[q],
                    limits,
                    event_us,
                    earlier,
                    times,
                    values,
                )
            if not low[q] <= x[i, q] <= high[q]:
                found |= _RANGE
            is_wrong = (found & _RANGE) != 0 or ((found & _JUMP) != 0 and not is_level)
            if policy[q] == REFUSE and found & (_RANGE | _JUMP | _FLAT | _STUCK):
                found |= REFUSED
                refused[i] = True
            elif policy[q] == MASK and is_wrong:
                found |= MASKED
                x[i, q] = last if has_last else min(max(x[i, q], low[q]), high[q])
            flags[i, q] = found
        if refused[i] or t < forgotten or not is_remembered:
            continue
        if node < 0 or event_us[node] <= t:
            earlier[i] = node
            newest[e] = i
            continue
        while earlier[node] >= 0 and event_us[earlier[node]] > t:
            node = earlier[node]
        earlier[i] = earlier[node]
        earlier[node] = i


def judge_readings(
    group: GroupArrays | None,
    slots: NDArray[np.int64],
    event_us: NDArray[np.int64],
    x: NDArray[np.float64],
    clock_reset: NDArray[np.bool_],
    refused: NDArray[np.bool_],
    limits: Limits,
) -> NDArray[np.uint8]:
    """Judge each reading by those that its row remembers, before the row remembers it; in offset order.

    Args:
        group: the sequence that remembers the fields; None: every field is judged by itself.
        slots: (n,) row of each event; -1: the pipeline keeps none.
        event_us: (n,) event time.
        x: (n, q) readings; masked ones are replaced here, by the last one kept or the nearer limit.
        clock_reset: (n,) see `apply_order`.
        refused: (n,) events that change nothing; those refused here are added.
        limits: of the q fields.

    Returns:
        (n, q) flags: a bit for each of KINDS, MASKED, REFUSED.
    """
    flags = np.zeros(x.shape, np.uint8)
    _, entity = np.unique(slots, return_inverse=True)
    times, values, held, capacity = _NO_TIMES, _NO_VALUES, _NO_ROWS, 0
    if group is not None:
        times, values, held, capacity = group.times, group.values, group.held, group.spec.capacity
    _judge(
        slots,
        entity.astype(np.int64),
        event_us,
        x,
        clock_reset,
        refused,
        times,
        values,
        held,
        capacity,
        limits.channel if group is not None else np.full_like(limits.channel, -1),
        limits.low,
        limits.high,
        limits.policy,
        (
            limits.jump,
            limits.accept_after,
            limits.stuck,
            limits.flat_us,
            limits.flat_within,
            limits.gap_us,
        ),
        flags,
    )
    return flags
