"""On the alerts of the handbook's test week, trees are explained as the `shap` package explains them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from schemas.schema import load_schema
from tests.builders import features
from tests.parity.shap_trees import shap_ensemble, top_agreement
from training.fraud_data import kept_test_week, load_features
from worker.config import load_pipeline
from worker.contributions import contributions
from worker.infer import infer, load_model
from worker.plan import feature_plan
from worker.reasons import reason_plan

ROOT = Path(__file__).parents[2]
WARNING = 0.5  # of pipelines/fraud.yaml


def test_the_three_main_reasons_are_those_of_shap_on_nine_alerts_of_ten(data: Path) -> None:
    shap = pytest.importorskip("shap")
    plan = feature_plan(load_pipeline(ROOT / "pipelines" / "fraud.yaml", {}))
    model = load_model(ROOT / "models" / "fraud" / "1", plan, "cpu")
    how = reason_plan(plan, load_schema("transaction"), model.card, alert_below=False, asks_model=True)
    week = features(kept_test_week(load_features(data)).features.astype(np.float64))
    scores = infer(model, week)
    alerting = np.flatnonzero(scores >= WARNING)
    assert len(alerting) > 100
    judge = shap.TreeExplainer(
        shap_ensemble(model.card.onnx_file),
        data=how.usual.p50[None].astype(np.float32),
        feature_perturbation="interventional",
        model_output="probability",
    )
    expected = judge.shap_values(week.scalars[alerting].astype(np.float32), check_additivity=False)

    found = contributions(model, week, alerting, scores, how.usual).contributions

    assert top_agreement(found, np.asarray(expected))["ranking"] >= 0.9
    np.testing.assert_allclose(found, expected, atol=1e-4)
