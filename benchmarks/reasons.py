"""What the reasons of alerts cost, and how far contributions agree with the `shap` package.

python -m benchmarks.reasons --data DIR     # needs shap, which is among the dev extras
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import shap
import structlog
from numpy.typing import NDArray

from benchmarks.jobs import fraud_traffic
from benchmarks.machine import write_result
from benchmarks.stages import measure
from feature_cache.store import MemoryStore
from schemas.codec import Codec
from schemas.schema import load_schema
from tests.builders import features
from tests.parity.shap_trees import Floats, hessian_cover, shap_ensemble, shapley_by_sums, top_agreement
from training.fraud_data import data_folder, kept_test_week, load_features, training_week
from worker import judge
from worker.batch import Batch
from worker.config import load_pipeline
from worker.contributions import contributions
from worker.infer import Model, infer, load_model
from worker.offline import Offline
from worker.plan import FeaturePlan, feature_plan
from worker.reasons import ReasonPlan, Reasons, reason_plan

_PIPELINES = Path(__file__).resolve().parents[1] / "pipelines"
_MODELS = _PIPELINES.parent / "models"
_SHARE = 0.01  # of events that are alerts
_BACKGROUND = 100
_FULL = 900  # events of a batch that is like those of a busy worker


def main() -> int:
    """Write benchmarks/results/reasons.json."""
    parser = data_folder(__doc__ or "")
    parser.add_argument("--events", type=int, default=20_000, help="a round, default %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default %(default)s")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    plan = feature_plan(load_pipeline(_PIPELINES / "fraud.yaml"))
    result = {
        "agreement": _agreement(arguments.data, plan),
        "cost": _cost(arguments, plan),
    }
    print(write_result("reasons", result))
    return 0


def _agreement(data: Path, plan: FeaturePlan) -> dict[str, Any]:
    """On the alerts of the handbook's test week: how often the three main reasons are those of a judge."""
    rows = load_features(data)
    week, past = kept_test_week(rows).features, training_week(rows).features.astype(np.float64)
    trees, networks = (load_model(_MODELS / "fraud" / version, plan, "cpu") for version in "12")
    found, alerts, medians = _contributions(trees, plan, week)
    asked, _, _ = _contributions(_without_trees(trees), plan, week)
    of_networks, their_alerts, _ = _contributions(networks, plan, week)
    file = trees.card.onnx_file
    background = past[np.random.default_rng(0).choice(len(past), _BACKGROUND, replace=False)]
    medians_judge = _shap(shap_ensemble(file), alerts, medians[None])

    def of_mixtures(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return infer(networks, features(rows.astype(np.float64)))

    exact = np.stack([shapley_by_sums(of_mixtures, alert, medians) for alert in their_alerts])
    return {
        "rows": "kept rows of 2018-08-08..2018-08-14 with a score of at least 0.5",
        "alerts": {"fraud 1": len(alerts), "fraud 2": len(their_alerts)},
        "trees of fraud 1": {
            "shap, interventional, the same medians": top_agreement(found, medians_judge),
            f"shap, interventional, {_BACKGROUND} training rows": top_agreement(
                found, _shap(shap_ensemble(file), alerts, background)
            ),
            "shap, tree_path_dependent, covers of the training week": top_agreement(
                found, _shap(shap_ensemble(file, hessian_cover(file, past)), alerts, None)
            ),
        },
        "fraud 1, asked": {"shap, interventional, the same medians": top_agreement(asked, medians_judge)},
        "fraud 2, asked": {"Shapley values by all 2^15 sums": top_agreement(of_networks, exact)},
    }


def _contributions(
    model: Model, plan: FeaturePlan, rows: NDArray[np.float32]
) -> tuple[Floats, Floats, Floats]:
    """(k, 15) contributions of the alerts among these rows, the alerts, and (15,) medians."""
    schema = load_schema("transaction")
    usual = reason_plan(plan, schema, model.card, alert_below=False, asks_model=True).usual
    batch = features(rows.astype(np.float64))
    scores = infer(model, batch)
    alerting = np.flatnonzero(scores >= 0.5)
    found = contributions(model, batch, alerting, scores, usual)
    return found.contributions, found.values, usual.p50


def _without_trees(model: Model) -> Model:
    return replace(model, trees=None)


def _shap(ensemble: dict[str, Any], rows: Floats, background: Floats | None) -> Floats:
    """Shapley values of the margin, which have the order of those of the score."""
    explainer = shap.TreeExplainer(
        ensemble,
        data=None if background is None else background.astype(np.float32),
        feature_perturbation="tree_path_dependent" if background is None else "interventional",
    )
    return np.asarray(explainer.shap_values(rows.astype(np.float32), check_additivity=False))


def _cost(arguments: argparse.Namespace, plan: FeaturePlan) -> dict[str, Any]:
    """The reasons in a whole worker of which one event in a hundred raises an alert.

    Their own CPU time is taken, as the stage of the stopwatch begins where the one before it ends.
    """
    batch = _features(arguments.events)
    found: dict[str, Any] = {"alerts": _SHARE, "events": arguments.events, "rounds": arguments.rounds}
    for version in "12":
        scores = infer(load_model(_MODELS / "fraud" / version, plan, "cpu"), features(batch))
        decision = {"severities": {"warning": float(np.quantile(scores, 1 - _SHARE))}, "cooldown": "1ms"}
        for how in ("model", "deviation"):
            more = {"model": {"version": version}, "decision": {**decision, "reasons": how}}
            taken: list[tuple[int, int, int]] = []
            with _timed(taken):
                total_us = measure(arguments.events, arguments.rounds, more=more)["total"].us
            full = [(alerts, ns / events / 1000) for events, alerts, ns in taken if events >= _FULL]
            us = float(np.median([us for _, us in full]))
            found[f"fraud {version}, {how}"] = {
                "alerts_per_event": round(sum(a for _, a, _ in taken) / sum(n for n, _, _ in taken), 4),
                "us_per_event": round(us, 3),
                "of_the_worker": round(us / total_us, 4),
                "worker_us_per_event": total_us,
            }
            print(f"fraud {version}, {how}: {us:.3f} of {total_us:.2f} us", file=sys.stderr)
    return found


@contextmanager
def _timed(taken: list[tuple[int, int, int]]) -> Iterator[None]:
    """Note events, alerts and CPU nanoseconds of every batch whose alerts are explained."""
    explain: Any = vars(judge)["reasons"]

    def timed(plan: ReasonPlan, batch: Batch, *of_it: Any) -> Reasons:
        began_ns = time.thread_time_ns()
        told: Reasons = explain(plan, batch, *of_it)
        taken.append((len(batch), len(told), time.thread_time_ns() - began_ns))
        return told

    vars(judge)["reasons"] = timed
    try:
        yield
    finally:
        vars(judge)["reasons"] = explain


def _features(events: int) -> Floats:
    """The features of the traffic that the worker gets."""
    store, traffic = MemoryStore(), fraud_traffic(events)
    for name, topic in (("terminal-risk", "labels"), ("fraud", "transactions")):
        pipeline = load_pipeline(_PIPELINES / f"{name}.yaml")
        table = (
            Codec(load_schema(pipeline.source.schema_ref), "single_object").decode(traffic[topic][1]).table
        )
        made = Offline(pipeline, store).apply(table)
    return made.scalars


if __name__ == "__main__":
    sys.exit(main())
