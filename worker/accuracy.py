"""How well scores agree with the truth, in numpy alone so that no command needs scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Numbers = NDArray[np.number[Any]]


def auc(truth: Numbers, score: Floats) -> float:
    """Area under the ROC curve. truth: (n,) 0/1 with both values present; score: (n,) finite."""
    found, false = _steps(truth, score)
    return float(
        np.trapezoid(np.append(0, found) / found[-1], np.append(0, false) / false[-1])  # ties share a step
    )


def average_precision(truth: Numbers, score: Floats) -> float:
    """Sum over distinct scores of (recall gained) x precision; scikit-learn's definition."""
    found, false = _steps(truth, score)
    return float(np.sum(np.diff(np.append(0, found)) / found[-1] * found / (found + false)))


def rmse(truth: Numbers, predicted: Floats) -> float:
    """Root mean squared error, in the unit of the truth."""
    return float(np.sqrt(np.mean((predicted.astype(np.float64) - truth) ** 2)))


def _steps(truth: Numbers, score: Floats) -> tuple[Floats, Floats]:
    """Positives and others found at each distinct score, highest first, as running totals."""
    order = np.argsort(-score, kind="stable")
    last_of_a_tie = np.append(np.nonzero(np.diff(score[order]))[0], len(score) - 1)
    found = np.cumsum(truth[order] > 0)[last_of_a_tie].astype(np.float64)
    return found, (last_of_a_tie + 1) - found
