"""A lane read again from the place found gives the features of one read from the beginning, or says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from feature_cache.layout import FOREVER_US, NEVER_US, Layout, SequenceGroup, WindowGroup
from feature_cache.order import TimePolicy
from feature_cache.recent import apply_windows
from feature_cache.stretches import empty_group
from worker.decide import DecisionPolicy
from worker.rebuild import Log, Reach, Sample, last_older, place, reach

MS = 1000
WINDOWS_US = (10 * MS, 30 * MS)
LATENESS_US, FUTURE_US = 5 * MS, 7 * MS
REACH = Reach(reach_us=WINDOWS_US[-1] + LATENESS_US, lateness_us=LATENESS_US, max_future_us=FUTURE_US)
AGGREGATES = ("count", "sum", "std", "last", "since_last", "distinct")


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a log; without an event time it is no event."""

    event_us: int | None
    produced_ms: int = -1
    slot: int = 0


@dataclass(frozen=True, slots=True)
class ListedLog:
    """A partition in memory; `tests/contract/test_rebuild_log.py` holds it equal to Kafka's."""

    records: list[Record]
    low: int = 0
    at_once: int = 3

    def sample(self, offset: int, end: int | None) -> Sample | None:
        """Some events from an offset on."""
        begin = max(offset, self.low)
        found = [r for r in self.records[begin:end] if r.event_us is not None][: self.at_once]
        if not found:
            return None
        return Sample(
            event_us=tuple(r.event_us for r in found if r.event_us is not None),
            produced_ms=max(r.produced_ms for r in found),
            lag_us=min(r.produced_ms * MS - r.event_us for r in found if r.event_us is not None),
        )

    def first_since(self, produced_ms: int) -> int | None:
        """The first offset of this timestamp or a later one."""
        for offset, record in enumerate(self.records):
            if offset >= self.low and record.produced_ms >= produced_ms:
                return offset
        return None


def features(
    log: list[Record], begin: int, forgotten_us: int, capacity: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_], list[int]]:
    """Windows of every event from an offset on, which of them are flagged, and their offsets."""
    offsets = [i for i, r in enumerate(log) if i >= begin and r.event_us is not None]
    n = len(offsets)
    out, late, incomplete = (
        np.zeros((n, len(WINDOWS_US) * len(AGGREGATES))),
        np.zeros(n, np.bool_),
        np.zeros(n, np.bool_),
    )
    event_us = np.array([log[i].event_us for i in offsets], np.int64)
    group = WindowGroup(
        name="w",
        over="x",
        windows_us=WINDOWS_US,
        window_labels=("short", "long"),
        aggregates=AGGREGATES,
        capacity=capacity,
        allowed_lateness_us=LATENESS_US,
    )
    apply_windows(
        empty_group(group, 3),
        np.array([log[i].slot for i in offsets], np.int64),
        event_us,
        np.array([(i * 7) % 5 for i in offsets], np.float64),
        np.zeros(n, np.bool_),
        np.full(n, event_us[0] if n and forgotten_us == FOREVER_US else forgotten_us, np.int64),
        out,
        late,
        incomplete,
    )
    return out, incomplete, offsets


def assert_exact_or_flagged(log: ListedLog, committed: int, capacity: int) -> int:
    """Compare every event from the committed offset on with a worker that saw the whole log; the begin."""
    begin, forgotten_us = place(REACH, log, committed, log.low, near=2)
    assert log.low <= begin <= max(log.low, committed)
    expected, expected_flag, _ = features(log.records, 0, NEVER_US, capacity)
    found, flag, offsets = features(log.records, begin, forgotten_us, capacity)
    expected, expected_flag = expected[len(expected) - len(found) :], expected_flag[-len(found) or 1 :]
    for i, offset in enumerate(offsets):
        if offset >= committed and not flag[i]:
            np.testing.assert_array_equal(found[i], expected[i])
            assert not expected_flag[i]
    return begin


# Long logs from one drawn number: drawing each record would leave time for short ones only.
SEEDS = st.integers(0, 2**32 - 1)
COUNT = 240


def live(seed: int) -> list[Record]:
    """Events near their record's timestamp, which itself is in no order: only max_future binds them."""
    rng = np.random.default_rng(seed)
    now_ms = 1000 + np.cumsum(rng.integers(0, rng.integers(2, 5), COUNT))
    produced_ms = now_ms - rng.choice([0, 0, 0, 3, 40], COUNT)
    late_us = rng.choice([0, 250 * MS], COUNT, p=[0.95, 0.05]) + rng.choice([0, 1], COUNT) * rng.integers(
        0, 30 * MS, COUNT
    )
    ahead_us = rng.choice([FUTURE_US, 0, -MS], COUNT)
    event_us = produced_ms * MS + np.where(late_us > 0, 0, ahead_us) - late_us
    return records_of(event_us, produced_ms, rng)


