"""What a backtest came to, as data: volume, quality, and the difference to what was published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from worker.accuracy import auc, average_precision, card_precision, rmse
from worker.published import ALERTS_FILE, SCORES_FILE, Published, event_us, place_of, places
from worker.replay_table import UNKNOWN_US
from worker.skew import compare

DAY_US = 86_400_000_000
TOP = 100  # keys a day, of card_precision
_EXAMPLES = 20
_POINTS = 200  # of a curve
_BINS = 40
_COLUMNS = ("source_partition", "source_offset", "event_time", "score", "key", "lifecycle", "severity")
_FLAGS = ("late", "incomplete", "degradation")


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityRows:
    """Which events the quality is measured on."""

    from_us: int | None = None  # those from this event time on
    known_since_us: int | None = None  # without keys that had a positive since then, known when the day began


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcomes:
    """The columns of scores.parquet, and alerts.parquet by place."""

    place: NDArray[np.int64]  # (n,) see worker.published
    event_us: NDArray[np.int64]  # (n,)
    score: NDArray[np.float32]  # (n,) NaN: the model had none
    key: NDArray[np.int64]  # (n,) equal for equal keys
    is_alert: NDArray[np.bool_]  # (n,) the event raised or updated one
    truth: NDArray[np.float64] | None  # (n,) NaN: not known
    known_us: NDArray[np.int64] | None  # (n,) event time from which it is known
    flags: dict[str, int]  # how many scores carry each
    alerts: dict[int, dict[str, Any]]


def read_outcomes(folders: Sequence[Path]) -> Outcomes | None:
    """The outcomes of a backtest, together where its partitions were run apart; None: there are none."""
    paths = [path for folder in folders if (path := folder / SCORES_FILE).exists()]
    if not paths:
        return None
    has_truth = "truth" in pq.read_schema(paths[0]).names
    columns = [*_COLUMNS, *_FLAGS, *(("truth", "truth_known_at") if has_truth else ())]
    table = pa.concat_tables(
        [pq.read_table(path, columns=columns, read_dictionary=["key"]) for path in paths]
    )
    key = table["key"].unify_dictionaries().combine_chunks()
    alerts: dict[int, dict[str, Any]] = {}
    for folder in folders:
        if (folder / ALERTS_FILE).exists():
            for alert in pq.read_table(folder / ALERTS_FILE).to_pylist():
                alerts[place_of(alert)] = {**alert, "features": dict(alert["features"])}
    known_us = table["truth_known_at"].cast(pa.int64()).fill_null(UNKNOWN_US) if has_truth else None
    degraded = pc.not_equal(table["degradation"].cast(pa.string()), "NONE")
    return Outcomes(
        place=places(table["source_partition"].to_numpy(), table["source_offset"].to_numpy()),
        event_us=table["event_time"].cast(pa.int64()).to_numpy(),
        score=table["score"].to_numpy().astype(np.float32),
        key=key.indices.to_numpy().astype(np.int64),
        is_alert=pc.is_in(table["lifecycle"].cast(pa.string()), pa.array(["RAISED", "UPDATED"])).to_numpy(),
        truth=table["truth"].to_numpy() if has_truth else None,
        known_us=None if known_us is None else known_us.to_numpy(),
        flags={
            "late": pc.sum(table["late"]).as_py() or 0,
            "incomplete": pc.sum(table["incomplete"]).as_py() or 0,
            "degraded": pc.sum(degraded).as_py() or 0,
        },
        alerts=alerts,
    )


def volume(found: Outcomes) -> dict[str, Any]:
    """How many scores and alerts there are, of which kind, and on which days."""
    kinds = Counter(f"{alert['severity']} {alert['lifecycle']}" for alert in found.alerts.values())
    days, per_day = np.unique(found.event_us // DAY_US, return_counts=True)
    alert_us = np.array([event_us(alert) for alert in found.alerts.values()], np.int64)
    alert_days, alerts_per_day = np.unique(alert_us // DAY_US, return_counts=True)
    alerts_on = dict(zip(alert_days.tolist(), alerts_per_day.tolist(), strict=True))
    finite = found.score[np.isfinite(found.score)]
    counts, edges = np.histogram(finite, _BINS) if len(finite) else (np.zeros(0), np.zeros(0))
    return {
        "scores": len(finite),
        "scores_that_are": found.flags,
        "alerts": len(found.alerts),
        "alerts_by_kind": dict(kinds.most_common()),
        "per_day": [
            {"day": _day(day), "events": events, "alerts": alerts_on.get(day, 0)}
            for day, events in zip(days.tolist(), per_day.tolist(), strict=True)
        ],
        "score_histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def quality(found: Outcomes, which: QualityRows, meaning: str) -> dict[str, Any] | None:
    """Measures over the events whose truth is known; None where there is nothing to measure."""
    if found.truth is None or found.known_us is None:
        return None
    rows = np.isfinite(found.truth) & np.isfinite(found.score)
    if which.from_us is not None:
        rows &= found.event_us >= which.from_us
    if which.known_since_us is not None:
        rows &= ~_is_known(found, which.known_since_us)
    truth, score = found.truth[rows], found.score[rows]
    said: dict[str, Any] = {"events": len(truth), "meaning": meaning}
    if meaning != "probability":
        if len(truth):
            said["rmse"] = rmse(truth, score)
            said["mean_absolute_error"] = float(np.mean(np.abs(score - truth)))
        return said
    positive, alerting = truth > 0, found.is_alert[rows]
    said |= {
        "positives": int(positive.sum()),
        "alerts": int(alerting.sum()),
        "alert_precision": _share(positive[alerting]),
        "alert_recall": _share(alerting[positive]),
    }
    if positive.any() and not positive.all():
        day, key = found.event_us[rows] // DAY_US, found.key[rows]
        said |= {
            "auc": auc(positive.astype(np.int8), score),
            "average_precision": average_precision(positive.astype(np.int8), score),
            f"card_precision_{TOP}": card_precision(day, key, positive.astype(np.int8), score, TOP),
            "curve": _curve(positive, score),
        }
    return said


def difference(found: Outcomes, published: Published, folders: Sequence[Path]) -> dict[str, Any]:
    """Which scores, alerts and features are not those that were published about the same events."""
    order = np.argsort(found.place)
    at = np.searchsorted(found.place[order], published.place)
    at = np.minimum(at, max(len(order) - 1, 0))
    here = found.place[order][at] == published.place if len(order) else np.zeros(0, np.bool_)
    ours, theirs = found.score[order][at[here]], published.score[here]
    moved = np.abs(ours.astype(np.float64) - theirs)
    differs = ours.view(np.int32) != theirs.view(np.int32)
    alerts = published.alerts
    appear = [found.alerts[place] for place in found.alerts.keys() - alerts.keys()]
    vanish = [alerts[place] for place in alerts.keys() - found.alerts.keys()]
    both = alerts.keys() & found.alerts.keys()
    change = [place for place in both if _kind(alerts[place]) != _kind(found.alerts[place])]
    names = {name for alert in alerts.values() for name in alert["features"]}
    return {
        "models": list(published.models),
        "scores": {
            "compared": int(here.sum()),
            "published_only": int((~here).sum()),
            "here_only": len(found.place) - int(here.sum()),
            "differ": int(differs.sum()),
            "largest_difference": float(np.nanmax(moved, initial=0.0)),
            "mean_difference": float(np.nanmean(moved)) if len(moved) else 0.0,
        },
        "alerts": {
            "published": len(alerts),
            "here": len(found.alerts),
            "same": len(both) - len(change),
            "appear": len(appear),
            "vanish": len(vanish),
            "change": len(change),
        },
        "features": asdict(compare(alerts.values(), features_at(folders, names, set(alerts)))),
        "examples": {
            "appear": _examples(appear),
            "vanish": _examples(vanish),
            "change": _examples([found.alerts[place] for place in change], alerts),
        },
    }


def features_at(folders: Sequence[Path], names: set[str], wanted: set[int]) -> dict[int, dict[str, float]]:
    """The features that scores.parquet has for some places, by place."""
    found: dict[int, dict[str, float]] = {}
    sought = np.array(sorted(wanted), np.int64)
    for path in [folder / SCORES_FILE for folder in folders if (folder / SCORES_FILE).exists()]:
        with pq.ParquetFile(path) as file:
            known = [name for name in file.schema_arrow.names if name in names]
            for batch in file.iter_batches(columns=["source_partition", "source_offset", *known]):
                here = places(
                    batch.column("source_partition").to_numpy(), batch.column("source_offset").to_numpy()
                )
                rows = np.flatnonzero(np.isin(here, sought))
                values = batch.select(known).take(pa.array(rows)).to_pylist()
                found |= dict(zip(here[rows].tolist(), values, strict=True))
    return found


def _is_known(found: Outcomes, since_us: int) -> NDArray[np.bool_]:
    """(n,) whether a positive of the event's key was known when the day of the event began."""
    assert found.truth is not None
    assert found.known_us is not None
    first_us = np.full(int(found.key.max(initial=-1)) + 1, UNKNOWN_US, np.int64)
    positive = (found.truth > 0) & (found.event_us >= since_us)
    np.minimum.at(first_us, found.key[positive], found.known_us[positive])
    return first_us[found.key] < found.event_us // DAY_US * DAY_US


