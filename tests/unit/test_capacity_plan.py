"""Members are the fewest that get no more than they are planned for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.capacity_plan import HEAD_ROOM, busiest, last_kept, need, planned_per_member

rates = st.floats(min_value=1, max_value=5e6, allow_nan=False)


@given(traffic=rates, limit=st.floats(min_value=100, max_value=1e6), partitions=st.integers(1, 64))
def test_no_member_gets_more_than_it_is_planned_for_and_one_less_would_be_too_few(
    traffic: float, limit: float, partitions: int
) -> None:
    found = need(traffic, limit, partitions=partitions)
    planned = limit * (1 - HEAD_ROOM) * (1 + 1e-6)

    assert found.busiest_events_per_s <= planned
    assert found.members <= found.partitions
    # The slow way: deal the partitions out one by one, and look at who has the most.
    hands = [0] * found.members
    for dealt in range(found.partitions):
        hands[dealt % found.members] += 1
    assert found.busiest_events_per_s == pytest.approx(traffic * max(hands) / found.partitions)
    if found.members > 1 and found.partitions == partitions:
        assert all(busiest(traffic, partitions, m) > planned / (1 + 1e-5) for m in range(1, found.members))


@given(traffic=rates, limit=st.floats(min_value=100, max_value=1e6))
def test_where_the_topic_has_too_few_partitions_each_member_gets_one(traffic: float, limit: float) -> None:
    found = need(traffic, limit, partitions=1)

    assert found.partitions == found.members
    assert (found.members - 1) * planned_per_member(limit) <= traffic * (1 + 1e-6) or found.members == 1


def test_four_members_on_six_partitions_do_not_carry_four_times_what_one_does() -> None:
    found = need(4 * 70_000, 100_000, partitions=6)

    assert busiest(280_000, 6, 4) == pytest.approx(93_333.3, rel=1e-3)
    assert (found.members, found.partitions) == (6, 6)
    assert need(4 * 70_000, 100_000).members == 4


def test_the_cost_of_a_million_events_is_what_all_members_cost_while_they_come() -> None:
    found = need(50_000, 100_000, member_price_per_hour=0.40)

    assert found.members == 1
    assert found.per_million == pytest.approx(0.40 / 3600 * (1e6 / 50_000))


@given(
    rates=st.lists(st.floats(1, 1e6), min_size=1, max_size=8, unique=True).map(sorted),
    objective=st.floats(1, 100),
    data=st.data(),
)
def test_the_limit_is_the_last_step_that_keeps_the_objective_before_one_breaks_it(
    rates: list[float], objective: float, data: st.DataObject
) -> None:
    n = len(rates)
    p99 = data.draw(st.lists(st.none() | st.floats(0, 200), min_size=n, max_size=n))
    void = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))

    found = last_kept(rates, p99, objective, void)

    is_kept = [value is not None and value <= objective for value in p99]
    is_broken = [not kept and not is_void for kept, is_void in zip(is_kept, void, strict=True)]
    below = rates[: is_broken.index(True)] if True in is_broken else rates
    assert found == max((rate for rate, kept in zip(below, is_kept, strict=False) if kept), default=None)


def test_a_step_whose_sender_was_late_breaks_nothing() -> None:
    assert last_kept([1.0, 2.0, 3.0], [90.0, 10.0, 90.0], 50.0, [True, False, False]) == 2.0
    assert last_kept([1.0, 2.0, 3.0], [90.0, 10.0, 90.0], 50.0, [False, False, False]) is None