def replayed(seed: int) -> list[Record]:
    """Events of long ago with today's timestamps, in no greater disorder than is assumed."""
    assert REACH.disorder_us is not None
    rng = np.random.default_rng(seed)
    event_us, newest_us = [], 1000 * MS
    for early_us, step_us in zip(
        rng.choice([0, REACH.disorder_us], COUNT, p=[0.7, 0.3]), rng.integers(0, 3 * MS, COUNT), strict=True
    ):
        event_us.append(max(newest_us + int(step_us) - int(early_us), newest_us - REACH.disorder_us))
        newest_us = max(newest_us, event_us[-1])
        if rng.random() < 0.05:  # and one that is far ahead of those after it
            event_us[-1] = newest_us = newest_us + REACH.disorder_us
    return records_of(np.array(event_us), np.full(COUNT, 10**12), rng)


def records_of(
    event_us: NDArray[np.int64], produced_ms: NDArray[np.int64], rng: np.random.Generator
) -> list[Record]:
    """Records of a few keys; one in eight is no event."""
    return [
        Record(t if is_event else None, p, slot)
        for t, p, slot, is_event in zip(
            event_us.tolist(),
            produced_ms.tolist(),
            rng.integers(0, 3, COUNT).tolist(),
            (rng.random(COUNT) > 1 / 8).tolist(),
            strict=True,
        )
    ]


@settings(deadline=None, max_examples=200)
@given(SEEDS, st.integers(100, COUNT), st.integers(1, 120))
@example(seed=77, committed=100, capacity=8)
def test_live_events_in_any_disorder_are_exact_after_a_rebuild_or_say_that_they_are_not(
    seed: int, committed: int, capacity: int
) -> None:
    assert_exact_or_flagged(ListedLog(live(seed)), committed, capacity)


@settings(deadline=None, max_examples=200)
@given(SEEDS, st.integers(100, COUNT), st.integers(1, 120))
def test_replayed_events_are_exact_after_a_rebuild_or_say_that_they_are_not(
    seed: int, committed: int, capacity: int
) -> None:
    assert_exact_or_flagged(ListedLog(replayed(seed)), committed, capacity)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from([live, replayed]), SEEDS, st.integers(0, COUNT), st.integers(0, COUNT))
def test_a_rebuild_cut_short_by_retention_says_for_how_long(
    kind: Callable[[int], list[Record]], seed: int, committed: int, low: int
) -> None:
    log = ListedLog(sorted_timestamps(kind(seed)), low, at_once=8)
    assert_exact_or_flagged(log, max(low, committed), 120)


def sorted_timestamps(records: list[Record]) -> list[Record]:
    """The same, appended in the order of their timestamps: what retention removes is older by that clock."""
    return sorted(records, key=lambda r: r.produced_ms)


def steady(count: int, *, produced: str) -> list[Record]:
    """An event a millisecond, with the timestamps of live events or of a replay."""
    return [Record(10**9 + i * MS, 10**6 + i if produced == "live" else 10**12, i % 3) for i in range(count)]


@pytest.mark.parametrize("produced", ["live", "replayed"])
def test_a_long_log_is_read_again_only_as_far_back_as_windows_reach(produced: str) -> None:
    log = ListedLog(steady(5000, produced=produced))

    begin = assert_exact_or_flagged(log, 4000, 70)

    furthest_ms = 64 + 30 + 5 + 2 * (5 + 7) + 2
    assert 4000 - furthest_ms <= begin < 4000 - 30


@pytest.mark.parametrize("produced", ["live", "replayed"])
def test_after_a_rebuild_of_orderly_events_nothing_is_flagged(produced: str) -> None:
    records = steady(5000, produced=produced)
    begin, forgotten_us = place(REACH, ListedLog(records), 4000, 0)

    _, flag, offsets = features(records, begin, forgotten_us, 70)

    assert not flag[[i for i, offset in enumerate(offsets) if offset >= 4000]].any()


def test_a_burst_of_old_readings_does_not_mislead_live_events() -> None:
    """A gateway that was away uploads what it had: the events there say nothing of the place's age."""
    records = steady(4000, produced="live")
    for i in range(3985, 3995):
        records[i] = Record(10**9 - 10**7 + i, 10**6 + i, 2)

    begin = assert_exact_or_flagged(ListedLog(records, at_once=5), 4000, 70)

    assert begin < 4000 - 30


