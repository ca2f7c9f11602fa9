"""The reasons of an alert are what moved its score towards the threshold, else what stands out most."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.schema import load_schema
from tests.builders import events, features
from worker.batch import Batch
from worker.config import load_pipeline
from worker.contributions import Compared, Usual
from worker.decide import CLEARED, NONE, RAISED, UPDATED, Decisions
from worker.infer import Model, infer, load_model
from worker.plan import feature_plan
from worker.reasons import ReasonPlan, Reasons, reason_plan, reasons
from worker.scoring import DeviceFailedError
from worker.session import ModelError

ROOT = Path(__file__).parents[2]


def told(
    names: list[str],
    values: list[list[float]],
    contributed: list[list[float]] | Exception | None,
    monkeypatch: pytest.MonkeyPatch,
    *,
    lifecycle: list[int] | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    **more: Any,
) -> Reasons:
    """Reasons of events that the model says this of; None: rules gave the scores."""
    count = len(values)
    mean_, std_ = np.array(mean or [0.0] * len(names)), np.array(std or [1.0] * len(names))
    plan = ReasonPlan(
        names=tuple(names),
        sentences=tuple(lambda value, _, name=name: f"{name} {value:g}" for name in names),  # type: ignore[misc]
        usual=Usual(p50=mean_, std=std_, is_read=np.ones(len(names), np.bool_), channels=()),
        mean=mean_,
        alert_below=more.pop("alert_below", False),
        asks_model=more.pop("asks_model", True),
    )

    def says(_model: Any, batch: Any, rows: Any, *_: Any) -> Compared:
        if isinstance(contributed, Exception):
            raise contributed
        return Compared(
            values=batch.scalars[rows],
            usual=np.tile(mean_, (len(rows), 1)),
            scale=np.tile(std_, (len(rows), 1)),
            contributions=np.array(contributed)[rows],
        )

    monkeypatch.setattr("worker.reasons.contributions", says)
    made = replace(features(np.array(values)), **more)
    decisions = Decisions(
        lifecycle=np.array(lifecycle or [RAISED] * count, np.uint8), level=np.ones(count, np.uint8)
    )
    model: Any = None if contributed is None else object()
    batch = Batch(events=events(time_us=[0] * count), features=made)
    return reasons(plan, batch, np.ones(count, np.float32), decisions, model)


def names(found: list[dict[str, Any]]) -> list[str]:
    return [reason["feature"] for reason in found]


ABCDE = list("abcde")
VALUES = [[9.0, 1.0, 2.0, 3.0, 4.0]]


def test_the_three_that_moved_the_score_most_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    found = told(ABCDE, VALUES, [[0.1, 0.4, -0.6, 0.2, 0.3]], monkeypatch)[0]

    assert names(found) == ["b", "e", "d"]
    assert found[0] == {"feature": "b", "value": 1.0, "usual": 0.0, "contribution": 0.4, "text": "b 1"}


def test_what_speaks_against_the_alert_or_is_not_known_is_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    found = told(ABCDE, VALUES, [[np.nan, -0.4, 0.6, 0.0, np.nan]], monkeypatch)[0]

    assert names(found) == ["c"]


def test_where_low_scores_alert_what_lowers_them_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    found = told(ABCDE, VALUES, [[5.0, -40.0, -6.0, 0.0, -7.0]], monkeypatch, alert_below=True)[0]

    assert names(found) == ["b", "e", "c"]
    assert [reason["contribution"] for reason in found] == [-40.0, -7.0, -6.0]


def test_a_cleared_alert_has_what_speaks_against_it_as_its_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    same = [[0.1, -0.4, 0.6, 0.0, -0.7]] * 3

    found = told(ABCDE, VALUES * 3, same, monkeypatch, lifecycle=[RAISED, UPDATED, CLEARED])

    assert [names(found[row]) for row in range(3)] == [["c", "a"], ["c", "a"], ["e", "b"]]


def test_only_alerts_that_are_published_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    same = [[1.0]] * 4
    muted = np.array([False, True, False, False])

    found = told(
        ["a"], [[1.0]] * 4, same, monkeypatch, lifecycle=[NONE, RAISED, RAISED, NONE], is_muted=muted
    )

    assert list(found) == [2]
    assert told(["a"], [[1.0]], same, monkeypatch, lifecycle=[NONE]) == {}


@pytest.mark.parametrize(
    "without",
    [None, ModelError("broken"), DeviceFailedError("gone"), [[np.nan] * 4], [[0.0, 0.0, -0.1, 0.0]]],
)
def test_where_the_model_gives_no_reason_what_is_unusual_is_told(
    without: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = told(
        ["amount", "count", "night", "risk"],
        [[250.0, 3.0, 1.0, 0.51]],
        without,
        monkeypatch,
        mean=[50, 3, 0.2, 0.01],
        std=[40, 1, 0.4, 0.05],
    )[0]

    assert names(found) == ["risk", "amount", "night"]
    assert found[1] == {
        "feature": "amount",
        "value": 250.0,
        "usual": 50.0,
        "contribution": None,
        "text": "amount 250",
    }


def test_less_than_usual_is_unusual_too_and_what_is_near_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    found = told(["a", "b", "c"], [[2.0, -5.0, 0.9]], None, monkeypatch)[0]

    assert names(found) == ["b", "a"]


def test_a_feature_that_never_varied_or_is_not_described_is_not_unusual(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = told(["constant", "unknown"], [[9.0, 9.0]], None, monkeypatch, mean=[1, np.nan], std=[0, np.nan])

    assert found == {0: []}


def test_on_request_the_model_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    found = told(["a", "b"], [[2.0, 5.0]], ModelError("asked all the same"), monkeypatch, asks_model=False)

    assert names(found[0]) == ["b", "a"]
    assert found[0][0]["contribution"] is None


def plan_of(name: str, version: str, *, alert_below: bool) -> tuple[Model, ReasonPlan]:
    """A shipped pipeline's model and how its alerts are explained."""
    loaded = load_pipeline(ROOT / "pipelines" / f"{name}.yaml", {})
    plan = feature_plan(loaded)
    assert loaded.model is not None
    model = load_model(ROOT / "models" / loaded.model.name / version, plan, "cpu")
    schema = load_schema(loaded.source.schema_ref, loaded.base)
    return model, reason_plan(plan, schema, model.card, alert_below=alert_below, asks_model=True)


