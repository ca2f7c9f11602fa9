"""A threshold expression over feature columns, such as `amount > 220 or customer.count_1d > 20`."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = NDArray[np.float64]  # (n, f)
Each = Sequence[NDArray[Any]]  # f columns of (n,)
_Compute = Callable[[Each], Any]  # to (n,) values, or to one for all
_MAX_CHARS = 2000
_MAX_DEPTH = 100
_LARGEST = 1e300  # so that a number is surely finite
_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: lambda a, b: _weak(np.divide(a, b)),
}
_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_ALLOWED = "a rule of feature names, numbers, + - * /, < <= > >= == !=, and, or, not and parentheses"


class RuleError(Exception):
    """An expression that is no rule: what was found, and what was expected."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(f"found {found}, expected {expected}")
        self.found = found
        self.expected = expected


def parse_rule(text: str, names: Sequence[str]) -> Callable[[Columns], NDArray[np.bool_]]:
    """The rule as a function of feature columns to (n,) whether it holds; see `rule_of_columns`."""
    holds = rule_of_columns(text, names)
    return lambda columns: holds(list(columns.T), len(columns))


def rule_of_columns(text: str, names: Sequence[str]) -> Callable[[Each, int], NDArray[np.bool_]]:
    """The rule as a function of f columns of (n,) each, and of n, to (n,) whether it holds.

    A comparison with NaN is false, dividing by zero gives an infinity or NaN. A number of the rule is rounded
    like the column that it meets: a float32 score of 0.9 is at 0.9.

    Args:
        text: the expression; it may span lines.
        names: (f,) feature names in the order of the columns.

    Raises:
        RuleError: not an expression of feature names, numbers, arithmetic, comparisons, and, or, not.
    """
    line = " ".join(text.split())
    if len(line) > _MAX_CHARS:
        raise RuleError(f"{len(line)} characters", f"at most {_MAX_CHARS}")
    if "#" in line:
        raise RuleError("`#`", _ALLOWED)
    try:
        tree = ast.parse(line, mode="eval").body
        if (depth := _depth(tree)) > _MAX_DEPTH:
            raise RuleError(f"parts nested {depth} deep", f"at most {_MAX_DEPTH}")
        rule = _truth(tree, line, list(names))
    except SyntaxError as error:
        raise RuleError(f"{error.msg} at character {error.offset or 1}", _ALLOWED) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise RuleError("an expression that cannot be read", _ALLOWED) from error

    def holds(columns: Each, n: int) -> NDArray[np.bool_]:
        with np.errstate(all="ignore"):
            return np.broadcast_to(np.asarray(rule(columns), np.bool_), n)

    return holds


def names_in(text: str, names: Sequence[str]) -> frozenset[str]:
    """Which of these names a rule reads."""
    return frozenset(re.findall(r"[\w.]+", text)) & frozenset(names)


def scoring_rule(
    text: str, names: Sequence[str], scores: tuple[float, float]
) -> Callable[[Columns], NDArray[np.float32]]:
    """The rule as a function of feature columns to (n,) scores.

    Args:
        text, names: as parse_rule.
        scores: where the rule does not hold, and where it does.

    Raises:
        RuleError: as parse_rule.
    """
    holds, (no, yes) = parse_rule(text, names), scores
    return lambda columns: np.where(holds(columns), yes, no).astype(np.float32)


def _depth(node: ast.AST) -> int:
    return 1 + max(map(_depth, ast.iter_child_nodes(node)), default=0)


def _truth(node: ast.expr, line: str, names: list[str]) -> _Compute:
    """What is true or false of each event."""
    match node:
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            inner = _truth(operand, line, names)
            return lambda columns: np.logical_not(inner(columns))
        case ast.BoolOp(op=op, values=values):
            join = np.logical_and if isinstance(op, ast.And) else np.logical_or
            return _joined(join, [_truth(value, line, names) for value in values])
        case ast.Compare(left=left, ops=ops, comparators=others):
            sides = [_number(side, line, names) for side in (left, *others)]
            if all(type(op) in _COMPARISONS for op in ops):
                pairs = zip(ops, pairwise(sides), strict=True)
                return _joined(np.logical_and, [_both(_COMPARISONS[type(op)], *two) for op, two in pairs])
    raise _wrong(node, line, "a comparison, such as amount > 220")


def _number(node: ast.expr, line: str, names: list[str]) -> _Compute:
    """What is a number of each event."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool) and value < _LARGEST:
            number = float(value)  # Python's own, which numpy rounds to the precision of a column beside it
            return lambda _: number
        case ast.Name() | ast.Attribute():
            column = _column(node, line, names)
            return lambda columns: columns[column]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _number(operand, line, names)
            return lambda columns: -inner(columns)
        case ast.BinOp(op=op, left=left, right=right) if type(op) in _ARITHMETIC:
            return _both(_ARITHMETIC[type(op)], _number(left, line, names), _number(right, line, names))
    raise _wrong(node, line, "a feature, a number, or + - * / of them")


def _weak(value: Any) -> Any:
    return value if np.ndim(value) else float(value)


def _both(apply: Callable[[Any, Any], Any], a: _Compute, b: _Compute) -> _Compute:
    return lambda columns: apply(a(columns), b(columns))


def _joined(join: Callable[[Any, Any], Any], parts: list[_Compute]) -> _Compute:
    return lambda columns: reduce(join, [part(columns) for part in parts])


def _column(node: ast.expr, line: str, names: list[str]) -> int:
    """The column of a feature; the dots of its name reach into nothing."""
    words, inner = [], node
    while isinstance(inner, ast.Attribute):
        words.append(inner.attr)
        inner = inner.value
    name = ".".join((inner.id if isinstance(inner, ast.Name) else "", *reversed(words)))
    if name in names:
        return names.index(name)
    near = get_close_matches(name, names, n=1)
    choice = f"a feature, such as {near[0]}" if near else f"one of {', '.join(names) or 'no scalar features'}"
    raise _wrong(node, line, choice)


def _wrong(node: ast.expr, line: str, expected: str) -> RuleError:
    return RuleError(f"`{ast.get_source_segment(line, node) or line}`", expected)