def test_late_events_of_a_young_topic_do_not_pass_for_replayed_ones() -> None:
    """The log is shorter than the windows: late events say nothing of what stands before them."""
    records = steady(40, produced="live")
    for i in range(15, 25):
        records[i] = Record(10**9 - 10**6 + i, 10**6 + i, 2)

    assert place(REACH, ListedLog(records), 40, 0, near=2) == (0, NEVER_US)
    assert_exact_or_flagged(ListedLog(records), 39, 70)


@pytest.mark.parametrize("committed", [0, 5])
def test_where_nothing_is_known_everything_is_read(committed: int) -> None:
    garbage = ListedLog([Record(None)] * 10)

    assert place(REACH, garbage, committed, 0) == (0, NEVER_US)
    assert place(REACH, garbage, committed, 5) == (5, FOREVER_US)


def test_state_without_a_bound_is_built_from_the_beginning() -> None:
    log = ListedLog(steady(5000, produced="live"))
    endless = Reach(reach_us=None, lateness_us=LATENESS_US, max_future_us=FUTURE_US)
    any_future = Reach(reach_us=30 * MS, lateness_us=LATENESS_US, max_future_us=None)

    assert place(endless, log, 4000, 0) == (0, NEVER_US)
    assert place(any_future, log, 4000, 0) == (0, NEVER_US)
    assert place(any_future, log, 4000, 7) == (7, FOREVER_US)


def test_the_bisection_ends_at_events_as_old_as_asked() -> None:
    times = {offset: (offset, offset + 1) for offset in range(10_000)}
    looks: list[int] = []

    def at(offset: int) -> tuple[int, ...] | None:
        looks.append(offset)
        return times.get(offset)

    begin, newest = last_older(at, 0, 20_000, 7000, near=10)

    assert 6980 <= begin <= 6999
    assert newest == begin + 1
    assert len(looks) < 15


WINDOW = WindowGroup(
    name="w",
    over="x",
    windows_us=WINDOWS_US,
    window_labels=("10ms", "30ms"),
    aggregates=("count",),
    capacity=4,
    allowed_lateness_us=LATENESS_US,
)
SEQUENCE = SequenceGroup(name="s", fields=("x",), length=3, capacity=3)


def policy(cooldown_us: int | None) -> DecisionPolicy:
    """Alerts with a cool-down, or with hysteresis."""
    return DecisionPolicy(
        severities=("warning",),
        thresholds=(0.5,),
        alert_below=False,
        cooldown_us=cooldown_us,
        clear_margin=0.1 if cooldown_us is None else None,
    )


@pytest.mark.parametrize(
    ("groups", "decision", "exact_us", "windows_us"),
    [
        ((WINDOW,), None, 35 * MS, 35 * MS),
        ((WINDOW,), policy(100), None, 35 * MS + 100),
        ((WINDOW,), policy(None), None, 35 * MS),
        ((WINDOW, SEQUENCE), None, None, 35 * MS),
        ((SEQUENCE,), None, None, None),
        ((), policy(100), None, None),
        ((), None, 0, 0),
    ],
)
def test_only_windows_forget(
    groups: tuple[WindowGroup | SequenceGroup, ...],
    decision: DecisionPolicy | None,
    exact_us: int | None,
    windows_us: int | None,
) -> None:
    layout = Layout(groups=groups)

    calm = TimePolicy()
    assert reach(layout, decision, calm, "auto", FUTURE_US).reach_us == exact_us
    assert reach(layout, decision, calm, "windows", FUTURE_US).reach_us == windows_us
    assert reach(layout, decision, calm, "beginning", FUTURE_US).reach_us is None


@pytest.mark.parametrize(
    "times",
    [
        TimePolicy(refuses=(False, False, False, True, False)),
        TimePolicy(clock_back_us=5, clock_back_events=3),
    ],
)
def test_what_is_refused_may_depend_on_the_first_event_ever(times: TimePolicy) -> None:
    layout = Layout(groups=(WINDOW,))

    assert reach(layout, None, times, "auto", FUTURE_US).reach_us is None
    assert reach(layout, None, times, "windows", FUTURE_US).reach_us == 35 * MS


def test_the_log_in_memory_is_a_log() -> None:
    log: Log = ListedLog([Record(5, 1), Record(None, 2), Record(9, 3)], at_once=1)

    assert log.sample(1, None) == Sample(event_us=(9,), produced_ms=3, lag_us=2991)
    assert log.sample(1, 2) is None
    assert (log.first_since(2), log.first_since(4)) == (1, None)
