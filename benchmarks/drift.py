"""Clean and shifted replays of the handbook's transactions before the drift watch."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from benchmarks.machine import write_result
from training.fraud_data import FraudRows, load_features
from training.model_folder import REPOSITORY, score
from worker.config import load_pipeline
from worker.drift import Drift, DriftPolicy
from worker.metrics import Meter
from worker.model_file import load_model_card
from worker.pipeline_types import Pipeline
from worker.plan import feature_plan
from worker.watch import Watched, counted_things, tolerances, watched_columns
from worker.watch_types import DriftOptions

_FIRST, _LAST = "2018-04-01", "2018-09-30"
_FULL_DAY = 37  # from here on every window is full, as it was for the training week
_DAYS, _LAST_DAY = 58, 182  # a replay is as long as that from 2018-06-18 to 08-14
_REPLAYS = 20
_SHIFT = 0.5  # standard deviations of the training rows
_WITHIN = 10_000
_CALM = 30_000  # events before the shift


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Replay:
    """Two months of some customers."""

    first_day: int
    rows: NDArray[np.int64]  # of all transactions, in their order; a customer drawn twice comes twice


def replays(rows: FraudRows, count: int) -> Iterator[Replay]:
    """Yield different two months with full windows, customers drawn with replacement each time."""
    starts = np.linspace(_FULL_DAY, _LAST_DAY + 1 - _DAYS, count).astype(int)
    customers = np.unique(rows.customer)
    for number, first_day in enumerate(starts.tolist()):
        random = np.random.default_rng(number)
        times = np.zeros(customers.max() + 1, np.int64)
        np.add.at(times, random.choice(customers, len(customers)), 1)
        inside = np.flatnonzero((rows.day >= first_day) & (rows.day < first_day + _DAYS))
        yield Replay(first_day=first_day, rows=np.repeat(inside, times[rows.customer[inside]]))


def _alarms(judged: list[Any], watched: Watched) -> dict[str, int]:
    """By alarm, after how many judgements it was raised first."""
    first: dict[str, int] = {}
    names, counted = watched.bins.names, [f"{t.kind} {t.subject}" for t in watched.counted]
    for at, judgement in enumerate(judged, 1):
        for kind, raised, subjects in (
            ("SHIFT", judgement.has_shifted, names),
            ("PSI", judgement.is_apart, names),
            ("MISSING", judgement.is_missing, names),
            ("", judgement.is_frequent, counted),
        ):
            for column in np.flatnonzero(raised).tolist():
                first.setdefault(f"{kind} {subjects[column]}".strip(), at)
    return first


class _Case:
    """The watch of the shipped pipeline, before columns that are made beforehand."""

    def __init__(self, pipeline: Pipeline, options: DriftOptions, version: str) -> None:
        self.plan = feature_plan(pipeline)
        self.card = load_model_card(REPOSITORY / "fraud" / version)
        self.watched = watched_columns(self.plan, self.card, options, counted_things(pipeline, self.plan))
        self.tolerance = tolerances(self.watched, options)
        self.policy = DriftPolicy(
            window_events=options.window_events,
            psi=options.psi,
            tolerance=options.tolerance,
            false_alarm_events=options.false_alarm_events,
        )

    def run(self, features: NDArray[np.float32], scores: NDArray[np.float32]) -> tuple[dict[str, int], float]:
        """First judgement of each alarm, and nanoseconds an event."""
        watched, n = self.watched, len(features)
        x = np.empty((n, len(watched.bins)), np.float32)
        x[:, :-1] = features[:, watched.scalars]
        x[:, -1] = scores
        hits = np.zeros((n, len(watched.counted)), np.bool_)
        for at, thing in enumerate(watched.counted):
            if thing.kind == "DEFAULT":
                hits[:, at] = features[:, thing.column] == thing.default
        usual = np.array([thing.usual for thing in watched.counted])
        drift = Drift(watched.bins, self.tolerance, usual, self.policy)
        meter = Meter("benchmark", CollectorRegistry())
        meter.watch_version(self.card.version, watched.bins.names)
        whole, judged = np.ones(n, np.bool_), []
        began_ns = time.process_time_ns()
        for begin in range(0, n, 1024):  # as batches come
            part = slice(begin, begin + 1024)
            for judgement in drift.add(x[part], whole[part], hits[part]):
                meter.drift(judgement.psi, judgement.mean_rank)
                judged.append(judgement)
        took_ns = (time.process_time_ns() - began_ns) / n
        return _alarms(judged, watched), took_ns


def main() -> int:
    """Run both, write the result; 1 where a false alarm was raised or a shift was not found in time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("PENSTOCK_DATA", "data")))
    parser.add_argument("--version", default="2")
    arguments = parser.parse_args()
    pipeline = load_pipeline(REPOSITORY.parent / "pipelines" / "fraud.yaml", {})
    case = _Case(pipeline, DriftOptions(), arguments.version)
    output = {"tensor": case.card.output.tensor, "column": case.card.output.column}
    rows = load_features(arguments.data, _FIRST, _LAST)
    scores = score(case.card.onnx_file, rows.features, output)
    clean: list[dict[str, Any]] = []
    ns = []
    for replay in replays(rows, _REPLAYS):
        alarms, took_ns = case.run(rows.features[replay.rows], scores[replay.rows])
        clean.append({"first_day": replay.first_day, "events": len(replay.rows), "alarms": sorted(alarms)})
        ns.append(took_ns)
        print(clean[-1], flush=True)
    shifted = [
        _shifted(case, rows, scores, output, name, replay)
        for replay in replays(rows, 5)
        for name in case.watched.bins.names[:-1]
    ]
    false_alarms = sum(len(each["alarms"]) for each in clean)
    late = [each for each in shifted if each["found_after_events"] is None]
    found = [each["found_after_events"] for each in shifted if each["found_after_events"] is not None]
    result = {
        "model": f"fraud {arguments.version}",
        "policy": {
            "window_events": case.policy.window_events,
            "psi": case.policy.psi,
            "tolerance": case.policy.tolerance,
            "score_tolerance": float(case.tolerance[-1]),
            "false_alarm_events": case.policy.false_alarm_events,
        },
        "clean": {
            "replays": len(clean),
            "events": sum(each["events"] for each in clean),
            "false_alarms": false_alarms,
            "each": clean,
        },
        "shifted": {
            "standard_deviations": _SHIFT,
            "within_events": _WITHIN,
            "injected": len(shifted),
            "found": len(found),
            "slowest_events": max(found, default=None),
            "median_events": float(np.median(found)) if found else None,
            "each": shifted,
        },
        "ns_per_event": round(float(np.median(ns)), 1),
    }
    print(f"{false_alarms} false alarms in {len(clean)} clean replays")
    print(f"{len(found)} of {len(shifted)} shifts found")
    print(write_result("drift", result))
    return 1 if false_alarms or late else 0


def _shifted(
    case: _Case,
    rows: FraudRows,
    scores: NDArray[np.float32],
    output: dict[str, Any],
    name: str,
    replay: Replay,
) -> dict[str, Any]:
    """How soon a shift of this feature alone is found, in the middle of a replay; the model sees it too."""
    here = replay.rows[: _CALM + _WITHIN]
    features, given = rows.features[here].copy(), scores[here].copy()
    column = case.plan.names.index(name)
    features[_CALM:, column] += np.float32(_SHIFT * case.card.reference[name].std)
    given[_CALM:] = score(case.card.onnx_file, features[_CALM:], output)
    alarms, _ = case.run(features, given)
    of_feature = [at for alarm, at in alarms.items() if alarm.split()[1] == name]
    after = min(of_feature) * case.policy.block_events - _CALM if of_feature else None
    return {"feature": name, "first_day": replay.first_day, "found_after_events": after}


if __name__ == "__main__":
    sys.exit(main())
