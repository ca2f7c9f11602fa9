"""What each feature of an alert moved the score by: asked of the model, or read from its trees."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from worker.batch import Features
from worker.composite import Version
from worker.reason_kernels import laid_out, questions
from worker.scoring import score_rows
from worker.trees import tree_contributions

ASKED = 5  # values of an alert that the model is asked about: the more, the more often it runs
_AT_ONCE = 4096  # made-up rows in memory
_PART = 3  # of a sequence: its first and its last third are what it began with and what it is now


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Usual:
    """What is compared with what. Columns are the scalar features, then each channel of each sequence."""

    p50: NDArray[np.float64]  # (f + c,) medians of the training rows; NaN: not known
    std: NDArray[np.float64]  # (f + c,) how far they are apart; NaN: not known
    is_read: NDArray[np.bool_]  # (f + c,) the model reads it
    channels: tuple[tuple[str, int], ...]  # (c,) sequence and place in it

    @property
    def scalars(self) -> int:
        """How many columns are scalar features."""
        return len(self.p50) - len(self.channels)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Compared:
    """(k, f + c) each: what k alerts have, what is usual, and what the difference moved the score by."""

    values: NDArray[np.float64]
    usual: NDArray[np.float64]  # NaN: not known
    scale: NDArray[np.float64]  # what is far from it; NaN: not known
    contributions: NDArray[np.float64]  # in the score's unit; NaN: not known


def compared(features: Features, rows: NDArray[np.int64], usual: Usual) -> Compared:
    """The values of these rows and what is usual, contributions not known yet.

    A channel's value is the mean of the newest third of its readings. Where the card has no median for it,
    usual is the mean of the oldest third of the same sequence.
    """
    values, of_each, scale, unknown = laid_out(features.scalars, rows, usual.p50, usual.std)
    for column, (name, channel) in enumerate(usual.channels, start=usual.scalars):
        readings = features.sequences[name][rows, :, channel].astype(np.float64)
        part = max(1, readings.shape[1] // _PART)
        values[:, column] = readings[:, -part:].mean(axis=1)
        if np.isnan(usual.p50[column]):
            of_each[:, column], scale[:, column] = readings[:, :part].mean(axis=1), readings.std(axis=1)
    return Compared(values=values, usual=of_each, scale=scale, contributions=unknown)


def contributions(
    model: Version, features: Features, rows: NDArray[np.int64], scores: NDArray[np.float32], usual: Usual
) -> Compared:
    """What each feature moved the score of these rows by.

    Trees whose features all have a median are computed exactly: Shapley values against the row of medians.
    Any other model is asked: it scores each row again with one feature, or all readings of one channel, set
    to what is usual, and the contribution is by how much the score falls. It is asked about no more than
    the ASKED values that are furthest from what is usual, so that a wide model costs no more.

    Args:
        model: what gave the scores; called from the thread that it belongs to.
        rows: (k,) of the batch.
        scores: (n,) of the batch.

    Raises:
        DeviceFailedError, ModelError: see score_rows.
    """
    found = compared(features, rows, usual)
    columns = model.feeds[0].columns
    if model.trees is not None and columns is not None and not np.isnan(usual.p50[columns]).any():
        dtype = model.feeds[0].dtype
        x = found.values[:, columns].astype(dtype).astype(np.float64)
        medians = usual.p50[columns].astype(dtype).astype(np.float64)
        found.contributions[:, columns] = tree_contributions(model.trees, x, medians)
        return found
    alert, column, to, scalars = questions(
        found.values, found.usual, found.scale, usual.is_read, usual.scalars, ASKED, found.contributions
    )
    for at in range(0, len(alert), _AT_ONCE):
        part = slice(at, at + _AT_ONCE)
        source = rows[alert[part]]
        new, _ = score_rows(
            model, _made_up(model, features, source, scalars[part], column[part], to[part], usual)
        )
        found.contributions[alert[part], column[part]] = scores[source].astype(np.float64) - new
    return found


def _made_up(
    model: Version,
    features: Features,
    source: NDArray[np.int64],
    scalars: NDArray[np.float64],
    column: NDArray[np.int64],
    to: NDArray[np.float64],
    usual: Usual,
) -> Features:
    """These rows, one after another, each with one column set; of the scalars it is set already."""
    asked = {feed.sequence for feed in model.feeds if feed.sequence is not None}
    if not asked:
        return replace(features, scalars=scalars, sequences={})
    names = [None] * usual.scalars + [name for name, _ in usual.channels]
    channel = np.array([0] * usual.scalars + [each for _, each in usual.channels])
    sequences = {}
    for name in asked:
        readings = features.sequences[name][source]
        here = np.flatnonzero(np.array([each == name for each in names])[column])
        readings[here, :, channel[column[here]]] = to[here, None]
        sequences[name] = readings
    return replace(features, scalars=scalars, sequences=sequences)
