"""A pipeline file becomes one plan: columns in the file's order, rows that are dated by their meaning."""

from __future__ import annotations

from pathlib import Path

import pytest

from feature_cache.layout import SequenceGroup, WindowGroup
from tests.builders import pipeline
from worker.config import feature_names, load_pipeline
from worker.plan import FeaturePlan, batch_policy, decision_policy, feature_plan, row_layout

ROOT = Path(__file__).resolve().parents[2]
WINDOW = "  w: {kind: window, over: amount, windows: [1d, 2h], aggregates: [count, mean], capacity: 9}"
DAY_US = 86_400_000_000


def planned(folder: Path, features: str) -> FeaturePlan:
    """The plan of a pipeline with these features."""
    folder.mkdir(exist_ok=True)
    return feature_plan(pipeline(folder, features))


def test_columns_stand_in_the_order_of_the_file_and_windows_from_short_to_long(tmp_path: Path) -> None:
    plan = planned(
        tmp_path,
        f"  amount: {{kind: field, field: amount}}\n{WINDOW}\n  night: {{kind: calendar, hours: [0, 7]}}",
    )

    assert plan.names == ("amount", "w.count_2h", "w.mean_2h", "w.count_1d", "w.mean_1d", "night")
    assert plan.fields == ((0, "amount"),)
    assert [column for column, _ in plan.calendars] == [5]
    assert [(column, group.name, over) for column, group, over in plan.windows] == [(1, "w", "amount")]


@pytest.mark.parametrize("file", ["fraud.yaml", "terminal-risk.yaml"])
def test_the_plan_names_what_the_file_promises(file: str) -> None:
    shipped = load_pipeline(ROOT / "pipelines" / file, {})

    assert list(feature_plan(shipped).names) == feature_names(shipped, {})


def test_the_shipped_fraud_pipeline_gives_the_model_its_fifteen_columns() -> None:
    plan = feature_plan(load_pipeline(ROOT / "pipelines" / "fraud.yaml", {}))

    assert len(plan.names) == 15
    assert plan.names[3:5] == ("customer.count_1d", "customer.mean_1d")
    (lookup,) = plan.lookups
    assert plan.names[lookup.column] == "terminal.count_1d"
    assert lookup.owner.name == "terminal-risk"
    assert lookup.layout == row_layout(lookup.owner)
    assert lookup.group.allowed_lateness_us == 7 * DAY_US


def test_a_group_remembers_its_longest_window_and_what_may_come_late(tmp_path: Path) -> None:
    layout = planned(tmp_path, f"{WINDOW[:-1]}, allowed_lateness: 3h}}").layout

    (group,) = layout.groups
    assert isinstance(group, WindowGroup)
    assert group.windows_us == (7_200_000_000, DAY_US)
    assert group.history_us == DAY_US + 10_800_000_000


def test_a_sequence_keeps_its_fields_in_order(tmp_path: Path) -> None:
    plan = planned(tmp_path, "  s: {kind: sequence, fields: [speed, amount], length: 3}")

    (group,) = plan.sequences
    assert isinstance(group, SequenceGroup)
    assert (group.fields, group.length, group.capacity) == (("speed", "amount"), 3, 11)
    assert plan.names == ()


def test_every_field_that_a_feature_reads_must_be_a_number_once(tmp_path: Path) -> None:
    plan = planned(
        tmp_path,
        f"  a: {{kind: field, field: amount}}\n{WINDOW}\n"
        "  s: {kind: sequence, fields: [speed, amount], length: 3}",
    )

    assert plan.finite == ("amount", "speed")


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(WINDOW.replace("over: amount", "over: speed")),
        WINDOW.replace("1d", "3d"),
        WINDOW.replace("capacity: 9", "capacity: 10"),
        WINDOW.replace("capacity: 9", "capacity: 9, allowed_lateness: 2h"),
        WINDOW.replace("  w:", "  v:"),
        f"{WINDOW}\n{WINDOW.replace('  w:', '  v:')}",
    ],
)
def test_rows_that_would_mean_something_else_have_another_fingerprint(tmp_path: Path, other: str) -> None:
    before = planned(tmp_path / "before", WINDOW).layout.fingerprint

    assert planned(tmp_path / "after", other).layout.fingerprint != before


@pytest.mark.parametrize(
    "other",
    [
        WINDOW.replace("[count, mean]", "[max]"),
        WINDOW.replace("[1d, 2h]", "[1d]"),
        f"  amount: {{kind: field, field: amount}}\n{WINDOW}",
    ],
)
def test_rows_that_mean_the_same_are_kept_through_a_change_of_the_file(tmp_path: Path, other: str) -> None:
    before = planned(tmp_path / "before", WINDOW).layout.fingerprint

    assert planned(tmp_path / "after", other).layout.fingerprint == before


def test_the_sections_of_the_file_reach_the_steps_as_they_are() -> None:
    fraud = load_pipeline(ROOT / "pipelines" / "fraud.yaml", {})
    policy, batches = decision_policy(fraud), batch_policy(fraud)

    assert policy is not None
    assert (policy.severities, policy.thresholds) == (("warning", "critical"), (0.5, 0.9))
    assert (policy.alert_below, policy.cooldown_us, policy.clear_margin) == (False, 3_600_000_000, None)
    assert (batches.max_rows, batches.max_bytes, batches.max_wait_ms, batches.eager) == (
        1024,
        1 << 20,
        5.0,
        True,
    )
    assert decision_policy(load_pipeline(ROOT / "pipelines" / "terminal-risk.yaml", {})) is None
