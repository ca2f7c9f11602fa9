"""The interval around a score that holds the truth as often as the model's card says."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from worker.key_types import Number, wrong


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Interval:
    """Quantiles of truth - score on rows held out of training, by where the score lies (split conformal).

    Scores fall into b bins: below the first edge, from each edge to the next, from the last edge on.
    """

    coverage: Annotated[Number, Field(gt=0, lt=1)]  # share of truths inside
    edges: tuple[Number, ...]  # (b - 1,) rising
    low: tuple[Number, ...]  # (b,) added to a score of each bin: the low end
    high: tuple[Number, ...]  # (b,) likewise the high end
    within: tuple[Number, Number] | None = None  # what the model can say; an end there may be more
    fitted_on: Any = None

    def __post_init__(self) -> None:
        if any(a >= b for a, b in pairwise(self.edges)):
            raise wrong("numbers that do not rise", "rising numbers", "edges")
        for name, ends in (("low", self.low), ("high", self.high)):
            if len(ends) != len(self.edges) + 1:
                bins = len(self.edges) + 1
                raise wrong(f"{len(ends)} numbers", f"{bins}, one more than there are edges", name)
        for at, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            if low > high:
                raise wrong("", f"at most the high end, {high:g}", "low", at)
        if self.within is not None and self.within[0] >= self.within[1]:
            raise wrong("the higher number first", "the lower one first", "within")


def ends(interval: Interval, scores: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(n,) low and (n,) high end around each score; NaN around a score that is not finite."""
    bins = np.searchsorted(interval.edges, scores, side="right")
    # A score outside the range that the card states stays inside its own interval.
    lowest, highest = interval.within or (-np.inf, np.inf)
    low = np.minimum(scores, np.maximum(scores + np.take(interval.low, bins), lowest))
    high = np.maximum(scores, np.minimum(scores + np.take(interval.high, bins), highest))
    is_score = np.isfinite(scores)
    return (
        np.where(is_score, low, np.nan).astype(np.float32),
        np.where(is_score, high, np.nan).astype(np.float32),
    )


def fit_interval(
    scores: NDArray[np.floating[Any]],
    truth: NDArray[np.floating[Any]],
    *,
    coverage: float,
    edges: tuple[float, ...],
    within: tuple[float, float] | None = None,
) -> Interval:
    """The interval from rows that the model was not trained on.

    Each end leaves out half of what the interval may leave out. With m rows in a bin it is the
    ceil((m + 1) * share)-th smallest difference, so that a new row like them is inside at least that often.

    Args:
        scores, truth: (n,) of the held-out rows.
        coverage: share of truths that are to be inside.
        edges: (b - 1,) rising scores between the bins.

    Raises:
        ValueError: a bin has too few rows to tell.
    """
    bins = np.searchsorted(edges, scores, side="right")
    outside = (1 - coverage) / 2
    low, high = [], []
    for at in range(len(edges) + 1):
        difference = np.sort((truth - scores)[bins == at])
        rank = int(np.ceil((len(difference) + 1) * (1 - outside)))
        if rank > len(difference):
            raise ValueError(
                f"found {len(difference)} rows in bin {at}, expected at least {1 / outside - 1:.0f}"
            )
        low.append(round(float(difference[-rank]), 4))
        high.append(round(float(difference[rank - 1]), 4))
    return Interval(coverage=coverage, edges=edges, low=tuple(low), high=tuple(high), within=within)
