"""Fixed buffers for a few batch sizes give the scores that the session gives without them.

What CUDA adds, page-locked memory and graphs, needs a GPU: see test_infer.py.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.builders import DOUBLE, FLOAT, onnx_bytes
from worker.buckets import SIZES, Buckets, open_buckets, run
from worker.session import ModelError, Session, open_session

SMALL = (4, 8, 16)
# Two inputs of different types and ranks: y is every reading of x with z added.
TWO_INPUTS = onnx_bytes(
    [("Flatten", ["x"], ["flat"]), ("Cast", ["z"], ["narrow"]), ("Add", ["flat", "narrow"], ["y"])],
    [("x", FLOAT, ["n", 3, 2]), ("z", DOUBLE, ["n", 1])],
    [("y", FLOAT, ["n", 6])],
    attributes={"Cast": {"to": FLOAT}},
)


def on_cpu(onnx: bytes) -> Session:
    """A session here."""
    return open_session(Path("model.onnx"), onnx, "cpu")


def tensors(rows: int, seed: int = 3) -> dict[str, NDArray[Any]]:
    """So many rows of both inputs."""
    random = np.random.default_rng(seed)
    return {"x": random.normal(size=(rows, 3, 2)).astype(np.float32), "z": random.normal(size=(rows, 1))}


@pytest.fixture(scope="module")
def buckets() -> Buckets:
    """Three small sizes."""
    return open_buckets(on_cpu(TWO_INPUTS), tensors(3), "y", rtol=0.0, atol=0.0, sizes=SMALL)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(0, 9))
def test_batches_of_any_size_have_the_scores_of_the_session_whatever_came_before(
    buckets: Buckets, batches: list[int], seed: int
) -> None:
    for number, rows in enumerate(batches):
        batch = tensors(rows, seed + number)

        found = run(buckets, batch, rows)

        np.testing.assert_array_equal(found, buckets.session.runtime.run(["y"], batch)[0])


def test_what_a_batch_gave_stays_as_it_is_when_the_buffers_are_used_again(buckets: Buckets) -> None:
    first = run(buckets, tensors(4, 1), 4)
    kept = first.copy()

    run(buckets, tensors(4, 2), 4)

    assert np.array_equal(first, kept)


def test_a_batch_goes_through_as_few_buckets_as_hold_it(buckets: Buckets) -> None:
    counted = Counting(buckets.session.runtime)
    counting = replace(buckets, session=replace(buckets.session, runtime=counted))

    used = {}
    for rows in (1, 4, 5, 16, 17, 40):
        counted.runs = 0
        run(counting, tensors(rows), rows)
        used[rows] = counted.runs

    assert used == {1: 1, 4: 1, 5: 1, 16: 1, 17: 2, 40: 3}


class Counting:
    """A session that counts its runs, and stops computing anew after so many: as a graph of old inputs."""

    def __init__(self, runtime: Any, stops_after: int | None = None) -> None:
        self._runtime, self._stops_after = runtime, stops_after
        self.runs = 0

    def run(self, *arguments: Any) -> Any:
        """As the session."""
        return self._runtime.run(*arguments)

    def io_binding(self) -> Any:
        """As the session."""
        return self._runtime.io_binding()

    def run_with_iobinding(self, *arguments: Any) -> None:
        """As the session, until it stops."""
        self.runs += 1
        if self._stops_after is None or self.runs <= self._stops_after:
            self._runtime.run_with_iobinding(*arguments)


@pytest.mark.parametrize("stops_after", [0, 1, 3, 4])
def test_buffers_that_give_the_scores_of_other_rows_do_not_serve(stops_after: int) -> None:
    session = on_cpu(TWO_INPUTS)
    stale = replace(session, runtime=Counting(session.runtime, stops_after))

    with pytest.raises(ModelError, match="through fixed buffers on cpu differ by"):
        open_buckets(stale, tensors(3), "y", rtol=1e-6, atol=1e-6, sizes=SMALL)


def test_a_model_that_does_not_give_a_row_for_each_row_does_not_serve() -> None:
    session = on_cpu(onnx_bytes([("Shape", ["x"], ["y"])], [("x", FLOAT, ["n", 2])], [("y", 7, [2])]))

    with pytest.raises(ModelError, match="2 rows, expected one for each of 16"):
        open_buckets(session, {"x": np.ones((3, 2), np.float32)}, "y", rtol=0.0, atol=0.0, sizes=SMALL)


def test_at_most_half_of_a_bucket_that_is_not_the_least_is_empty() -> None:
    assert all(after == 2 * before for before, after in pairwise(SIZES))
