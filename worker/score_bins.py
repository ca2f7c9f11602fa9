"""Scores in bins that keep their order: fine near 0 and near 1, and for any unit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_PER_OCTAVE_BITS = 5  # 32 bins each time that a magnitude doubles: 3.1 % wide at most
_SHIFT = 23 - _PER_OCTAVE_BITS
_LEAST = (127 - 24) << _PER_OCTAVE_BITS  # smaller than 2^-24 is zero, or one
_HALF = ((127 - 1) << _PER_OCTAVE_BITS) - _LEAST
_ONE = (127 << _PER_OCTAVE_BITS) - _LEAST
TENTHS = 10


def score_bins(scores: NDArray[np.float32]) -> NDArray[np.int32]:
    """(n,) bins of finite scores: of two scores the greater is never in the lower bin.

    A bin is 1/32 of an octave of the score, and between 1/2 and 1 of its distance from 1, where float32 is
    exact. So a probability has at most 1,474 of them.
    """
    scores = np.asarray(scores, np.float32)
    low, high = _octaves(scores), _octaves(1 - scores)
    between = np.where(scores <= 0.5, low, 2 * _HALF + 1 - high)
    above = np.where(scores > 1, low - _ONE + 2 * _HALF + 2, between)
    return np.where(scores < 0, -1 - low, above).astype(np.int32)


def _octaves(scores: NDArray[np.float32]) -> NDArray[np.int32]:
    octaves = (np.abs(scores).astype(np.float32).view(np.int32) >> _SHIFT) - _LEAST
    least: NDArray[np.int32] = np.maximum(octaves, 0)
    return least


def tenths(scores: NDArray[np.float32]) -> NDArray[np.int32]:
    """(n,) which tenth of [0, 1] a score is in; -1: it is no probability."""
    inside = (scores >= 0) & (scores <= 1)
    tenth = np.minimum(np.where(inside, scores, 0).astype(np.float64) * TENTHS, TENTHS - 1).astype(np.int32)
    return np.where(inside, tenth, -1).astype(np.int32)


def levels(scores: NDArray[np.float32], thresholds: Any, *, alert_below: bool) -> NDArray[np.int64]:
    """(n,) how many thresholds a score reaches, as `decide` counts them."""
    sign = -1.0 if alert_below else 1.0
    reached = np.array(thresholds, np.float32).astype(np.float64) * sign
    return np.searchsorted(reached, scores.astype(np.float64) * sign, side="right")
