"""Simulated transactions keep the statistics and the rules of the published generator."""

import itertools

import numpy as np
import pytest

from loadgen.slabs import rows
from loadgen.transactions import DAY_S, HANDBOOK_START_S, Transactions, World, days, within_radius


def first_days(world: World, count: int) -> Transactions:
    parts = list(itertools.islice(days(world), count))
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in Transactions.__slots__
    }
    return Transactions(**columns)


@pytest.fixture(scope="module")
def ninety_days() -> Transactions:
    return first_days(World(seed=3), 90)


def test_about_two_transactions_a_customer_and_day_as_published(ninety_days: Transactions) -> None:
    assert len(ninety_days) / 90 == pytest.approx(9_586, rel=0.03)


def test_the_share_of_fraud_settles_near_the_published_one(ninety_days: Transactions) -> None:
    settled = rows(ninety_days, slice(len(ninety_days) // 3, None))

    # 0.837 % over the dataset, in which the first month is still filling up.
    assert 0.007 < (settled.scenario > 0).mean() < 0.011


def test_every_scenario_has_its_published_place(ninety_days: Transactions) -> None:
    settled = rows(ninety_days, slice(len(ninety_days) // 3, None))
    share = np.bincount(settled.scenario, minlength=4) / len(settled)

    # 973, 9,077 and 4,631 of 1,754,155.
    assert share[1] == pytest.approx(0.00055, rel=0.3)
    assert share[2] == pytest.approx(0.0056, rel=0.25)
    assert share[3] == pytest.approx(0.0028, rel=0.3)


def test_every_large_amount_is_fraud(ninety_days: Transactions) -> None:
    large = ninety_days.amount > 220.0

    assert large.any()
    assert np.all(ninety_days.scenario[large] > 0)


def test_a_bad_terminal_stays_bad_for_four_weeks_and_no_longer(ninety_days: Transactions) -> None:
    bad = ninety_days.scenario == 2
    day = (ninety_days.event_time_s - HANDBOOK_START_S) // DAY_S
    terminal = ninety_days.terminal[bad][0]
    there = ninety_days.terminal == terminal
    first, last = day[there & bad].min(), day[there & bad].max()

    assert last - first < 28
    assert np.all(ninety_days.scenario[there & (day > first) & (day < last)] >= 2)


def test_transactions_come_in_event_time_order_with_consecutive_ids(ninety_days: Transactions) -> None:
    assert np.all(np.diff(ninety_days.event_time_s) >= 0)
    assert np.array_equal(ninety_days.number, np.arange(len(ninety_days)))


def test_amounts_are_positive_whole_cents(ninety_days: Transactions) -> None:
    assert ninety_days.amount.min() >= 0
    assert np.array_equal(ninety_days.amount, np.round(ninety_days.amount, 2))


def test_days_begin_where_the_world_begins() -> None:
    first = next(days(World(start_s=1_000_000_000 // DAY_S * DAY_S, first_number=70, customers=500)))

    assert first.number[0] == 70
    assert 0 <= first.event_time_s[0] - 1_000_000_000 // DAY_S * DAY_S < DAY_S


def test_the_same_seed_gives_the_same_days_and_another_seed_others() -> None:
    world = World(customers=300, terminals=600, radius=20.0, seed=5)
    once, again = first_days(world, 20), first_days(world, 20)
    other = first_days(World(customers=300, terminals=600, radius=20.0, seed=6), 20)

    assert all(np.array_equal(getattr(once, n), getattr(again, n)) for n in Transactions.__slots__)
    assert not np.array_equal(once.amount[:100], other.amount[:100])


@pytest.mark.parametrize("radius", [0.7, 5.0, 30.0, 300.0])
def test_customers_reach_exactly_the_terminals_within_the_radius(radius: float) -> None:
    rng = np.random.default_rng(1)
    origins, targets = rng.uniform(0, 100, (60, 2)), rng.uniform(0, 100, (150, 2))

    first, found = within_radius(origins, targets, radius)

    distance = np.sqrt(((origins[:, None] - targets[None]) ** 2).sum(axis=2))
    for row in range(len(origins)):
        assert found[first[row] : first[row + 1]].tolist() == np.flatnonzero(distance[row] < radius).tolist()


def test_a_customer_without_a_terminal_in_reach_does_not_pay() -> None:
    lonely = first_days(World(customers=400, terminals=3, radius=5.0, terminals_a_day=1), 5)

    assert len(lonely) < 400 * 5 * 2 / 10


def test_an_impossible_world_is_refused() -> None:
    with pytest.raises(ValueError, match="world too small"):
        World(customers=2)
