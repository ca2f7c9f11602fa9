"""What a run was worth: throughput, latency from the intended time on, and one outcome per event, as JSON."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

from loadgen.mutate import KINDS
from loadgen.outcomes import Outcomes

PERCENTILES = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99)
# For the curve: evenly spaced in log(1 / (1 - p)), as HdrHistogram plots are.
_CURVE = tuple(float(100 * (1 - 10**-x)) for x in np.arange(0, 5.01, 0.1))
_HIGHEST_US = 24 * 3600 * 1_000_000
REMAINING_LIFE_CAP = 125.0  # cycles; the C-MAPSS protocol


def report(outcomes: Outcomes) -> dict[str, Any]:
    """Sum up one stream.

    Latency counts from the time at which an event was due, not from when it was sent: a stall of the system
    or of the sender shows in every event that had to wait (no coordinated omission).
    """
    ledger = outcomes.ledger
    columns = outcomes.columns()
    due_s = ledger.due_s
    latency_s = columns["read_s"] - ledger.origin_s - due_s
    scored = columns["scores"] > 0
    dead = columns["dead_letters"] > 0
    histogram = latency_histogram(latency_s[scored])
    seconds = float(due_s[-1] - due_s[0]) if len(due_s) > 1 else 0.0
    outcome_count = columns["scores"].astype(np.int64) + columns["dead_letters"]
    return {
        "events": ledger.sent,
        "scores": int(scored.sum()),
        "alerts": outcomes.alert_records,
        "dead_letters": int(dead.sum()),
        "unaccounted": int((outcome_count == 0).sum()),
        "duplicates": int(np.maximum(outcome_count - 1, 0).sum()),
        "scored_and_dead": int((scored & dead).sum()),
        "foreign": outcomes.foreign,
        "unreadable": outcomes.unreadable,
        "dead_letter_reasons": dict(outcomes.reasons.most_common()),
        "mutated": _by_mutation(ledger.mutation, scored, dead),
        "seconds": seconds,
        "events_per_s": len(due_s) / seconds if seconds > 0 else 0.0,
        "latency_ms": latency_summary(histogram),
        "send_late_ms": _late_summary(np.array(ledger.late_s, np.float32)),
        "quality": quality(ledger.name, columns["score"][scored], ledger.truth[scored]),
        "latency_curve_ms": _values_at(histogram, _CURVE),
        "per_second": per_second(due_s, latency_s, columns["read_s"] - ledger.origin_s),
    }


def latency_histogram(latency_s: NDArray[np.float64]) -> HdrHistogram:
    """Put latencies, (n,) seconds, into a histogram of microseconds with three significant digits."""
    histogram = HdrHistogram(1, _HIGHEST_US, 3)
    values, counts = np.unique(np.clip(latency_s * 1e6, 1, _HIGHEST_US).astype(np.int64), return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        histogram.record_value(value, count)
    return histogram


def latency_summary(histogram: HdrHistogram) -> dict[str, float | None]:
    """Name the percentiles in milliseconds; None without any value."""
    if not histogram.get_total_count():
        return dict.fromkeys([*(f"p{p:g}" for p in PERCENTILES), "max", "mean"])
    found = {f"p{p:g}": value for p, value in _values_at(histogram, PERCENTILES)}
    return found | {"max": histogram.get_max_value() / 1000, "mean": histogram.get_mean_value() / 1000}


def _values_at(histogram: HdrHistogram, percentiles: Sequence[float]) -> list[tuple[float, float]]:
    """Return (percentile, milliseconds) in ascending order; nothing without any value."""
    if not histogram.get_total_count():
        return []
    # One pass: asking for one percentile after the other walks all buckets each time, in pure Python.
    found = histogram.get_percentile_to_value_dict(list(percentiles))
    return [(p, found[p] / 1000) for p in sorted(found)]


def per_second(
    due_s: NDArray[np.float64], latency_s: NDArray[np.float64], read_s: NDArray[np.float64]
) -> dict[str, list[float | None]]:
    """Cut a run into seconds.

    Args:
        due_s: (n,) intended times.
        latency_s: (n,) NaN without outcome.
        read_s: (n,) when the outcome could be read, since the start; NaN without.

    Returns:
        Columns by second since the start: events due, outcomes read, p50 and p99 in ms of those due then.
    """
    if not len(due_s):
        return {"events": [], "outcomes": [], "p50_ms": [], "p99_ms": []}
    have = np.isfinite(read_s)
    seconds = int(max(due_s.max(), read_s[have].max() if have.any() else 0.0)) + 1
    due_in = np.bincount(due_s.astype(np.int64), minlength=seconds)
    read_in = np.bincount(np.maximum(read_s[have], 0).astype(np.int64), minlength=seconds)
    bounds = np.searchsorted(due_s, np.arange(seconds + 1))
    halves: list[float | None] = []
    tails: list[float | None] = []
    for low, high in itertools.pairwise(bounds):
        here = latency_s[low:high]
        here = here[np.isfinite(here)]
        halves.append(float(np.percentile(here, 50)) * 1000 if len(here) else None)
        tails.append(float(np.percentile(here, 99)) * 1000 if len(here) else None)
    return {"events": due_in.tolist(), "outcomes": read_in.tolist(), "p50_ms": halves, "p99_ms": tails}


def quality(name: str, score: NDArray[np.float32], truth: NDArray[np.float32]) -> dict[str, float | None]:
    """Judge scores by the truth: remaining cycles by error, everything else by rank.

    Args:
        name: of the pipeline; "maintenance" predicts remaining cycles.
        score, truth: (n,) of scored events; a truth of NaN is left out.
    """
    known = np.isfinite(truth) & np.isfinite(score)
    predicted, actual = score[known].astype(np.float64), truth[known].astype(np.float64)
    if name != "maintenance":
        return {"roc_auc": roc_auc(predicted, actual > 0.5)}
    if not len(predicted):
        return {"rmse": None, "rmse_uncapped": None}
    capped = predicted - np.minimum(actual, REMAINING_LIFE_CAP)
    return {
        "rmse": float(np.sqrt(np.mean(capped**2))),
        "rmse_uncapped": float(np.sqrt(np.mean((predicted - actual) ** 2))),
    }


def roc_auc(score: NDArray[np.float64], positive: NDArray[np.bool_]) -> float | None:
    """Return the probability that a positive scores above a negative, ties half; None without both."""
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return None
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    return float(
        (mean_rank[inverse][positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)
    )


def _late_summary(late_s: NDArray[np.float32]) -> dict[str, float]:
    if not len(late_s):
        return {"p99": 0.0, "max": 0.0}
    return {"p99": float(np.percentile(late_s, 99)) * 1000, "max": float(late_s.max()) * 1000}


def _by_mutation(
    mutation: NDArray[np.int8], scored: NDArray[np.bool_], dead: NDArray[np.bool_]
) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    for code in np.unique(mutation[mutation > 0]).tolist():
        rows = mutation == code
        table[KINDS[code - 1]] = {
            "records": int(rows.sum()),
            "scores": int(scored[rows].sum()),
            "dead_letters": int(dead[rows].sum()),
            "unaccounted": int((~scored[rows] & ~dead[rows]).sum()),
        }
    return table
