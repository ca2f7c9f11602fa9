"""How good scores were: the figures of what was counted, and how far the binned ones may be off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_cache.cases import UNKNOWN, Cells
from worker.score_bins import TENTHS

VALUE_UNITS = 1000  # of a value: thousandths
SCORE_UNITS = 1_000_000
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """How well scores order events; None where there are not both kinds of label."""

    average_precision: float | None = None  # scores of one bin count as equal
    average_precision_low: float | None = None  # whatever the order within the bins is
    average_precision_high: float | None = None
    auc: float | None = None  # the same
    auc_low: float | None = None
    auc_high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AtThreshold:
    """What the scores at or beyond a threshold were."""

    flagged: int  # labelled events that reached it
    right: int  # of these, positives
    precision: float | None
    recall: float | None
    value_saved: float  # of the positives that reached it
    value_missed: float  # of the others
    value_stopped: float  # of the negatives that reached it


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenth:
    """Labelled events whose score lies in one tenth of [0, 1]."""

    events: int
    mean_score: float
    positive_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One model version in one segment."""

    scored: int
    labelled: int
    positives: int
    ranking: Ranking
    thresholds: tuple[AtThreshold, ...]  # of each severity
    alerts: int  # raised or made worse
    alerts_labelled: int
    alerts_right: int
    alert_yield: float | None  # share of the labelled alerts that were right
    tenths: tuple[Tenth | None, ...]  # empty where scores are no probabilities; None: nothing in it
    calibration_error: float | None  # mean distance of score and share over the tenths, by their events


@dataclass(slots=True)
class _Counts:
    """What one version and segment has counted, as numbers by name."""

    cells: dict[tuple[str, str, str], int]  # count, n, label

    def of(self, count: str, label: str) -> dict[str, int]:
        """By n; cells of unlabelled events are not those of a label."""
        return {n: number for (c, n, of), number in self.cells.items() if c == count and of == label}


def groups(buckets: Mapping[int, Cells], negative_before: int | None) -> dict[tuple[str, str], Cells]:
    """Sum buckets by (version, segment); names are then `COUNT N LABEL`.

    Args:
        buckets: what was counted, by bucket.
        negative_before: an event of an earlier bucket that has no label is a negative; None: none is.
    """
    summed: dict[tuple[str, str], Cells] = {}
    for bucket, cells in buckets.items():
        is_over = negative_before is not None and bucket < negative_before
        for name, number in cells.items():
            version, segment, rest = name.split(" ", 2)
            if is_over and rest.endswith(f" {UNKNOWN}"):
                rest = f"{rest[:-1]}0"
            of = summed.setdefault((version, segment), {})
            of[rest] = of.get(rest, 0) + number
    return summed


def together(parts: Iterable[Cells]) -> Cells:
    """The sum of what was counted in several groups."""
    total: Cells = {}
    for part in parts:
        for name, number in part.items():
            total[name] = total.get(name, 0) + number
    return total


def figures(cells: Cells, level_count: int, *, alert_below: bool) -> Figures:
    """The figures of one group.

    Args:
        cells: see `groups`.
        level_count: number of severities.
        alert_below: the lowest score is the most urgent, and none is a probability.
    """
    named = ((name.split(" "), number) for name, number in cells.items())
    counts = _Counts({(count, n, of): number for (count, n, of), number in named})
    scored = [_by_score(counts, label) for label in (UNKNOWN, "0", "1")]
    negatives, positives = sum(scored[1].values()), sum(scored[2].values())
    alerts = {label: sum(counts.of("a", label).values()) for label in (UNKNOWN, "0", "1")}
    known_alerts = alerts["0"] + alerts["1"]
    tenths, error = _calibration(counts, scored[1], scored[2])
    if alert_below:
        tenths, error = (), None
    return Figures(
        scored=sum(sum(of.values()) for of in scored),
        labelled=negatives + positives,
        positives=positives,
        ranking=_ranking(scored[1], scored[2], -1 if alert_below else 1),
        thresholds=tuple(
            _at_threshold(counts, scored[1], scored[2], level) for level in range(1, level_count + 1)
        ),
        alerts=sum(alerts.values()),
        alerts_labelled=known_alerts,
        alerts_right=alerts["1"],
        alert_yield=alerts["1"] / known_alerts if known_alerts else None,
        tenths=tenths,
        calibration_error=error,
    )


