"""The tree ensemble in an ONNX file as arrays that explain its scores, once they have proved to give them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.onnx_nodes import nodes_of
from worker.tree_shap import MODES, TreeArrays, margins, shapley

LONGEST_WAY = 256  # branches from root to leaf; the tables of deeper trees would be large
_PREFIX = "TreeEnsemble"
_EACH = {"TreeEnsembleClassifier": "class", "TreeEnsembleRegressor": "target"}
_TRANSFORMS = (b"NONE", b"LOGISTIC")


class UnknownTreesError(ValueError):
    """A tree ensemble of a form that is not read here; the message says which."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Trees:
    """A tree ensemble, and how its margin becomes the score."""

    arrays: TreeArrays
    base: float  # margin without a tree
    is_logistic: bool
    is_complement: bool  # the score is that of the other of two classes


def read_trees(data: bytes, column: int, width: int) -> Trees | None:
    """The only tree ensemble of an ONNX file; None: it has none.

    Args:
        column: of the output that is the score.
        width: columns of the model's input.

    Raises:
        OnnxFileError, UnknownTreesError: it has one of another form.
    """
    nodes = nodes_of(data, _PREFIX)
    if not nodes:
        return None
    operator, attributes = nodes[0]
    if len(nodes) > 1 or operator not in _EACH:
        counts = Counter(name for name, _ in nodes).items()
        raise UnknownTreesError(f"found {', '.join(f'{count} {name}' for name, count in counts)}")
    transform = attributes.get("post_transform", b"NONE")
    if transform not in _TRANSFORMS:
        raise UnknownTreesError(f"found post_transform {transform!r}")
    if missing := {"nodes_treeids", "nodes_values", "nodes_modes"} - attributes.keys():
        raise UnknownTreesError(f"found no {', '.join(sorted(missing))}")
    arrays, base = _arrays(attributes, _EACH[operator], column, width)
    return Trees(arrays=arrays, base=base, is_logistic=transform == b"LOGISTIC", is_complement=False)


def proven_trees(
    data: bytes, column: int, x: NDArray[Any], scores: NDArray[np.float32], *, rtol: float, atol: float
) -> Trees | None:
    """The trees of an ONNX file if they alone make its scores; None: there is more to it, or none of them.

    Whatever stands before, behind or beside them in the graph shows on the golden rows.

    Args:
        column: of the output that is the score.
        x: (n, m) golden rows, as the model's only input takes them.
        scores: (n,) what ONNX Runtime gives for them.
        rtol, atol: how far apart equal scores may be.

    Raises:
        OnnxFileError, UnknownTreesError: they are of a form that is not read here.
    """
    trees = read_trees(data, column, x.shape[1])
    if trees is None:
        return None
    exact = x.astype(np.float64)
    # ONNX Runtime gives a regressor of one target as it is, and the first of two classes as what is left.
    for each in (trees, replace(trees, is_complement=True), replace(trees, is_logistic=False)):
        if np.allclose(tree_scores(each, exact), scores, rtol=rtol, atol=atol):
            tree_contributions(each, exact[:1], exact[-1])  # compiles it now and not at the first alert
            return each
    raise UnknownTreesError("found other scores than those of the trees")


def tree_scores(trees: Trees, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) scores of these rows (n, m), as the arrays give them."""
    return np.asarray(_score(trees, trees.base + margins(trees.arrays, x)))


def tree_contributions(
    trees: Trees, x: NDArray[np.float64], usual: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(n, m) what each feature moved the score by: each row adds up to its score less that of the usual row.

    Shapley values of the margin, and where the score is its logistic function all of a row scaled alike, as
    the `shap` package does for probabilities.
    """
    values = shapley(trees.arrays, x, usual)
    if trees.is_logistic:
        start = trees.base + margins(trees.arrays, usual[None])[0]
        moved = values.sum(axis=1)
        low, high = _score(trees, start), _score(trees, start + moved)
        far = np.abs(moved) > 1e-9
        steepness = low * (1 - low) * (-1 if trees.is_complement else 1)
        values *= np.where(far, (high - low) / np.where(far, moved, 1.0), steepness)[:, None]
    elif trees.is_complement:
        values = -values
    return values