def _curve(positive: NDArray[np.bool_], score: NDArray[np.float32]) -> list[dict[str, float]]:
    """Points of precision, recall and false positives over thresholds, the highest first."""
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    hits = np.cumsum(positive[order])[last]
    # Evenly over the recall, and over all thresholds: the former shows precision, the latter the rest.
    some = np.unique(
        np.concatenate(
            [
                np.searchsorted(hits, np.linspace(0, hits[-1], _POINTS)),
                np.linspace(0, len(last) - 1, _POINTS).astype(np.int64),
            ]
        )
    ).clip(0, len(last) - 1)
    others = int((~positive).sum())
    return [
        {
            "threshold": float(score[order][last[i]]),
            "precision": float(hits[i] / (last[i] + 1)),
            "recall": float(hits[i] / hits[-1]),
            "false_positive_rate": float((last[i] + 1 - hits[i]) / others),
        }
        for i in some.tolist()
    ]


def _examples(
    alerts: list[dict[str, Any]], before: dict[int, dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """The most urgent ones, as far as a reader needs them."""
    chosen = sorted(alerts, key=lambda alert: (-alert["score"], alert["source_offset"]))[:_EXAMPLES]
    return [
        {
            "event_id": alert["event_id"],
            "key": alert["key"],
            "source_partition": alert["source_partition"],
            "source_offset": alert["source_offset"],
            "event_time": _time(event_us(alert)),
            "score": alert["score"],
            "severity": alert["severity"],
            "lifecycle": alert["lifecycle"],
            "was": " ".join(_kind(before[place_of(alert)])) if before else None,
            "reasons": [reason["text"] for reason in alert["reasons"]],
        }
        for alert in chosen
    ]


def _kind(alert: dict[str, Any]) -> tuple[str, str]:
    return str(alert["severity"]), str(alert["lifecycle"])


def _share(which: NDArray[np.bool_]) -> float | None:
    return float(which.mean()) if len(which) else None


def _time(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1_000_000, UTC).isoformat(timespec="milliseconds")


def _day(day: int) -> str:
    return datetime.fromtimestamp(day * 86_400, UTC).date().isoformat()
