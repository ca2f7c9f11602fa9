"""Latencies counted in classes 5 % wide: they can be added up over workers, which percentiles cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

_FINEST_S = 1e-4
_WIDTH = 1.05  # so a percentile is told to within 2.5 %
_CLASSES = 320  # up to ten minutes
EDGES_S = _FINEST_S * _WIDTH ** np.arange(_CLASSES - 1)
_MIDDLES_MS = 1000 * _FINEST_S * _WIDTH ** (np.arange(_CLASSES) - 0.5)

Counts = NDArray[np.int64]  # (320,) events by class


class LatencyWindow:
    """Counts since it was made; the loop's thread adds, any other reads."""

    def __init__(self) -> None:
        self._counts: Counts = np.zeros(_CLASSES, np.int64)

    def add(self, waits_s: NDArray[np.float64]) -> None:
        """(n,) seconds from a record's own timestamp to its score."""
        self._counts += np.bincount(np.searchsorted(EDGES_S, waits_s), minlength=_CLASSES)

    def counts(self) -> Counts:
        """All so far."""
        return self._counts.copy()


def to_sparse(counts: Counts) -> dict[str, int]:
    """As JSON has it: class to count, empty classes left out."""
    return {str(at): int(counts[at]) for at in np.flatnonzero(counts)}


def from_sparse(written: Mapping[str, int]) -> Counts:
    """The counts that were written; classes that there are not are left out."""
    counts = np.zeros(_CLASSES, np.int64)
    for name, count in written.items():
        if name.isdecimal() and len(name) < 4 and int(name) < _CLASSES:
            counts[int(name)] = int(count)
    return counts


def percentiles_ms(counts: Counts, shares: Sequence[float]) -> list[float | None]:
    """The latency that each share of the events stays within; None where there are no events."""
    total = int(counts.sum())
    if not total:
        return [None] * len(shares)
    reached = np.cumsum(counts)
    at = np.searchsorted(reached, np.ceil(np.asarray(shares) * total).clip(1))
    return [round(float(value), 3) for value in _MIDDLES_MS[at]]