def _score(trees: Trees, margin: Any) -> Any:
    score = 1 / (1 + np.exp(-margin)) if trees.is_logistic else margin
    return 1 - score if trees.is_complement else score


def _arrays(attributes: dict[str, Any], kind: str, column: int, width: int) -> tuple[TreeArrays, float]:
    tree, node = attributes["nodes_treeids"], attributes["nodes_nodeids"]
    size = int(node.max(initial=0)) + 1
    keys = tree * size + node
    order = np.argsort(keys)
    if len(np.unique(keys)) < len(keys):
        raise UnknownTreesError("found two nodes of one id")

    def place(trees: NDArray[np.int64], nodes: NDArray[np.int64]) -> NDArray[np.int64]:
        wanted = trees * size + nodes
        found = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)]
        if (keys[found] != wanted).any():
            raise UnknownTreesError("found a node that is not there")
        return found

    modes = {name.encode(): code for code, name in enumerate(MODES)}
    if unknown := set(attributes["nodes_modes"]) - modes.keys():
        raise UnknownTreesError(f"found the mode {min(unknown)!r}")
    mode = np.array([modes[each] for each in attributes["nodes_modes"]], np.int8)
    is_branch = mode != 0
    feature = np.where(is_branch, attributes["nodes_featureids"], 0)
    if feature.min(initial=0) < 0 or feature.max(initial=0) >= width:
        raise UnknownTreesError(f"found a feature beyond the {width} of the input")
    if_true = np.where(is_branch, attributes["nodes_truenodeids"], node)
    if_false = np.where(is_branch, attributes["nodes_falsenodeids"], node)
    missing = attributes.get("nodes_missing_value_tracks_true")
    value, base = np.zeros(len(mode)), 0.0
    ids = attributes[f"{kind}_ids"]
    used = np.unique(ids)
    mine = ids == (used[0] if len(used) == 1 else column)
    scale = 1.0 / len(np.unique(tree)) if attributes.get("aggregate_function", b"SUM") == b"AVERAGE" else 1.0
    np.add.at(
        value,
        place(attributes[f"{kind}_treeids"][mine], attributes[f"{kind}_nodeids"][mine]),
        attributes[f"{kind}_weights"][mine].astype(np.float64) * scale,
    )
    bases = attributes.get("base_values")
    if bases is not None:
        base = float(bases[0 if len(bases) == 1 else column])
    true_at, false_at = place(tree, if_true), place(tree, if_false)
    roots, longest = _walked(is_branch, true_at, false_at, len(np.unique(tree)))
    arrays = TreeArrays(
        roots=roots,
        mode=mode,
        feature=feature,
        threshold=attributes["nodes_values"].astype(np.float64),
        missing_is_true=np.zeros(len(mode), np.bool_) if missing is None else missing.astype(np.bool_),
        if_true=true_at,
        if_false=false_at,
        value=value,
        longest=longest,
    )
    return arrays, base


def _walked(
    is_branch: NDArray[np.bool_], if_true: NDArray[np.int64], if_false: NDArray[np.int64], trees: int
) -> tuple[NDArray[np.int64], int]:
    """Roots, and the longest way down; a walk that would not end is refused."""
    parents = np.bincount(if_true[is_branch], minlength=len(is_branch)) + np.bincount(
        if_false[is_branch], minlength=len(is_branch)
    )
    roots = np.flatnonzero(parents == 0)
    if parents.max(initial=0) > 1 or len(roots) != trees:
        raise UnknownTreesError("found nodes that do not form trees")
    level, longest, seen = roots, 0, len(roots)
    while len(branches := level[is_branch[level]]):
        level, longest = np.concatenate([if_true[branches], if_false[branches]]), longest + 1
        seen += len(level)
        if longest > LONGEST_WAY:
            raise UnknownTreesError(f"found ways of more than {LONGEST_WAY} branches")
    if seen < len(is_branch):
        raise UnknownTreesError("found nodes that no tree reaches")
    return roots, longest
