"""The judges of contributions: the `shap` package on an ONNX file's trees, and Shapley values by sums."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from math import factorial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Score = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def tree_attributes(path: Path) -> dict[str, Any]:
    """The attributes of the only node, as the onnx package reads them."""
    (node,) = onnx.load(path).graph.node
    return {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}


def shap_ensemble(path: Path, cover: dict[tuple[int, int], float] | None = None) -> dict[str, Any]:
    """A binary classifier of BRANCH_LT nodes as shap.TreeExplainer takes trees of no library it knows.

    shap goes left where x <= threshold in float32, so a threshold becomes the number just below it.

    Args:
        cover: by tree and node, how much of the training rows came through; only what depends on the tree
            path needs it.
    """
    found = tree_attributes(path)
    assert set(found["nodes_modes"]) == {b"BRANCH_LT", b"LEAF"}
    leaves = zip(found["class_treeids"], found["class_nodeids"], found["class_weights"], strict=True)
    values = {(tree, node): value for tree, node, value in leaves}
    trees: dict[int, list[int]] = {}
    for row, tree in enumerate(found["nodes_treeids"]):
        trees.setdefault(tree, []).append(row)
    return {
        "trees": [_tree(found, tree, rows, values, cover) for tree, rows in trees.items()],
        "base_offset": 0.0,
        "tree_output": "log_odds",
        "objective": "binary_crossentropy",
        "input_dtype": np.float32,
    }


def _tree(
    found: dict[str, Any],
    tree: int,
    rows: list[int],
    values: dict[tuple[int, int], float],
    cover: dict[tuple[int, int], float] | None,
) -> dict[str, Any]:
    node = [found["nodes_nodeids"][row] for row in rows]
    place = {each: at for at, each in enumerate(node)}
    is_leaf = np.array([found["nodes_modes"][row] == b"LEAF" for row in rows])

    def children(key: str) -> NDArray[np.int64]:
        to = [place.get(found[key][row], -1) for row in rows]
        return np.where(is_leaf, -1, to)

    limits = np.array([found["nodes_values"][row] for row in rows], np.float32)
    below = np.nextafter(limits, np.float32(-np.inf)).astype(np.float64)
    left = children("nodes_truenodeids")
    return {
        "children_left": left,
        "children_right": children("nodes_falsenodeids"),
        "children_default": left,
        "features": np.where(is_leaf, -2, [found["nodes_featureids"][row] for row in rows]),
        "thresholds": np.where(is_leaf, 0.0, below),
        "values": np.array([[values.get((tree, each), 0.0)] for each in node]),
        "node_sample_weight": np.array([cover[tree, each] if cover else 1.0 for each in node]),
    }


def hessian_cover(path: Path, rows: Floats) -> dict[tuple[int, int], float]:
    """What XGBoost keeps as the cover of each node: the sum of p (1 - p) before the tree, by training rows.

    The file of a converted model has lost it.
    """
    found = tree_attributes(path)
    leaves = zip(found["class_treeids"], found["class_nodeids"], found["class_weights"], strict=True)
    values = {(tree, node): value for tree, node, value in leaves}
    keys = list(zip(found["nodes_treeids"], found["nodes_nodeids"], strict=True))
    at = {key: row for row, key in enumerate(keys)}
    cover, margin = {}, np.zeros(len(rows))
    for tree in dict.fromkeys(found["nodes_treeids"]):
        p = 1 / (1 + np.exp(-margin))
        pending = [((tree, 0), np.arange(len(rows)))]
        while pending:
            key, here = pending.pop()
            cover[key] = float((p * (1 - p))[here].sum())
            row = at[key]
            if found["nodes_modes"][row] == b"LEAF":
                margin[here] += values[key]
                continue
            goes = rows[here, found["nodes_featureids"][row]] < found["nodes_values"][row]
            pending += [
                ((tree, found["nodes_truenodeids"][row]), here[goes]),
                ((tree, found["nodes_falsenodeids"][row]), here[~goes]),
            ]
    return cover


def shapley_by_sums(score: Score, row: Floats, usual: Floats) -> Floats:
    """(m,) Shapley values by their definition, over all 2^m mixtures of the row with the usual one."""
    m = len(row)
    inside = (np.arange(2**m)[:, None] >> np.arange(m)) & 1 == 1
    scores = score(np.where(inside, row, usual).astype(np.float32)).astype(np.float64)
    size = inside.sum(axis=1)
    weight = np.array([factorial(k) * factorial(m - 1 - k) / factorial(m) for k in range(m)] + [0.0])
    found = np.empty(m)
    for feature in range(m):
        without = np.flatnonzero(~inside[:, feature])
        found[feature] = (weight[size[without]] * (scores[without | 1 << feature] - scores[without])).sum()
    return found


def shapley_by_subsets(score: Score, row: Floats, usual: Floats) -> Floats:
    """The same, one subset after another: the slowest and the most obvious."""
    m = len(row)
    found = np.zeros(m)
    for feature in range(m):
        others = [each for each in range(m) if each != feature]
        for size in range(m):
            weight = factorial(size) * factorial(m - 1 - size) / factorial(m)
            for subset in combinations(others, size):
                with_it, without = usual.copy(), usual.copy()
                with_it[[*subset, feature]] = row[[*subset, feature]]
                without[list(subset)] = row[list(subset)]
                mixed = np.stack([with_it, without]).astype(np.float32)
                high, low = score(mixed).astype(np.float64)
                found[feature] += weight * (high - low)
    return found


def top_agreement(found: Floats, judge: Floats, count: int = 3) -> dict[str, float]:
    """The share of (n, m) rows with the same first features: in order, as a set, and the first one."""
    mine, theirs = (np.argsort(-each, axis=1, kind="stable")[:, :count] for each in (found, judge))
    return {
        "ranking": round(float((mine == theirs).all(axis=1).mean()), 4),
        "set": round(float((np.sort(mine) == np.sort(theirs)).all(axis=1).mean()), 4),
        "first": round(float((mine[:, 0] == theirs[:, 0]).mean()), 4),
    }
