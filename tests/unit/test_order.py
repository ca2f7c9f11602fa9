"""Events out of order are told apart, counted in their place or refused; clocks may be set back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from feature_cache.lanes import Lanes
from feature_cache.layout import FOREVER_US, NEVER_US, Layout, SequenceGroup, WindowGroup
from feature_cache.order import (
    EQUAL,
    FUTURE,
    IN_ORDER,
    LATE,
    ORDERS,
    OUT_OF_ORDER,
    apply_order,
    late_after_us,
)
from feature_cache.rows import HotRows
from feature_cache.store import MemoryStore
from schemas.schema import parse_schema
from tests.builders import EVENT_AVSC, METER, NOW_MS, NOW_US, events, pipeline
from worker.batch import Batch, Features
from worker.features import enrich
from worker.metrics import Meter
from worker.plan import FeaturePlan, feature_plan
from worker.refuse import set_refused_apart

SCHEMA = parse_schema(json.dumps(EVENT_AVSC))
S = 1_000_000
FEATURES = """
  w:
    kind: window
    over: amount
    windows: [10s, 100s]
    aggregates: [count, sum, since_last]
    capacity: 128
    allowed_lateness: 5s
  s: {kind: sequence, fields: [speed, amount], length: 3, capacity: 128}
"""
Event = tuple[int, int]  # key, event time in seconds


def judge(
    log: Sequence[tuple[int, int]],
    *,
    late_us: int = 20,
    back_us: int = 30,
    back_events: int = 0,
    refuses: Sequence[int] = (),
    ahead: Sequence[bool] | None = None,
    cuts: Sequence[int] = (),
) -> list[tuple[str, bool, bool]]:
    """Order, refused, clock reset of each (slot, time)."""
    newest_us, steps_back = np.full(3, NEVER_US, np.int64), np.zeros(3, np.uint8)
    refused_orders = np.zeros(len(ORDERS), np.bool_)
    refused_orders[list(refuses)] = True
    said: list[tuple[str, bool, bool]] = []
    for begin, end in zip((0, *cuts), (*cuts, len(log)), strict=True):
        n = end - begin
        order, refused, reset = np.zeros(n, np.uint8), np.zeros(n, np.bool_), np.zeros(n, np.bool_)
        apply_order(
            np.array([slot for slot, _ in log[begin:end]], np.int64),
            np.array([t for _, t in log[begin:end]], np.int64),
            np.zeros(n, np.bool_) if ahead is None else np.array(ahead[begin:end], np.bool_),
            newest_us,
            steps_back,
            late_us,
            back_us,
            back_events,
            refused_orders,
            order,
            refused,
            reset,
        )
        said += zip([ORDERS[o] for o in order.tolist()], refused.tolist(), reset.tolist(), strict=True)
    return said


def slow(
    log: Sequence[tuple[int, int]], back_events: int, refuses: Sequence[int]
) -> list[tuple[str, bool, bool]]:
    """The definition, from the whole history of each key at every event."""
    said: list[tuple[str, bool, bool]] = []
    for i, (slot, t) in enumerate(log):
        mine = [j for j in range(i) if log[j][0] == slot]
        resets = [j for j in mine if said[j][2]]
        mine = [j for j in mine if not resets or j >= resets[-1]]
        kept = [log[j][1] for j in mine if not said[j][1]]
        if not kept or t > max(kept):
            order = IN_ORDER
        elif t == max(kept):
            order = EQUAL
        else:
            order = OUT_OF_ORDER if max(kept) - t < 20 else LATE
        is_reset = False
        if back_events and kept:
            streak = [log[j][1] for j in mine[-back_events + 1 :]] if back_events > 1 else []
            newest = max(kept)
            is_reset = len(streak) == back_events - 1 and all(newest - u > 30 for u in [*streak, t])
        if is_reset:
            order = IN_ORDER
        said.append((ORDERS[order], order in refuses, is_reset))
    return said


LOGS = st.lists(
    st.tuples(st.integers(0, 1), st.one_of(st.integers(0, 120), st.integers(50, 60))), min_size=1, max_size=60
)


@settings(deadline=None, max_examples=300)
@given(
    LOGS,
    st.integers(0, 4),
    st.sets(st.sampled_from([EQUAL, OUT_OF_ORDER, LATE])),
    st.sets(st.integers(0, 59), max_size=3),
)
def test_each_event_stands_in_its_keys_time_as_defined_however_the_log_is_cut(
    log: list[tuple[int, int]], back_events: int, refuses: set[int], cuts: set[int]
) -> None:
    places = sorted(cut for cut in cuts if cut < len(log))

    found = judge(log, back_events=back_events, refuses=list(refuses), cuts=places)

    assert found == slow(log, back_events, list(refuses))


def test_the_orders_by_example() -> None:
    found = judge([(0, 100), (0, 100), (0, 99), (0, 81), (0, 80), (0, 101), (1, 5)])

    assert [order for order, _, _ in found] == [
        "IN_ORDER",
        "EQUAL",
        "OUT_OF_ORDER",
        "OUT_OF_ORDER",
        "LATE",
        "IN_ORDER",
        "IN_ORDER",
    ]


def test_an_event_ahead_of_its_record_is_of_the_future_whatever_else_it_is() -> None:
    found = judge([(0, 100), (0, 100), (0, 200)], ahead=[False, True, True])

    assert [order for order, _, _ in found] == ["IN_ORDER", "FUTURE", "FUTURE"]


def test_a_clock_is_set_back_only_by_events_in_a_row() -> None:
    back, now = (0, 10), (0, 100)

    assert [r for _, _, r in judge([now, back, back, back], back_events=3)] == [False, False, False, True]
    assert not any(r for _, _, r in judge([now, back, back, now, back, back], back_events=3))
    assert not any(r for _, _, r in judge([now, back, (1, 10), back], back_events=3))
    assert not any(r for _, _, r in judge([now, *[back] * 9], back_events=0))


def test_how_late_is_late_is_said_by_the_shortest_memory_of_windows() -> None:
    def windows(length_us: int) -> WindowGroup:
        return WindowGroup(
            name=f"w{length_us}",
            over="x",
            windows_us=(length_us,),
            window_labels=("w",),
            aggregates=("count",),
            capacity=1,
            allowed_lateness_us=5,
        )

    assert late_after_us(Layout(groups=(windows(30), windows(10)))) == 15
    only = SequenceGroup(name="s", fields=("x",), length=2, capacity=2)
    assert late_after_us(Layout(groups=(only,))) == FOREVER_US


# Through every feature.


def plan_of(folder: Any, time: str) -> FeaturePlan:
    """Windows and a sequence, with this section source.time."""
    made = pipeline(folder, FEATURES, time=time)
    return feature_plan(made)


def run(
    plan: FeaturePlan,
    log: Sequence[Event],
    *,
    cuts: Sequence[int] = (),
    meter: Meter = METER,
    produced_ms: int = NOW_MS,
) -> Features:
    """Features of a log of (key, seconds); the amount of an event is its place in the log."""
    lanes = Lanes(HotRows(plan.layout, 16), MemoryStore(), "g", "t")
    lanes.take(0, committed=None, start=0, low=0, high=2**40, now_ms=1)
    parts = []
    for begin, end in zip((0, *cuts), (*cuts, len(log)), strict=True):
        amounts = [float(i) for i in range(begin, end)]
        made = events(
            time_us=[s * S for _, s in log[begin:end]],
            keys=[b"k%d" % key for key, _ in log[begin:end]],
            amount=amounts,
            offset=list(range(begin, end)),
            next_offsets={0: end},
            schema=SCHEMA,
            columns={"terminal": ["t"] * (end - begin), "speed": np.array(amounts) * 2},
        )
        made.records.produced_ms[:] = produced_ms
        parts.append(enrich(made, plan, lanes, (), meter))
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in Features.__dataclass_fields__
        if name not in ("sequences", "quality")
    }
    return Features(**columns, sequences={"s": np.concatenate([part.sequences["s"] for part in parts])})


TIMES = st.lists(
    st.tuples(st.integers(0, 1), st.one_of(st.integers(0, 300), st.integers(100, 120))),
    min_size=1,
    max_size=40,
)


@settings(deadline=None, max_examples=60)
@given(
    TIMES,
    st.sets(st.sampled_from(["equal", "out_of_order", "late"]), min_size=1),
    st.sets(st.integers(0, 39), max_size=3),
)
def test_a_refused_event_changes_nothing_for_those_that_are_scored(
    tmp_path_factory: pytest.TempPathFactory, log: list[Event], refused: set[str], cuts: set[int]
) -> None:
    folder = tmp_path_factory.mktemp("p")
    section = ", ".join(f"{order}: dead_letter" for order in sorted(refused))
    plan = plan_of(folder, f"{{{section}}}")
    found = run(plan, log, cuts=sorted(cut for cut in cuts if cut < len(log)))
    kept = np.flatnonzero(~found.refused)

    # The same amounts without the refused events: as if they had never been sent.
    alone = run_amounts(plan, [(log[i], float(i)) for i in kept.tolist()])

    np.testing.assert_array_equal(found.scalars[kept], alone.scalars)
    np.testing.assert_array_equal(found.sequences["s"][kept], alone.sequences["s"])
    np.testing.assert_array_equal(found.time_order[kept], alone.time_order)
    assert not alone.refused.any()
    assert {ORDERS[o].lower() for o in found.time_order[found.refused].tolist()} <= refused


def run_amounts(plan: FeaturePlan, log: Sequence[tuple[Event, float]]) -> Features:
    """Features of events with given amounts."""
    lanes = Lanes(HotRows(plan.layout, 16), MemoryStore(), "g", "t")
    lanes.take(0, committed=None, start=0, low=0, high=2**40, now_ms=1)
    amounts = [amount for _, amount in log]
    made = events(
        time_us=[s * S for (_, s), _ in log],
        keys=[b"k%d" % key for (key, _), _ in log],
        amount=amounts,
        schema=SCHEMA,
        columns={"terminal": ["t"] * len(log), "speed": np.array(amounts) * 2},
    )
    return enrich(made, plan, lanes, (), METER)


@settings(deadline=None, max_examples=60)
@given(TIMES, st.sets(st.integers(0, 39), max_size=3))
def test_after_its_clock_was_set_back_a_key_is_like_a_new_one(
    tmp_path_factory: pytest.TempPathFactory, log: list[Event], cuts: set[int]
) -> None:
    plan = plan_of(
        tmp_path_factory.mktemp("p"), "{clock_back: reset, clock_back_by: 50s, clock_back_events: 2}"
    )
    found = run(plan, log, cuts=sorted(cut for cut in cuts if cut < len(log)))

    for reset in np.flatnonzero(found.clock_reset).tolist():
        key, at = log[reset]
        again = [j for j in np.flatnonzero(found.clock_reset).tolist() if j > reset and log[j][0] == key]
        end = again[0] if again else len(log)
        mine = [i for i in range(reset, end) if log[i][0] == key]
        new = run_amounts(plan, [(log[i], float(i)) for i in mine])
        for row, i in enumerate(mine):
            if any(log[j][1] < at for j in mine[: row + 1]):
                break  # what is older than the reset is late to the one and in order to the other
            np.testing.assert_array_equal(found.scalars[i], new.scalars[row])
            np.testing.assert_array_equal(found.sequences["s"][i], new.sequences["s"][row])
            assert found.incomplete[i] == (new.incomplete[row] or log[i][1] - 100 < at)


def test_a_sensor_whose_clock_was_set_back_is_heard_again(tmp_path: Any) -> None:
    year = 365 * 86_400
    log = [(0, 10 * year), (0, 10 * year + 1), *((0, 100 + i) for i in range(200))]

    kept = run(plan_of(tmp_path, "{}"), log)
    reset = run(plan_of(tmp_path, "{clock_back: reset, clock_back_by: 1h, clock_back_events: 3}"), log)

    assert kept.late[2:].all(), "without the policy, until the clock has caught up"
    assert reset.late.tolist() == [False, False, True, True] + [False] * 198
    assert np.flatnonzero(reset.clock_reset).tolist() == [4]
    assert reset.scalars[4:, 0].tolist() == [min(i + 1, 10) for i in range(198)]
    # The row knows nothing from before the reset, and says so until the longest window has filled.
    assert reset.incomplete[4:].tolist() == [True] * 100 + [False] * 98


def test_refused_events_become_dead_letters_beside_those_that_are_scored(tmp_path: Any) -> None:
    plan = plan_of(tmp_path, "{late: dead_letter, out_of_order: dead_letter, equal: dead_letter}")
    log = [(0, 500), (0, 500), (0, 499), (0, 1), (0, 501)]
    made = events(
        time_us=[s * S for _, s in log],
        keys=[b"k0"] * 5,
        next_offsets={0: 9},
        schema=SCHEMA,
        columns={"terminal": ["t"] * 5, "speed": np.zeros(5)},
    )
    batch, rejected = set_refused_apart(Batch(events=made, features=run(plan, log)))

    assert batch.events.records.offset.tolist() == [0, 4]
    assert batch.features.scalars[:, 0].tolist() == [1, 2]
    assert batch.features.sequences["s"].shape == (2, 3, 2)
    assert batch.events.next_offsets == {0: 9}
    assert batch.events.table.num_rows == len(batch.events.records) == 2
    assert [(r.record.offset, r.stage, r.reason) for r in rejected] == [
        (1, "state", "equal_event_time"),
        (2, "state", "out_of_order_event"),
        (3, "state", "late_event"),
    ]
    assert all(r.record == made.records[r.record.offset] for r in rejected)
    assert set_refused_apart(batch) == (batch, [])


def test_events_of_the_future_are_scored_and_said_to_be_where_the_file_takes_them(tmp_path: Any) -> None:
    now_s = NOW_US // S
    log = [(0, now_s), (0, now_s + 3600), (0, now_s + 3601), (0, now_s + 1)]

    found = run(plan_of(tmp_path, "{future: score}"), log)

    assert found.time_order.tolist() == [IN_ORDER, IN_ORDER, FUTURE, LATE]
    undated = run(plan_of(tmp_path, "{future: score}"), log, produced_ms=-1)
    assert undated.time_order.tolist() == [IN_ORDER, IN_ORDER, IN_ORDER, LATE]


def test_a_row_too_full_for_an_old_event_calls_it_late(tmp_path: Any) -> None:
    plan = feature_plan(
        pipeline(
            tmp_path,
            "  w: {kind: window, over: amount, windows: [100s], aggregates: [count], capacity: 2}\n"
            "  s: {kind: sequence, fields: [speed, amount], length: 3}",
        )
    )

    found = run(plan, [(0, 50), (0, 60), (0, 40)])

    assert found.late.tolist() == [False, False, True]
    assert found.time_order.tolist() == [IN_ORDER, IN_ORDER, LATE]


def test_how_events_stand_is_counted(tmp_path: Any) -> None:
    registry = CollectorRegistry()
    meter = Meter("counted", registry)
    plan = plan_of(tmp_path, "{clock_back: reset, clock_back_by: 100s, clock_back_events: 1}")

    run(plan, [(0, 500), (0, 500), (0, 499), (0, 1)], meter=meter)

    def count(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"penstock_{name}_total", {"pipeline": "counted", **labels})

    assert [count("time_order", order=order) for order in ORDERS] == [2, 1, 1, 0, 0]
    assert count("clock_resets") == 1


# The shape of a real series: a step back of 55 minutes between readings five minutes apart.


def machine_temperature(count: int = 100, step_at: int = 60) -> NDArray[np.int64]:
    """(n,) event times in seconds: the hour before the step comes twice."""
    times = np.arange(count) * 300
    times[step_at:] -= 3600
    return times


def test_an_hour_that_comes_twice_is_counted_in_its_place(tmp_path: Any) -> None:
    times = machine_temperature()
    plan = feature_plan(
        pipeline(
            tmp_path,
            "  w: {kind: window, over: amount, windows: [1h, 1d], aggregates: [count, sum], capacity: 400}\n"
            "  s: {kind: sequence, fields: [speed, amount], length: 3, capacity: 400}",
        )
    )

    found = run(plan, [(0, t) for t in times.tolist()])

    assert np.diff(times)[59] == -3300
    assert found.time_order.tolist() == [IN_ORDER] * 60 + [OUT_OF_ORDER] * 11 + [EQUAL] + [IN_ORDER] * 28
    assert not found.late.any()
    for i, t in enumerate(times.tolist()):
        for column, window in ((0, 3600), (2, 86_400)):
            inside = [j for j in range(i + 1) if t - window < times[j] <= t]
            assert found.scalars[i, column] == len(inside)
            assert found.scalars[i, column + 1] == sum(inside)
