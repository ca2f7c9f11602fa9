"""What the records of a batch say of their lanes, in one pass over them; a lane is known by its partition."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from feature_cache.layout import NEVER_US
from feature_cache.order import FUTURE
from schemas import array_types as t


def next_offsets(partition: NDArray[np.int32], offset: NDArray[np.int64]) -> dict[int, int]:
    """The offset to read next of each partition of (n,) records, ascending."""
    found = np.empty((len(partition), 2), np.int64)
    return dict(sorted(found[: _next_offsets(partition, offset, found)].tolist()))


@njit(t.INT64(t.INT32S, t.INT64S, t.OUT_INT64_TABLE), cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _next_offsets(partition: Any, offset: Any, found: Any) -> int:
    """found is (n, 2) int64, filled: partition and next offset. Returns how many are there."""
    count = at = 0
    for i in range(partition.shape[0]):
        if at >= count or found[at, 0] != partition[i]:  # else as the record before
            at = 0
            while at < count and found[at, 0] != partition[i]:
                at += 1
            if at == count:
                found[at, 0], found[at, 1] = partition[i], 0
                count += 1
        found[at, 1] = max(found[at, 1], offset[i] + 1)
    return count


@njit(
    (t.INT32S, t.INT64S, t.INT64S, t.UINT8S, t.INT64S, t.OUT_BOOLS, t.OUT_INT64S, t.OUT_INT64S),
    cache=True,
    nogil=True,
)  # type: ignore[untyped-decorator]
def sum_up(
    partition: Any,
    offset: Any,
    event_us: Any,
    code: Any,
    mute_until: Any,
    is_muted: Any,
    first_us: Any,
    newest_us: Any,
) -> None:
    """Which events have their outcome already, and what each lane has come to.

    Args:
        partition, offset, event_us: (n,) of each event, in order.
        code: (n,) uint8 how it stands in time, see feature_cache.order.
        mute_until: (l,) by partition, the offset below which outcomes are published.
        is_muted: (n,) bool, filled.
        first_us: (l,) filled: time of the lane's first event; NEVER_US where it has none.
        newest_us: (l,) filled: the newest time but those in the future.
    """
    first_us[:], newest_us[:] = NEVER_US, NEVER_US
    for i in range(partition.shape[0]):
        lane = partition[i]
        is_muted[i] = offset[i] < mute_until[lane]
        if first_us[lane] == NEVER_US:
            first_us[lane] = event_us[i]
        if code[i] != FUTURE:
            newest_us[lane] = max(newest_us[lane], event_us[i])
