"""The current figures of a pipeline: of each model version, in each segment."""

from __future__ import annotations

from feature_cache.cases import NONE, Cases
from worker.decide import DecisionPolicy
from worker.figures import figures, groups, together
from worker.truth_topic import Row, row_of
from worker.truth_types import OF_ALL, OF_NOBODY, TruthOptions


def current_rows(
    cases: Cases, truth: TruthOptions, policy: DecisionPolicy | None, pipeline: str, now_us: int
) -> list[Row]:
    """Rows by version and segment, over the window that ends with the newest bucket.

    Args:
        cases: what was counted.
        truth: which window, which segments.
        policy: the thresholds; None without alerts.
        pipeline: its name.
        now_us: wall clock.

    Raises:
        StoreUnavailableError: the store did not answer.
    """
    newest = cases.newest()
    if newest is None:
        return []
    first = newest + 1 - truth.window_us // truth.bucket_us
    counted = groups(cases.cells(range(first, newest + 1)), _negative_before(truth, newest))
    segments = (*truth.segments, *({segment for _, segment in counted} - set(truth.segments)))
    rows = []
    for version in sorted({version for version, _ in counted}):
        parts = {segment: counted[version, segment] for segment in segments if (version, segment) in counted}
        named = {OF_NOBODY if segment == NONE else segment: cells for segment, cells in parts.items()}
        for segment, cells in {OF_ALL: together(parts.values()), **(named if truth.segment else {})}.items():
            found = figures(
                cells,
                len(policy.severities) if policy else 0,
                alert_below=policy is not None and policy.alert_below,
            )
            if found.scored:
                whose = {"pipeline": pipeline, "model_version": version, "segment": segment}
                window = (first * truth.bucket_us, (newest + 1) * truth.bucket_us)
                when = {"computed_at": now_us, "window_start": window[0], "window_end": window[1]}
                rows.append(row_of(found, policy, **whose, **when))
    return rows


def _negative_before(truth: TruthOptions, newest: int) -> int | None:
    """The bucket before which an event without a label is a negative: all of a horizon lies between."""
    if truth.unlabelled == "ignore":
        return None
    return newest - -(-truth.horizon_ms * 1000 // truth.bucket_us)
