"""A bad row costs itself a score and nobody else; a bad model or device goes down the ladder and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import batch, features, model_folder, pipeline, table_model
from worker.infer import Model, infer, load_model
from worker.plan import feature_plan
from worker.scoring import Scored, score_rows, unscored, without_values

INPUTS = "  - {tensor: x, dtype: float32, shape: [n, 2], features: [speed, amount]}"
TABLE = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
ROWS = np.array([[1, 0], [10, 3]], np.float32)
GOLDEN = {"x": ROWS, "expected": np.array([0.1, 4.0], np.float32)}
POISON = 99.0  # beyond the table


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A version that scores speed times the table's entry for the amount."""
    return model_folder(
        tmp_path,
        table_model(TABLE, 2),
        inputs=INPUTS,
        output="{tensor: y, meaning: probability}",
        golden=GOLDEN,
    )


Open = Callable[[str], Model]


@pytest.fixture
def opened(folder: Path, tmp_path: Path) -> Open:
    """A function that loads that version on a device."""
    plan = feature_plan(
        pipeline(tmp_path, "  amount: {kind: field, field: amount}\n  speed: {kind: field, field: speed}")
    )
    return lambda device: load_model(folder, plan, device)


def rows(amount: list[float]) -> Any:
    """Features of these amounts; speed is 10."""
    return features(np.column_stack([amount, np.full(len(amount), 10.0)]))


def amounts(n: int) -> list[float]:
    """Amounts that the table has."""
    return [float(i % len(TABLE)) for i in range(n)]


# Rows that the model chokes on.


@pytest.mark.parametrize("n", [1, 2, 3, 64, 1000])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_rows_that_the_model_chokes_on_are_found_and_the_others_scored(
    opened: Open, n: int, share: float
) -> None:
    model = opened("cpu")
    whole = infer(model, rows(amounts(n)))
    is_poison = np.random.default_rng(n).random(n) < share
    mixed = np.where(is_poison, POISON, amounts(n))

    scores, failed = score_rows(model, rows(mixed.tolist()))

    assert sorted(failed) == np.flatnonzero(is_poison).tolist()
    assert np.isnan(scores[is_poison]).all()
    assert np.array_equal(scores[~is_poison], whole[~is_poison])


def test_a_batch_of_poison_alone_is_no_fault_of_the_model(opened: Open) -> None:
    scores, failed = score_rows(opened("cpu"), rows([POISON] * 100))

    assert len(failed) == 100
    assert np.isnan(scores).all()


def test_what_the_model_said_is_told_without_the_numbers_of_the_event(opened: Open) -> None:
    _, failed = score_rows(opened("cpu"), rows([0.0, 73.0]))

    assert "GatherElements" in failed[1]
    assert "73" not in failed[1]
    assert "\n" not in failed[1]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : bad index 7, at most 3", "bad index #, at most #"),
        (
            "run 1 Node /l.0/Gather Status Message: idx=-7.5e-3!\nmore",
            "run 1 Node /l.0/Gather Status Message: idx=#!",
        ),
        ("", "Exception"),
    ],
)
def test_an_error_keeps_its_node_and_loses_its_numbers(said: str, told: str) -> None:
    assert without_values(Exception(said)) == told


def test_every_event_without_a_score_has_its_own_reason() -> None:
    made = batch([1, 2, 3]).events
    scored = Scored(
        scores=np.array([0.5, np.inf, np.nan], np.float32),
        degradation=np.zeros(3, np.uint8),
        failed={2: "index # out of range"},
    )

    infinite, failed = unscored(made, scored)

    assert (infinite.offset, infinite.stage, infinite.reason) == (1, "score", "score_not_finite")
    assert (failed.offset, failed.stage, failed.reason) == (2, "score", "model_failed")
    assert failed.detail == "index # out of range"
    assert failed.message is made.messages[2]
