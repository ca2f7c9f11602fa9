"""What is concluded from steps that were measured, and how it is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loadgen.page import page
from worker.capacity import Request, verdict
from worker.capacity_commands import summary
from worker.capacity_plan import HEAD_ROOM
from worker.config import Pipeline, load_pipeline

ROOT = Path(__file__).parents[2]
SATURATION_PER_S = 100_000.0


@pytest.fixture
def pipeline() -> Pipeline:
    return load_pipeline(ROOT / "pipelines" / "fraud.yaml", {})


@pytest.fixture
def stored() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / "capacity.json").read_text())
    found["saturation"] |= {"events_per_s": SATURATION_PER_S, "cpu_us_per_event": 5.0}
    for step, p99_ms in zip(found["steps"], (10.0, 20.0, 40.0, 80.0, 160.0), strict=True):
        step["events_per_s"] = step["share"] * SATURATION_PER_S
        step["latency_ms"]["p99"] = p99_ms
        step |= {"is_sender_late": False, "is_kept_up": True}
    return found


def concluded(pipeline: Pipeline, stored: dict[str, Any], **asked: Any) -> dict[str, Any]:
    found = verdict(pipeline, Request(**asked), stored["saturation"], stored["steps"], partitions=6)
    return {**stored, **found}


@pytest.mark.parametrize(
    ("p99_ms", "limit", "broken"),
    [(None, 100_000, None), (50.0, 50_000, 75_000), (500.0, 90_000, None), (15.0, 10_000, 25_000)],
)
def test_members_are_planned_from_the_last_step_that_kept_the_objective(
    pipeline: Pipeline, stored: dict[str, Any], p99_ms: float | None, limit: float, broken: float | None
) -> None:
    found = concluded(pipeline, stored, p99_ms=p99_ms, traffic_per_s=100_000.0, member_price_per_hour=1.0)

    assert found["member_limit_per_s"] == pytest.approx(limit)
    assert found["objective_broken_at_per_s"] == (None if broken is None else pytest.approx(broken))
    assert found["need"]["member_events_per_s"] == pytest.approx(limit * (1 - HEAD_ROOM))
    assert found["need_cores"] == pytest.approx(100_000 * 5e-6 / (1 - HEAD_ROOM))
    # A worker used as planned costs an hour's price for an hour of what it is planned for.
    assert found["per_million_at_full_use"] == pytest.approx(1e6 / (limit * (1 - HEAD_ROOM) * 3600))
    assert f"{found['need']['members']} worker" in summary(found)


def test_an_objective_that_no_step_kept_is_met_by_no_number_of_workers(
    pipeline: Pipeline, stored: dict[str, Any]
) -> None:
    found = concluded(pipeline, stored, p99_ms=5.0, traffic_per_s=1000.0, member_price_per_hour=1.0)

    assert (found["member_limit_per_s"], found["need"], found["per_million_at_full_use"]) == (
        None,
        None,
        None,
    )
    assert "no number of workers helps" in summary(found)
    assert "even at the lowest load" in page(found)


def test_a_step_that_was_not_kept_up_with_breaks_the_objective_however_fast_it_was(
    pipeline: Pipeline, stored: dict[str, Any]
) -> None:
    stored["steps"][2] |= {"is_kept_up": False, "unaccounted": 123}

    found = concluded(pipeline, stored, p99_ms=500.0)

    assert found["member_limit_per_s"] == pytest.approx(25_000)
    assert "123 unanswered" in summary(found)


def test_a_pipeline_without_a_model_has_no_latency_and_no_objective(
    pipeline: Pipeline, stored: dict[str, Any]
) -> None:
    found = concluded(pipeline, {**stored, "steps": []}, p99_ms=50.0, traffic_per_s=100_000.0)

    assert found["objective_p99_ms"] is None
    assert found["member_limit_per_s"] == SATURATION_PER_S
    assert "objective   none" in summary(found)
    assert "Latency by load" not in page(found)


def test_what_the_system_does_not_tell_is_left_out(pipeline: Pipeline, stored: dict[str, Any]) -> None:
    """As on a system without /proc."""
    stored["saturation"] |= {"cpu_us_per_event": None, "memory_mb": None}
    stored["saturation"]["cores"] |= dict.fromkeys(("worker", "redis", "brokers", "machine"))
    for step in stored["steps"]:
        step["busy"] |= {"cpu_us_per_event": None}

    found = concluded(pipeline, stored, traffic_per_s=1000.0) | {"store": None, "device": ""}

    assert (found["one_core_per_s"], found["need_cores"]) == (None, None)
    assert "None" not in summary(found) + page(found)
