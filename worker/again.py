"""Whether the client has given a record that it had given before."""

from __future__ import annotations

from typing import Any

from numba import njit


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def first_again(partition: Any, offset: Any, next_offset: Any) -> int:
    """Row of the first record that does not come after those before it in its partition; -1: there is none.

    Args:
        partition: (n,) int32.
        offset: (n,) int64.
        next_offset: int64 by partition, the least offset that may come next; moved on up to that row.
    """
    for i in range(partition.shape[0]):
        if offset[i] < next_offset[partition[i]]:
            return i
        next_offset[partition[i]] = offset[i] + 1
    return -1
