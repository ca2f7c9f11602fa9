"""The intervals of the shipped remaining-life models hold the truth of engines nobody fitted them on."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.rul_intervals import MODELS, measure


@pytest.mark.parametrize("subset", MODELS)
def test_intervals_of_90_percent_hold_85_to_95_of_100_test_engines(data: Path, subset: str) -> None:
    found = measure(data, subset)

    assert found["engines"] == 100
    assert found["stated"] == 0.9
    assert 0.85 <= found["inside"] <= 0.95
    assert found["mean_width_cycles"] < 40  # all of 0..125 would hold every truth, and say nothing
