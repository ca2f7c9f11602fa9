"""Contributions of trees are Shapley values by their definition, and those of the `shap` package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.parity.shap_trees import Floats, shap_ensemble, shapley_by_subsets, shapley_by_sums
from worker.model_file import load_model_card
from worker.tree_shap import MODES, TreeArrays, margins, shapley
from worker.trees import Trees, read_trees, tree_contributions, tree_scores

FRAUD = Path(__file__).parents[2] / "models" / "fraud" / "1"
WIDTH = 4  # few values, so that thresholds, rows and the usual row often meet
NUMBERS = st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0])


@st.composite
def forests(draw: st.DrawFn) -> TreeArrays:
    """Random trees of every kind of branch, with features that come again on one way."""
    nodes: list[tuple[int, int, float, bool, int, int, float]] = []

    def grow(depth: int) -> tuple[int, int]:
        """Place of the node, and the longest way below it."""
        place = len(nodes)
        nodes.append((0, 0, 0.0, False, place, place, draw(st.integers(-4, 4)) / 2))
        if depth == 0 or draw(st.integers(0, 4)) == 0:
            return place, 0
        mode, feature = draw(st.integers(1, len(MODES) - 1)), draw(st.integers(0, WIDTH - 1))
        limit, nan_is_true = draw(NUMBERS), draw(st.booleans())
        (yes, a), (no, b) = grow(depth - 1), grow(depth - 1)
        nodes[place] = (mode, feature, limit, nan_is_true, yes, no, 0.0)
        return place, 1 + max(a, b)

    roots = [grow(draw(st.integers(0, 5))) for _ in range(draw(st.integers(1, 3)))]
    mode, feature, threshold, missing, if_true, if_false, value = zip(*nodes, strict=True)
    return TreeArrays(
        roots=np.array([root for root, _ in roots]),
        mode=np.array(mode, np.int8),
        feature=np.array(feature),
        threshold=np.array(threshold),
        missing_is_true=np.array(missing),
        if_true=np.array(if_true),
        if_false=np.array(if_false),
        value=np.array(value),
        longest=max(longest for _, longest in roots),
    )


ROWS = st.lists(NUMBERS | st.just(float("nan")), min_size=WIDTH, max_size=WIDTH).map(np.array)


@settings(max_examples=300, deadline=None)
@given(trees=forests(), row=ROWS, usual=ROWS)
def test_every_contribution_is_the_shapley_value_by_its_definition(
    trees: TreeArrays, row: Floats, usual: Floats
) -> None:
    def score(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return margins(trees, rows.astype(np.float64)).astype(np.float32)

    (found,) = shapley(trees, row[None], usual)

    np.testing.assert_allclose(found, shapley_by_subsets(score, row, usual), atol=1e-9)
    np.testing.assert_allclose(found, shapley_by_sums(score, row, usual), atol=1e-9)
    assert found.sum() == pytest.approx(margins(trees, row[None])[0] - margins(trees, usual[None])[0])


@pytest.fixture(scope="module")
def fraud() -> tuple[Trees, Floats, Floats]:
    """The shipped trees, rows like those of training, and the row of medians."""
    card = load_model_card(FRAUD)
    names = card.inputs[0].features
    trees = read_trees(card.onnx_file.read_bytes(), card.output.column or 0, len(names))
    assert trees is not None
    low, median, high = (
        np.array([getattr(card.reference[name], key) for name in names], np.float32).astype(np.float64)
        for key in ("p01", "p50", "p99")
    )
    place = np.random.default_rng(3).random((200, len(names)))
    rows = np.where(place < 0.5, low + 2 * place * (median - low), median + (2 * place - 1) * (high - median))
    return trees, rows.astype(np.float32).astype(np.float64), median


def test_margins_of_shipped_trees_are_explained_as_shap_explains_them(
    fraud: tuple[Trees, Floats, Floats],
) -> None:
    shap = pytest.importorskip("shap")
    trees, rows, median = fraud
    judge = shap.TreeExplainer(
        shap_ensemble(FRAUD / "model.onnx"), data=median[None], feature_perturbation="interventional"
    )

    expected = judge.shap_values(rows.astype(np.float32), check_additivity=False)

    np.testing.assert_allclose(shapley(trees.arrays, rows, median), expected, atol=1e-5)


def test_probabilities_are_explained_as_shap_explains_them(fraud: tuple[Trees, Floats, Floats]) -> None:
    shap = pytest.importorskip("shap")
    trees, rows, median = fraud
    judge = shap.TreeExplainer(
        shap_ensemble(FRAUD / "model.onnx"),
        data=median[None],
        feature_perturbation="interventional",
        model_output="probability",
    )

    expected = judge.shap_values(rows.astype(np.float32), check_additivity=False)

    np.testing.assert_allclose(tree_contributions(trees, rows, median), expected, atol=1e-5)


def test_contributions_add_up_to_how_far_the_score_is_from_the_usual_one(
    fraud: tuple[Trees, Floats, Floats],
) -> None:
    trees, rows, median = fraud

    found = tree_contributions(trees, rows, median)

    expected = tree_scores(trees, rows) - tree_scores(trees, median[None])
    np.testing.assert_allclose(found.sum(axis=1), expected, atol=1e-12)
    assert not tree_contributions(trees, median[None], median).any()
