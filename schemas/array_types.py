"""Types of arrays that kernels are compiled for: once, when they are loaded, and not in front of an event.

Whatever a kernel only reads may be read-only or not; numbers may lie apart.
"""

from __future__ import annotations

from numba import types

BYTES = types.Array(types.uint8, 1, "C", readonly=True)
FLOAT32S = types.Array(types.float32, 1, "A", readonly=True)
FLOAT64S = types.Array(types.float64, 1, "A", readonly=True)
UINT8S = types.Array(types.uint8, 1, "A", readonly=True)
INT8S = types.Array(types.int8, 1, "A", readonly=True)
INT32S = types.Array(types.int32, 1, "A", readonly=True)
INT64S = types.Array(types.int64, 1, "A", readonly=True)
INT64 = types.int64
BOOL = types.boolean
OUT_BYTES = types.Array(types.uint8, 1, "C")
OUT_BOOLS = types.Array(types.boolean, 1, "C")
OUT_INT32S = types.Array(types.int32, 1, "C")
OUT_INT64S = types.Array(types.int64, 1, "C")
OUT_INT32_TABLE = types.Array(types.int32, 2, "C")
OUT_INT64_TABLE = types.Array(types.int64, 2, "C")
OUT_BOOL_TABLE = types.Array(types.boolean, 2, "C")
NAMES = types.Tuple((BYTES, INT64S, INT64S))
