"""How well scores agree with the truth, in numpy alone so that no command needs scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Numbers = NDArray[np.number[Any]]
Ints = NDArray[np.integer[Any]]


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


def card_precision(day: Ints, customer: Ints, truth: Numbers, score: Floats, top: int = 100) -> float:
    """Mean over days of the share of frauds among the `top` cards of the day; the book's CP@k.

    A card's score is its highest of the day; a card that was found on an earlier day no longer takes part.
    """
    found: Ints = np.zeros(0, customer.dtype)
    shares = []
    for today in np.unique(day):
        rows = (day == today) & ~np.isin(customer, found)
        cards, of = np.unique(customer[rows], return_inverse=True)
        highest = np.full(len(cards), -np.inf)
        np.maximum.at(highest, of, score[rows])
        frauds = np.zeros(len(cards), bool)
        np.logical_or.at(frauds, of, truth[rows] > 0)
        best = np.argsort(-highest, kind="stable")[:top]
        found = np.union1d(found, cards[best][frauds[best]])
        shares.append(frauds[best].sum() / top)
    return float(np.mean(shares))


def _steps(truth: Numbers, score: Floats) -> tuple[Floats, Floats]:
    """Positives and others found at each distinct score, highest first, as running totals."""
    order = np.argsort(-score, kind="stable")
    last_of_a_tie = np.append(np.nonzero(np.diff(score[order]))[0], len(score) - 1)
    found = np.cumsum(truth[order] > 0)[last_of_a_tie].astype(np.float64)
    return found, (last_of_a_tie + 1) - found
