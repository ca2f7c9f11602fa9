"""What the watch does for every event, in one pass each: gather its values, count them, know it again."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

from schemas import array_types as t

_FLOAT32_TABLE = types.Array(types.float32, 2, "A", readonly=True)
_FLOAT64_TABLE = types.Array(types.float64, 2, "A", readonly=True)
_OUT_FLOAT32_TABLE = types.Array(types.float32, 2, "C")


@njit((_FLOAT32_TABLE, _FLOAT32_TABLE, t.OUT_INT64_TABLE, t.OUT_INT64S), cache=True, nogil=True)  # type: ignore[untyped-decorator]
def count_bins(x: Any, edges: Any, counts: Any, missing: Any) -> None:
    """Count (n, k) float32 values by bin: adds to counts (k, b) and missing (k,) int64; NaN is missing."""
    for i in range(x.shape[0]):
        for k in range(x.shape[1]):
            value = x[i, k]
            if np.isnan(value):
                missing[k] += 1
                continue
            at = 0
            for j in range(edges.shape[1]):  # without a branch: over ten edges half the time of a search
                at += value > edges[k, j]
            counts[k, at] += 1


@njit(
    (_FLOAT64_TABLE, t.INT64S, t.INT64S, t.FLOAT64S, _OUT_FLOAT32_TABLE, t.OUT_BOOL_TABLE),
    cache=True,
    nogil=True,
)  # type: ignore[untyped-decorator]
def gather(scalars: Any, columns: Any, default_columns: Any, defaults: Any, x: Any, hits: Any) -> None:
    """Take columns (k,) of (n, f) features into the first of x, and which are their default into hits.

    Args:
        scalars: (n, f) float64.
        columns: (k,) of x.
        default_columns: (d,) of the first columns of hits, and...
        defaults: (d,) ...what they are compared with.
        x: (n, k or more) float32, filled.
        hits: (n, d or more) bool, filled.
    """
    for i in range(scalars.shape[0]):
        for k in range(columns.shape[0]):
            x[i, k] = scalars[i, columns[k]]
        for d in range(defaults.shape[0]):
            hits[i, d] = scalars[i, default_columns[d]] == defaults[d]


@njit((t.INT32S, t.INT64S, t.OUT_INT64S), cache=True, nogil=True)  # type: ignore[untyped-decorator]
def comes_again(partition: Any, offset: Any, next_offset: Any) -> bool:
    """Whether an offset is below what is next of its partition; next_offset (p,) is moved on, or set back."""
    found = False
    for i in range(partition.shape[0]):
        found |= offset[i] < next_offset[partition[i]]
        next_offset[partition[i]] = offset[i] + 1
    return found
