"""Every step of the loop at which chaos may hit a worker is one that the worker has."""

from __future__ import annotations

import pytest

from tests.chaos.steps import STEPS, Step
from tests.chaos.worker import where


@pytest.mark.parametrize("step", STEPS, ids=lambda step: str(step.name))
def test_a_step_is_where_the_fail_points_look_for_it(step: Step) -> None:
    _, holder, name = where(step)
    assert callable(getattr(holder, name))


def test_a_step_that_the_worker_no_longer_has_is_an_error_that_names_it() -> None:
    gone = Step(name="begin", module="worker.sink", attribute="Producer.begin_transaction")
    with pytest.raises(LookupError, match=r"'begin': worker\.sink has no Producer\.begin_transaction: mend"):
        where(gone)
