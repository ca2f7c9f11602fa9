"""Whether all events of a batch can be scored: one pass over the columns, which says yes or no."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from schemas import array_types as t


@njit(
    t.BOOL(
        t.INT64S,
        t.INT64S,
        t.INT64,
        t.BYTES,
        t.INT64S,
        t.INT64S,
        t.BYTES,
        t.INT64S,
        t.INT64S,
        t.INT64S,
        t.INT64S,
        t.INT64,
    ),
    cache=True,
    nogil=True,
)  # type: ignore[untyped-decorator]
def are_sound(
    ticks: Any,
    latest_us: Any,
    unit_us: int,
    key_data: Any,
    key_starts: Any,
    key_ends: Any,
    said_data: Any,
    said_starts: Any,
    said_ends: Any,
    id_starts: Any,
    id_ends: Any,
    longest: int,
) -> bool:
    """Whether nothing is wrong with the times, keys and ids of n events.

    Args:
        ticks: (n,) int64 event time.
        latest_us: (n,) int64 the newest that is taken, in microseconds.
        unit_us: microseconds a tick.
        key_data, key_starts, key_ends: the record keys.
        said_data, said_starts, said_ends: what the events say that their keys are.
        id_starts, id_ends: (n,) of the event ids; (0,): there are none.
        longest: bytes of a key and of an id.
    """
    has_ids = id_starts.shape[0] > 0
    for i in range(ticks.shape[0]):
        if ticks[i] < 0 or ticks[i] > latest_us[i] // unit_us:
            return False
        size, begin = key_ends[i] - key_starts[i], said_starts[i]
        if size <= 0 or size > longest or size != said_ends[i] - begin:
            return False
        if has_ids and id_ends[i] - id_starts[i] > longest:
            return False
        for j in range(size):
            if key_data[key_starts[i] + j] != said_data[begin + j]:
                return False
    return True


@njit([t.BOOL(t.FLOAT32S), t.BOOL(t.FLOAT64S)], cache=True, nogil=True)  # type: ignore[untyped-decorator]
def are_finite(values: Any) -> bool:
    """Whether none of (n,) floats is NaN or infinite."""
    for i in range(values.shape[0]):  # noqa: SIM110 compiled
        if not np.isfinite(values[i]):
            return False
    return True
