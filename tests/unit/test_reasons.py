"""The reasons of an alert are what stands out most from the training rows."""

from __future__ import annotations

import numpy as np

from worker.model_file import Reference
from worker.reasons import reasons


def usual(mean: float, std: float) -> Reference:
    """A feature's distribution."""
    return Reference(mean=mean, std=std, p01=0.0, p50=mean, p99=1.0)


def test_the_three_most_unusual_come_first_whatever_their_scale() -> None:
    names = ("amount", "count", "night", "risk")
    reference = {
        "amount": usual(50, 40),
        "count": usual(3, 1),
        "night": usual(0.2, 0.4),
        "risk": usual(0.01, 0.05),
    }

    found = reasons(names, np.array([250.0, 3.0, 1.0, 0.51]), reference)

    assert [r["feature"] for r in found] == ["risk", "amount", "night"]
    assert found[1] == {
        "feature": "amount",
        "value": 250.0,
        "usual": 50.0,
        "contribution": None,
        "text": "amount is 250, usually 50",
    }


def test_less_than_usual_is_unusual_too() -> None:
    reference = {"a": usual(0, 1), "b": usual(0, 1)}

    assert [r["feature"] for r in reasons(("a", "b"), np.array([2.0, -5.0]), reference)] == ["b", "a"]


def test_a_feature_that_never_varied_or_is_not_described_gives_no_reason() -> None:
    reference = {"constant": usual(1, 0)}

    assert reasons(("constant", "unknown"), np.array([9.0, 9.0]), reference) == []
    assert reasons((), np.array([]), {}) == []


def test_what_is_near_the_usual_is_no_reason() -> None:
    assert reasons(("a",), np.array([0.9]), {"a": usual(0, 1)}) == []