Cell = tuple[int, int, int]  # bin, level, tenth


def _by_score(counts: _Counts, label: str) -> dict[Cell, int]:
    found: dict[Cell, int] = {}
    for name, number in counts.of("n", label).items():
        score_bin, level, tenth = name.split(".")
        found[int(score_bin), int(level), int(tenth)] = number
    return found


def _ranking(negatives: dict[Cell, int], positives: dict[Cell, int], sign: int) -> Ranking:
    bins = sorted({cell[0] for cell in (*negatives, *positives)}, key=lambda b: -sign * b)
    place = {score_bin: i for i, score_bin in enumerate(bins)}
    hits, others = np.zeros(len(bins), np.int64), np.zeros(len(bins), np.int64)
    for column, cells in ((hits, positives), (others, negatives)):
        for cell, number in cells.items():
            column[place[cell[0]]] += number
    return ranking(hits, others)


def ranking(hits: Ints, others: Ints) -> Ranking:
    """Average precision and AUC of (m,) positives and negatives by bin, the most urgent first.

    The order within a bin is not known. Average precision is lowest when all negatives of a bin stand before
    its positives, one by one, and highest when its positives share a score above all of them.
    """
    if not hits.sum() or not others.sum():
        return Ranking()
    total, false = float(hits.sum()), float(others.sum())
    found, wrong = np.cumsum(hits), np.cumsum(others)
    before = found - hits
    reached = np.maximum(found, 1)  # where nothing was found, nothing is added
    tied = float(np.sum(hits * found / np.maximum(found + wrong, 1)))
    high = float(np.sum(hits * found / np.maximum(reached + wrong - others, 1)))
    low = sum(_one_by_one(int(b), int(h), int(w)) for b, h, w in zip(before, hits, wrong, strict=True))
    # Pairs of a positive and a negative of the same bin are a half each; they may all be right, or wrong.
    pairs = float(np.sum(hits * (false - wrong + others * 0.5))) / (total * false)
    doubt = float(np.sum(hits * others * 0.5)) / (total * false)
    return Ranking(
        average_precision=tied / total,
        average_precision_low=low / total,
        average_precision_high=high / total,
        auc=pairs,
        auc_low=pairs - doubt,
        auc_high=pairs + doubt,
    )


def _one_by_one(before: int, hits: int, wrong: int) -> float:
    """Sum of precisions when so many positives follow each other, after these."""
    found = before + np.arange(1, hits + 1, dtype=np.float64)
    return float(np.sum(found / (found + wrong)))


def _at_threshold(
    counts: _Counts, negatives: dict[Cell, int], positives: dict[Cell, int], level: int
) -> AtThreshold:
    right = sum(number for cell, number in positives.items() if cell[1] >= level)
    flagged = right + sum(number for cell, number in negatives.items() if cell[1] >= level)
    total = sum(positives.values())
    values, lost = counts.of("v", "1"), counts.of("v", "0")
    saved = sum(number for of, number in values.items() if int(of) >= level)
    stopped = sum(number for of, number in lost.items() if int(of) >= level)
    return AtThreshold(
        flagged=flagged,
        right=right,
        precision=right / flagged if flagged else None,
        recall=right / total if total else None,
        value_saved=saved / VALUE_UNITS,
        value_missed=(sum(values.values()) - saved) / VALUE_UNITS,
        value_stopped=stopped / VALUE_UNITS,
    )


def _calibration(
    counts: _Counts, negatives: dict[Cell, int], positives: dict[Cell, int]
) -> tuple[tuple[Tenth | None, ...], float | None]:
    events, hits, sums = (np.zeros(TENTHS, np.int64) for _ in range(3))
    for cells, columns in ((negatives, (events,)), (positives, (events, hits))):
        for (_, _, tenth), number in cells.items():
            if tenth < 0:
                return (), None
            for column in columns:
                column[tenth] += number
    for label in ("0", "1"):
        for name, number in counts.of("s", label).items():
            sums[int(name)] += number
    found = tuple(
        Tenth(events=n, mean_score=s / n / SCORE_UNITS, positive_share=h / n) if n else None
        for n, s, h in zip(events.tolist(), sums.tolist(), hits.tolist(), strict=True)
    )
    total = int(events.sum())
    apart = sum(t.events * abs(t.mean_score - t.positive_share) for t in found if t is not None)
    return found, apart / total if total else None
