"""Features are of the event's own time, and state moves only when all of it can."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_cache.lanes import Lanes
from feature_cache.layout import NEVER_US
from feature_cache.rows import HotRows, RowsFullError, WrongLaneError
from feature_cache.store import MemoryStore, Stored, StoreUnavailableError
from schemas.schema import parse_schema
from tests.builders import EVENT_AVSC, METER, events, pipeline
from worker.batch import Events, Features
from worker.config import CalendarFeature
from worker.features import calendar, enrich
from worker.plan import FeaturePlan, feature_plan

SCHEMA = parse_schema(json.dumps(EVENT_AVSC))
S = 1_000_000
FEATURES = """
  amount: {kind: field, field: amount}
  weekend: {kind: calendar, is: weekend}
  w:
    kind: window
    over: amount
    windows: [10s, 100s]
    aggregates: [count, sum]
    capacity: 8
    allowed_lateness: 5s
  s: {kind: sequence, fields: [speed, amount], length: 3}
"""


@pytest.fixture
def plan(tmp_path: Path) -> FeaturePlan:
    """One feature of each kind that needs no other pipeline."""
    return feature_plan(pipeline(tmp_path, FEATURES))


def owner(plan: FeaturePlan, *, store: MemoryStore | None = None, hot_rows: int = 16, **take: Any) -> Lanes:
    """A worker that owns partitions 0 and 1."""
    lanes = Lanes(HotRows(plan.layout, hot_rows), store or MemoryStore(), "g", "t")
    for partition in (0, 1):
        lanes.take(partition, **{"committed": None, "start": 0, "low": 0, "high": 2**40, "now_ms": 1, **take})
    return lanes


def some(seconds: Sequence[float], **columns: Any) -> Events:
    """Events of these times; speed is a hundred times the amount."""
    amount = columns.pop("amount", [1.0] * len(seconds))
    return events(
        time_us=[round(s * S) for s in seconds],
        amount=amount,
        schema=SCHEMA,
        columns={"terminal": ["t"] * len(seconds), "speed": np.array(amount) * 100},
        **columns,
    )


def run(made: Events, plan: FeaturePlan, lanes: Lanes) -> Features:
    """Enrich without lookups."""
    return enrich(made, plan, lanes, (), METER)


def test_each_kind_of_feature_fills_its_own_columns(plan: FeaturePlan) -> None:
    found = run(some([100, 105, 111], amount=[1.0, 2.0, 4.0]), plan, owner(plan))

    assert plan.names == ("amount", "weekend", "w.count_10s", "w.sum_10s", "w.count_100s", "w.sum_100s")
    assert found.scalars.tolist() == [[1, 0, 1, 1, 1, 1], [2, 0, 2, 3, 2, 3], [4, 0, 2, 6, 3, 7]]
    assert found.sequences["s"].tolist() == [
        [[100, 1], [100, 1], [100, 1]],
        [[100, 1], [100, 1], [200, 2]],
        [[100, 1], [200, 2], [400, 4]],
    ]
    assert found.lookup_age_ms.tolist() == [-1, -1, -1]


@settings(deadline=None, max_examples=30)
@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=6), random=st.randoms(use_true_random=False))
def test_how_events_are_cut_into_chunks_changes_nothing(
    sizes: list[int], random: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    plan = feature_plan(pipeline(tmp_path_factory.mktemp("p"), FEATURES))
    n = sum(sizes)
    times, keys = (
        sorted(random.randrange(60) for _ in range(n)),
        [random.choice([b"a", b"b"]) for _ in range(n)],
    )
    whole = run(some(times, keys=keys, amount=list(range(n))), plan, owner(plan))

    lanes, at, parts = owner(plan), 0, []
    for size in sizes:
        cut = slice(at, at + size)
        made = some(times[cut], keys=keys[cut], amount=list(range(n))[cut], offset=list(range(n))[cut])
        parts.append(run(made, plan, lanes))
        at += size

    np.testing.assert_array_equal(np.concatenate([p.scalars for p in parts]), whole.scalars)
    np.testing.assert_array_equal(np.concatenate([p.sequences["s"] for p in parts]), whole.sequences["s"])


def test_entities_of_two_partitions_in_one_chunk_do_not_mix(plan: FeaturePlan) -> None:
    lanes = owner(plan)

    found = run(some([1, 2, 3, 4], keys=[b"a", b"b", b"a", b"b"], partition=[0, 1, 0, 1]), plan, lanes)

    assert found.scalars[:, 2].tolist() == [1, 1, 2, 2]
    assert lanes.rows.lane[found.slots].tolist() == [0, 1, 0, 1]


def test_an_entity_on_two_partitions_stops_the_worker(plan: FeaturePlan) -> None:
    with pytest.raises(WrongLaneError, match=r"partition 1 offset 7: .* partition 0"):
        run(some([1, 2], keys=[b"a", b"a"], partition=[0, 1], offset=[3, 7]), plan, owner(plan))


def test_events_whose_outcome_is_published_are_marked_and_applied(plan: FeaturePlan) -> None:
    lanes = owner(plan, committed=2)

    found = run(some([1, 2, 3], offset=[0, 1, 2]), plan, lanes)

    assert found.is_muted.tolist() == [True, True, False]
    assert found.scalars[:, 2].tolist() == [1, 2, 3]
    assert lanes[0].watermark == 3


def test_an_event_too_late_is_said_to_be_and_changes_nothing_later(plan: FeaturePlan) -> None:
    found = run(some([200, 90, 201]), plan, owner(plan))

    assert found.late.tolist() == [False, True, False]
    assert found.scalars[2, 4] == 2


def test_a_lane_that_begins_in_the_middle_says_incomplete_until_its_windows_have_filled(
    plan: FeaturePlan,
) -> None:
    windows_only = [100.0, 150.0, 199.9, 200.0, 201.0]
    lanes = owner(plan, start=7)

    found = run(some(windows_only, offset=[7, 8, 9, 10, 11]), plan, lanes)

    assert found.incomplete.tolist() == [True, True, True, False, False]
    assert lanes[0].forgotten_us == 100 * S


def test_the_newest_time_is_complete_only_when_a_later_one_was_seen(plan: FeaturePlan) -> None:
    lanes = owner(plan)

    run(some([1, 5, 3]), plan, lanes)
    assert lanes[0].complete_us == 5 * S - 1

    run(some([], next_offsets={0: 4}, complete_us={0: 9 * S}), plan, lanes)
    assert lanes[0].complete_us == 9 * S

    run(some([2], offset=[4]), plan, lanes)
    assert lanes[0].complete_us == 9 * S


def test_a_time_in_the_future_does_not_make_a_lane_complete(tmp_path: Path) -> None:
    """Whoever looks its rows up would otherwise take them for current from then on."""
    plan = feature_plan(pipeline(tmp_path, FEATURES, time="{future: score}"))
    lanes = owner(plan)

    found = run(some([1, 5, 9e9]), plan, lanes)

    assert found.time_order.tolist() == [0, 0, 4]
    assert lanes[0].complete_us == 5 * S - 1


def test_a_chunk_of_only_rejected_records_moves_the_watermark(plan: FeaturePlan) -> None:
    lanes = owner(plan)

    found = run(some([], next_offsets={0: 6, 1: 2}), plan, lanes)

    assert found.scalars.shape == (0, 6)
    assert found.sequences["s"].shape == (0, 3, 2)
    assert (lanes[0].watermark, lanes[1].watermark) == (6, 2)
    assert lanes[0].complete_us == NEVER_US


class Away(MemoryStore):
    """A store in memory that can be out of reach."""

    is_away = False

    def read(self, wanted: Sequence[tuple[str, Sequence[bytes]]]) -> list[Stored]:
        if self.is_away:
            raise StoreUnavailableError("away")
        return super().read(wanted)


def test_a_store_that_is_away_leaves_no_trace_and_the_chunk_can_be_tried_again(plan: FeaturePlan) -> None:
    store = Away()
    before = owner(plan, store=store)
    run(some([1, 2], keys=[b"a", b"b"]), plan, before)
    before.write(0)
    lanes = owner(plan, store=store, committed=2)
    made = some([3, 4, 5], keys=[b"a", b"b", b"c"], offset=[2, 3, 4])
    store.is_away = True
    for _ in range(2):
        with pytest.raises(StoreUnavailableError):
            run(made, plan, lanes)
        assert lanes[0].watermark == 2
        assert not lanes.rows.is_dirty.any()
    store.is_away = False

    assert run(made, plan, lanes).scalars[:, 2].tolist() == [2, 2, 1]


def test_rows_that_do_not_fit_leave_no_trace_and_fit_after_a_write(plan: FeaturePlan) -> None:
    lanes = owner(plan, hot_rows=2)
    run(some([1, 2], keys=[b"a", b"b"]), plan, lanes)
    made = some([3, 4], keys=[b"b", b"c"], offset=[2, 3])
    with pytest.raises(RowsFullError):
        run(made, plan, lanes)
    assert lanes[0].watermark == 2

    lanes.write(0)

    assert run(made, plan, lanes).scalars[:, 2].tolist() == [2, 1]


@settings(deadline=None)
@given(st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)), st.integers(0, 23), st.integers(1, 24))
def test_the_calendar_is_that_of_utc(when: datetime, first: int, last: int) -> None:
    event_us = np.array([round(when.replace(tzinfo=UTC).timestamp() * 1e6)], np.int64)

    assert calendar(event_us, CalendarFeature(is_="weekend"))[0] == (when.isoweekday() >= 6)
    if first < last:
        found = calendar(event_us, CalendarFeature(hours=(first, last)))
        assert found[0] == (first <= when.hour < last)


def test_a_day_changes_at_midnight_exactly() -> None:
    saturday_us = round(datetime(2018, 6, 23, tzinfo=UTC).timestamp()) * S
    edges = np.array(
        [saturday_us - 1, saturday_us, saturday_us + 2 * 86400 * S - 1, saturday_us + 2 * 86400 * S]
    )

    assert calendar(edges, CalendarFeature(is_="weekend")).tolist() == [False, True, True, False]
    assert calendar(edges, CalendarFeature(hours=(0, 7))).tolist() == [False, True, False, True]
    assert calendar(edges, CalendarFeature(hours=(23, 24))).tolist() == [True, False, True, False]
