"""Which partition producers put a key on, for many keys at once: as the Kafka clients compute it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.spans import Spans


def partitions(keys: Spans, count: int, partitioner: str) -> NDArray[np.int32]:
    """(n,) int32 partition of each key.

    Args:
        keys: n keys, none missing.
        count: partitions of the topic.
        partitioner: murmur2, as Java clients; or crc32, as librdkafka's `consistent`.
    """
    found = np.empty(len(keys), np.int32)
    kernel = _murmur2 if partitioner == "murmur2" else _crc32
    kernel(keys.data, keys.starts, keys.ends, count, found)
    return found


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _murmur2(data: Any, starts: Any, ends: Any, count: int, found: Any) -> None:
    """MurmurHash2 with Kafka's seed, without its sign."""
    mix = np.uint64(0x5BD1E995)
    low = np.uint64(0xFFFFFFFF)
    for i in range(starts.shape[0]):
        size = ends[i] - starts[i]
        h = np.uint64(0x9747B28C) ^ np.uint64(size)
        at = starts[i]
        for _ in range(size // 4):
            k = np.uint64(data[at]) | np.uint64(data[at + 1]) << np.uint64(8)
            k |= np.uint64(data[at + 2]) << np.uint64(16) | np.uint64(data[at + 3]) << np.uint64(24)
            k = (k * mix) & low
            k ^= k >> np.uint64(24)
            k = (k * mix) & low
            h = ((h * mix) & low) ^ k
            at += 4
        left = size % 4
        if left == 3:
            h ^= np.uint64(data[at + 2]) << np.uint64(16)
        if left >= 2:
            h ^= np.uint64(data[at + 1]) << np.uint64(8)
        if left >= 1:
            h ^= np.uint64(data[at])
            h = (h * mix) & low
        h ^= h >> np.uint64(13)
        h = (h * mix) & low
        h ^= h >> np.uint64(15)
        found[i] = np.int64(h & np.uint64(0x7FFFFFFF)) % count


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _crc32(data: Any, starts: Any, ends: Any, count: int, found: Any) -> None:
    """CRC-32 bit by bit; keys are short."""
    for i in range(starts.shape[0]):
        crc = np.uint64(0xFFFFFFFF)
        for at in range(starts[i], ends[i]):
            crc ^= np.uint64(data[at])
            for _ in range(8):
                lowest = crc & np.uint64(1)
                crc >>= np.uint64(1)
                if lowest:
                    crc ^= np.uint64(0xEDB88320)
        found[i] = np.int64(crc ^ np.uint64(0xFFFFFFFF)) % count
