"""The published measures of both datasets that are theirs alone; the others are in worker.accuracy."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]


def kept_test_rows(
    day: Ints, customer: Ints, truth: Ints, *, train_day: int, train_days: int = 7, delay_days: int = 7
) -> Bools:
    """Return which rows belong to the test week after cards known as defrauded are left out.

    On test day k a card is known when it had a fraud in the training week or on any day up to
    `delay_days` + 1 before that test day. The test week is the seven days after training and delay.

    Args:
        day: (n,) day number of each row, in any numbering.
        customer, truth: (n,) card and 0/1 label.
        train_day: number of the first training day.
    """
    kept = np.zeros(len(day), bool)
    for k in range(7):
        test_day = train_day + train_days + delay_days + k
        knowable = (day >= train_day) & (day < max(train_day + train_days, test_day - delay_days))
        known = np.unique(customer[knowable & (truth > 0)])
        kept |= (day == test_day) & ~np.isin(customer, known)
    return kept


def cmapss_score(truth: Floats, predicted: Floats) -> float:
    """The PHM08 score: late predictions (d > 0) cost exp(d/10) - 1, early ones exp(-d/13) - 1; a sum."""
    late = predicted.astype(np.float64) - truth
    return float(np.sum(np.where(late < 0, np.expm1(-late / 13), np.expm1(late / 10))))