def of_one(model: Model, plan: ReasonPlan, made: Any) -> list[dict[str, Any]]:
    batch = Batch(events=events(time_us=[0]), features=made)
    decisions = Decisions(lifecycle=np.array([RAISED], np.uint8), level=np.ones(1, np.uint8))
    return reasons(plan, batch, infer(model, made), decisions, model)[0]


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_shipped_model_says_why_in_a_sentence(version: str) -> None:
    model, plan = plan_of("fraud", version, alert_below=False)
    row = plan.usual.p50.copy()
    row[plan.names.index("terminal.mean_7d")] = 0.8

    found = of_one(model, plan, features(row[None]))

    assert [reason["feature"] for reason in found] == ["terminal.mean_7d"]
    assert found[0]["text"] == "terminal: fraud in 80 % of the labels in the last 7 days; usually 0 %"
    assert found[0]["contribution"] > 0


def test_a_model_of_a_sequence_says_which_channels() -> None:
    model, plan = plan_of("maintenance", "1", alert_below=True)
    with np.load(model.card.folder / "golden.npz") as golden:
        readings, life = golden["readings"], golden["expected"]
    new, old = readings[[np.argmax(life)]], readings[[np.argmin(life)]]
    worn = new + np.linspace(0, 1, readings.shape[1])[None, :, None] * (old - new)
    made = features(np.zeros((1, 0)), sequences={"readings": worn.astype(np.float32)})

    found = of_one(model, plan, made)

    assert found
    assert all(reason["contribution"] < 0 for reason in found)
    first = found[0]
    field = first["feature"].removeprefix("readings.")
    assert first["feature"] == f"readings.{field}"
    assert first["text"].startswith(f"{field} went from ")
    assert first["text"].endswith(" within 30 readings")
