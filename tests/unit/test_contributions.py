"""A model of any kind is asked what a feature moved its score by, for alerts only and in one extra batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from schemas.schema import load_schema
from tests.builders import features, model_folder, pipeline, table_model
from worker.batch import Features
from worker.config import Pipeline, load_pipeline
from worker.contributions import ASKED, Usual, compared, contributions
from worker.infer import Model, infer, load_model
from worker.plan import FeaturePlan, feature_plan
from worker.reasons import reason_plan

ROOT = Path(__file__).parents[2]
Opened = tuple[Model, FeaturePlan, Usual]


def opened(pipeline: Pipeline, folder: Path) -> Opened:
    """A model of a pipeline, and what is usual for it."""
    plan = feature_plan(pipeline)
    model = load_model(folder, plan, "cpu")
    schema = load_schema(pipeline.source.schema_ref, pipeline.base)
    return model, plan, reason_plan(plan, schema, model.card, alert_below=False, asks_model=True).usual


@pytest.fixture(scope="module")
def networks() -> Opened:
    """fraud 2: fifteen features into networks."""
    return opened(load_pipeline(ROOT / "pipelines" / "fraud.yaml", {}), ROOT / "models" / "fraud" / "2")


@pytest.fixture(scope="module")
def life() -> Opened:
    """rul 1: thirty readings of fourteen sensors."""
    return opened(load_pipeline(ROOT / "pipelines" / "maintenance.yaml", {}), ROOT / "models" / "rul" / "1")


def transactions(usual: Usual, count: int = 40) -> Features:
    """Rows around the medians, some of whose values are exactly usual."""
    random = np.random.default_rng(2)
    rows = usual.p50 + random.normal(size=(count, len(usual.p50))) * usual.std
    return features(np.where(random.random(rows.shape) < 0.3, usual.p50, rows))


def engines(model: Model, count: int = 20) -> Features:
    """Made-up readings of engines that wear out at the end of them."""
    with np.load(model.card.folder / "golden.npz") as golden:
        readings, life = golden["readings"], golden["expected"]
    new, old = readings[[np.argmax(life)]], readings[[np.argmin(life)]]
    until = np.linspace(0, 1, readings.shape[1])[None, :, None] * np.linspace(0.2, 1, count)[:, None, None]
    worn = (new + until * (old - new)).astype(np.float32)
    return features(np.zeros((count, 0)), sequences={"readings": worn})


def one_by_one(model: Model, batch: Features, row: int, usual: Usual) -> NDArray[np.float64]:
    """The slow and obvious way: each column in turn, alone in its batch."""
    of_row = compared(batch, np.array([row]), usual)
    alone = replace(
        batch,
        scalars=batch.scalars[[row]],
        sequences={name: values[[row]] for name, values in batch.sequences.items()},
    )
    score = infer(model, alone)[0]
    found = np.empty(len(usual.p50))
    for column in range(len(found)):
        scalars = alone.scalars.copy()
        sequences = {name: values.copy() for name, values in alone.sequences.items()}
        to = of_row.usual[0, column]
        if column < usual.scalars:
            scalars[0, column] = to
        else:
            name, channel = usual.channels[column - usual.scalars]
            sequences[name][0, :, channel] = to
        found[column] = score - infer(model, replace(alone, scalars=scalars, sequences=sequences))[0]
    return found


def test_a_contribution_is_how_far_the_score_falls_when_the_feature_is_as_usual(networks: Opened) -> None:
    model, _, usual = networks
    batch, rows = transactions(usual), np.array([1, 5, 6, 30])
    assert model.trees is None

    found = contributions(model, batch, rows, infer(model, batch), usual).contributions

    for at, row in enumerate(rows.tolist()):
        expected = one_by_one(model, batch, row, usual)
        asked = ~np.isnan(found[at])
        np.testing.assert_array_equal(found[at, asked], expected[asked])
        as_usual = batch.scalars[row] == usual.p50
        assert asked[as_usual].all()
        far = np.abs(batch.scalars[row] - usual.p50) / usual.std
        furthest = np.argsort(-far)[:ASKED]
        assert asked[furthest].all()
        assert asked.sum() == len(set(furthest.tolist()) | set(np.flatnonzero(as_usual).tolist()))


def test_channels_of_a_sequence_are_compared_with_how_it_began(life: Opened) -> None:
    model, _, usual = life
    batch, rows = engines(model), np.array([0, 7])

    found = contributions(model, batch, rows, infer(model, batch), usual)

    readings = batch.sequences["readings"][rows].astype(np.float64)
    np.testing.assert_allclose(found.values, readings[:, 20:].mean(axis=1))
    np.testing.assert_allclose(found.usual, readings[:, :10].mean(axis=1))
    for at, row in enumerate(rows.tolist()):
        asked = ~np.isnan(found.contributions[at])
        assert asked.sum() == ASKED
        expected = one_by_one(model, batch, row, usual)
        np.testing.assert_array_equal(found.contributions[at, asked], expected[asked])
    assert np.nanmax(np.abs(found.contributions)) > 0


def test_a_channel_whose_median_is_known_is_compared_with_that(life: Opened) -> None:
    model, _, usual = life
    known = replace(usual, p50=np.full(14, 100.0), std=np.ones(14))
    batch = engines(model)

    found = contributions(model, batch, np.array([3]), infer(model, batch), known)

    assert (found.usual == 100).all()
    asked = ~np.isnan(found.contributions[0])
    expected = one_by_one(model, batch, 3, known)
    np.testing.assert_array_equal(found.contributions[0, asked], expected[asked])


@pytest.mark.parametrize("at_once", [1, 7])
def test_contributions_are_the_same_to_the_last_bit_in_every_batch(
    networks: Opened, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    model, _, usual = networks
    batch, rows = transactions(usual), np.arange(25)
    together = contributions(model, batch, rows, infer(model, batch), usual).contributions

    monkeypatch.setattr("worker.contributions._AT_ONCE", at_once)
    found = [contributions(model, batch, rows[[i]], infer(model, batch), usual).contributions for i in rows]

    np.testing.assert_array_equal(together, np.concatenate(found))


def test_trees_are_not_asked_and_add_up() -> None:
    model, _, usual = opened(
        load_pipeline(ROOT / "pipelines" / "fraud.yaml", {}), ROOT / "models" / "fraud" / "1"
    )
    batch = transactions(usual)
    batch.scalars[0] = usual.p50
    scores = infer(model, batch)
    assert model.trees is not None

    found = contributions(replace(model, session=None), batch, np.arange(40), scores, usual)  # type: ignore[arg-type]

    np.testing.assert_allclose(found.contributions.sum(axis=1), scores - scores[0], atol=1e-5)
    assert not found.contributions[0].any()


def test_without_every_median_trees_are_asked_too() -> None:
    model, _, usual = opened(
        load_pipeline(ROOT / "pipelines" / "fraud.yaml", {}), ROOT / "models" / "fraud" / "1"
    )
    p50 = usual.p50.copy()
    p50[3] = np.nan
    partly = replace(usual, p50=p50)
    batch = transactions(usual)

    found = contributions(model, batch, np.array([2]), infer(model, batch), partly).contributions[0]

    assert np.isnan(found[3])
    asked = ~np.isnan(found)
    np.testing.assert_array_equal(found[asked], one_by_one(model, batch, 2, partly)[asked])


def test_a_row_that_the_model_chokes_on_has_no_contribution_and_the_others_have(tmp_path: Path) -> None:
    plan = feature_plan(
        pipeline(tmp_path, "  speed: {kind: field, field: speed}\n  amount: {kind: field, field: amount}")
    )
    folder = model_folder(
        tmp_path / "models",
        table_model(np.array([1, 2, 3], np.float32), 2),
        inputs="- {tensor: x, dtype: float32, shape: [n, 2], features: [speed, amount]}",
        output="{tensor: y, column: 0, meaning: probability}",
        golden={"x": np.array([[5, 1]] * 16, np.float32), "expected": np.full(16, 10, np.float32)},
    )
    model = load_model(folder, plan, "cpu")
    usual = Usual(  # the usual amount is one that the table does not hold
        p50=np.array([1.0, 9.0]), std=np.ones(2), is_read=np.array([True, True]), channels=()
    )
    batch = features(np.array([[5.0, 2.0], [7.0, 1.0]]))

    found = contributions(model, batch, np.array([0, 1]), infer(model, batch), usual).contributions

    np.testing.assert_array_equal(found, [[15 - 3, np.nan], [14 - 2, np.nan]])
