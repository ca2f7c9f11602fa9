"""Stretches that stand out are found, with what came of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loadgen.spikes import LATENCY_TIMES, TRAFFIC_TIMES, spikes


def seconds(due: list[int], p99: list[float | None]) -> dict[str, list[float | None]]:
    return {"events": [*map(float, due)], "outcomes": [0.0] * len(due), "p50_ms": p99, "p99_ms": p99}


def test_a_spike_in_traffic_is_told_with_when_latency_was_usual_again() -> None:
    due = [100, 100, 100, 600, 500, 100, 100, 100, 100, 100]
    p99 = [10.0, 11, 10, 80, 300, 90, 40, 10, 10, 10]

    found = spikes(seconds(due, [*p99]))

    traffic, latency = found
    assert (traffic.kind, traffic.begin_s, traffic.seconds, traffic.highest) == ("traffic", 3, 2, 600)
    assert (traffic.times_usual, traffic.worst_p99_ms, traffic.over_after_s) == (6.0, 300, 2)
    assert (latency.kind, latency.begin_s, latency.seconds, latency.over_after_s) == ("latency", 3, 4, 0)


def test_what_is_not_over_when_the_run_ends_says_so() -> None:
    found = spikes(seconds([100] * 6, [10, 10, 10, 10, 50, None]))

    assert [(spike.kind, spike.over_after_s) for spike in found] == [("latency", None)]


def test_a_few_milliseconds_are_no_spike_whatever_the_ratio() -> None:
    assert spikes(seconds([100] * 4, [1.0, 1.0, 4.0, 1.0])) == []


def test_a_run_without_events_or_outcomes_has_none() -> None:
    assert spikes(seconds([], [])) == []
    assert spikes(seconds([0, 5], [None, None])) == []


@given(st.lists(st.tuples(st.integers(0, 1000), st.none() | st.floats(0.1, 1000)), min_size=1, max_size=40))
def test_every_second_beyond_the_bound_is_in_exactly_one_spike_of_its_kind(
    rows: list[tuple[int, float | None]],
) -> None:
    due, p99 = [row[0] for row in rows], [row[1] for row in rows]
    known = sorted(value for value in p99 if value is not None)
    busy = sorted(value for value in due if value)

    found = spikes(seconds(due, p99))

    if not known or not busy:
        assert found == []
        return
    usual_due = (busy[(len(busy) - 1) // 2] + busy[len(busy) // 2]) / 2
    usual_ms = (known[(len(known) - 1) // 2] + known[len(known) // 2]) / 2
    expected = {
        "traffic": [at for at, value in enumerate(due) if value > TRAFFIC_TIMES * usual_due],
        "latency": [
            at
            for at, value in enumerate(p99)
            if value is not None and value > max(LATENCY_TIMES * usual_ms, usual_ms + 5)
        ],
    }
    for kind, at in expected.items():
        covered = [
            s for one in found if one.kind == kind for s in range(one.begin_s, one.begin_s + one.seconds)
        ]
        assert covered == at
