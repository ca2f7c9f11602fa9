"""What each feature moved a tree ensemble's margin by: exact Shapley values against one usual row."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import factorial
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

MODES = ("LEAF", "BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")
_LEAF, _LEQ, _LT, _GTE, _GT, _EQ, _NEQ = range(len(MODES))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TreeArrays:
    """The nodes of all trees; every node has one parent at most, so a walk from a root ends."""

    roots: NDArray[np.int64]  # (t,) node that each tree begins at
    mode: NDArray[np.int8]  # (k,) place in MODES
    feature: NDArray[np.int64]  # (k,) column that a branch compares
    threshold: NDArray[np.float64]  # (k,)
    missing_is_true: NDArray[np.bool_]  # (k,) which way NaN goes
    if_true: NDArray[np.int64]  # (k,) node
    if_false: NDArray[np.int64]  # (k,) node
    value: NDArray[np.float64]  # (k,) what a leaf adds to the margin
    longest: int  # branches between a root and a leaf, at most


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _is_true(mode: int, value: float, threshold: float, missing_is_true: bool) -> bool:
    if np.isnan(value):
        return missing_is_true or mode == _NEQ
    if mode == _LT:
        return value < threshold
    if mode == _LEQ:
        return value <= threshold
    if mode == _GT:
        return value > threshold
    if mode == _GTE:
        return value >= threshold
    return (value == threshold) == (mode == _EQ)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _margins(
    roots: Any,
    mode: Any,
    feature: Any,
    threshold: Any,
    missing_is_true: Any,
    if_true: Any,
    if_false: Any,
    value: Any,
    x: Any,
    out: Any,
) -> None:
    for i in range(x.shape[0]):
        total = 0.0
        for t in range(roots.shape[0]):
            node = roots[t]
            while mode[node] != _LEAF:
                is_true = _is_true(mode[node], x[i, feature[node]], threshold[node], missing_is_true[node])
                node = if_true[node] if is_true else if_false[node]
            total += value[node]
        out[i] = total


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _shapley(
    roots: Any,
    mode: Any,
    feature: Any,
    threshold: Any,
    missing_is_true: Any,
    if_true: Any,
    if_false: Any,
    value: Any,
    longest: int,
    weight: Any,
    x: Any,
    usual: Any,
    out: Any,
) -> None:
    """Walk every tree along all mixtures of the row and the usual one at once.

    A leaf is reached by those mixtures that take some features from the row and some from the usual row, the
    rest being indifferent; its Shapley values have a closed form. `chosen` is the way to the node at hand.
    Where the two rows part, the row's way goes first and the other waits; what the first one writes lies
    behind the part that both share, so that the way of a waiting node is still there at its turn.
    """
    chosen, is_rows = np.empty(longest + 1, np.int64), np.empty(longest + 1, np.bool_)
    waiting = np.empty((longest + 1, 3), np.int64)  # node, length of its way, features of the row on it
    for i in range(x.shape[0]):
        for t in range(roots.shape[0]):
            waiting[0, 0], waiting[0, 1], waiting[0, 2] = roots[t], 0, 0
            top = 1
            while top > 0:
                top -= 1
                node, length, rows = waiting[top, 0], waiting[top, 1], waiting[top, 2]
                if length > 0:
                    is_rows[length - 1] = False
                while mode[node] != _LEAF:
                    f, limit, nan_is_true = feature[node], threshold[node], missing_is_true[node]
                    is_true = _is_true(mode[node], x[i, f], limit, nan_is_true)
                    if is_true != _is_true(mode[node], usual[f], limit, nan_is_true):
                        at = 0
                        while at < length and chosen[at] != f:
                            at += 1
                        if at == length:
                            waiting[top, 0] = if_false[node] if is_true else if_true[node]
                            waiting[top, 1], waiting[top, 2] = length + 1, rows
                            top += 1
                            chosen[length], is_rows[length] = f, True
                            length, rows = length + 1, rows + 1
                        elif not is_rows[at]:
                            is_true = not is_true
                    node = if_true[node] if is_true else if_false[node]
                usuals = length - rows
                for at in range(length):
                    if is_rows[at]:
                        out[i, chosen[at]] += value[node] * weight[rows - 1, usuals]
                    else:
                        out[i, chosen[at]] -= value[node] * weight[rows, usuals - 1]


def margins(trees: TreeArrays, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) sums of the leaves that the rows (n, m) reach."""
    out = np.empty(len(x))
    _margins(*_nodes(trees), x, out)
    return out


def shapley(trees: TreeArrays, x: NDArray[np.float64], usual: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, m) Shapley values of the margins: each row adds up to its margin less that of the usual row.

    They are those of the game in which a coalition of features has the row's values and all others the usual
    ones: interventional TreeSHAP with one background row (Lundberg et al. 2020).

    Args:
        x: (n, m) rows.
        usual: (m,) what they are compared with.
    """
    out = np.zeros(x.shape)
    _shapley(*_nodes(trees), trees.longest, _weights(min(trees.longest, x.shape[1])), x, usual, out)
    return out


def _nodes(trees: TreeArrays) -> tuple[Any, ...]:
    return (
        trees.roots,
        trees.mode,
        trees.feature,
        trees.threshold,
        trees.missing_is_true,
        trees.if_true,
        trees.if_false,
        trees.value,
    )


@cache
def _weights(most: int) -> NDArray[np.float64]:
    """a! b! / (a + b + 1)!: the share of orders in which a feature comes after a others and before b."""
    side = range(most + 1)
    return np.array([[factorial(a) * factorial(b) / factorial(a + b + 1) for b in side] for a in side])
