"""Simulated engines wear out like those of C-MAPSS FD001."""

import itertools

import numpy as np
import pytest

from loadgen.turbofan import Fleet, Readings, cycles


def run(fleet: Fleet, turns: int) -> Readings:
    parts = list(itertools.islice(cycles(fleet), turns))
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in Readings.__slots__}
    return Readings(**columns)


@pytest.fixture(scope="module")
def fleet_run() -> Readings:
    return run(Fleet(machines=150, staggered=False, seed=2), 362)


def test_lives_are_those_of_the_published_engines(fleet_run: Readings) -> None:
    life = (fleet_run.cycle + fleet_run.remaining)[fleet_run.cycle == 1]

    assert life.min() >= 128
    assert life.max() <= 360
    assert life.mean() == pytest.approx(206, abs=12)


def test_remaining_life_counts_down_to_zero_and_a_new_unit_takes_over(fleet_run: Readings) -> None:
    for machine in (0, 7):
        rows = fleet_run.machine == machine
        assert np.array_equal(fleet_run.cycle[rows], np.arange(1, rows.sum() + 1))
        assert np.array_equal(fleet_run.remaining[rows], np.arange(rows.sum())[::-1])
    assert fleet_run.machine.max() >= 150
    assert np.all(np.bincount(fleet_run.machine) > 0)


@pytest.mark.parametrize(
    ("sensor", "healthy", "failing"),
    [  # FD001 training set: mean of the first ten cycles, and of the last five before failure
        (2, 642.37, 643.67),
        (3, 1586.8, 1602.3),
        (4, 1402.6, 1428.9),
        (7, 553.96, 551.49),
        (8, 2388.06, 2388.23),
        (9, 9056.0, 9098.0),
        (11, 47.35, 48.14),
        (12, 521.92, 519.81),
        (13, 2388.06, 2388.23),
        (14, 8137.3, 8166.9),
        (15, 8.418, 8.520),
        (17, 392.25, 396.24),
        (20, 38.94, 38.45),
        (21, 23.36, 23.07),
    ],
)
def test_sensors_move_from_the_published_healthy_level_to_the_failing_one(
    fleet_run: Readings, sensor: int, healthy: float, failing: float
) -> None:
    value = fleet_run.sensor[:, sensor - 1].astype(float)
    tolerance = abs(failing - healthy) * (
        0.3 if sensor in (9, 14) else 0.2
    )  # 9, 14: each engine its own drift

    assert value[fleet_run.cycle <= 10].mean() == pytest.approx(healthy, abs=tolerance)
    assert value[fleet_run.remaining < 5].mean() == pytest.approx(failing, abs=tolerance)


@pytest.mark.parametrize("sensor", [1, 5, 10, 16, 18, 19])
def test_constant_sensors_are_constant(fleet_run: Readings, sensor: int) -> None:
    assert np.ptp(fleet_run.sensor[:, sensor - 1]) == 0


def test_readings_come_in_event_time_order_with_consecutive_ids(fleet_run: Readings) -> None:
    assert np.all(np.diff(fleet_run.event_time_ms) >= 0)
    assert np.array_equal(fleet_run.number, np.arange(len(fleet_run)))


def test_a_staggered_fleet_begins_at_every_age() -> None:
    first = next(cycles(Fleet(machines=300, seed=1)))

    assert first.cycle.min() < 20
    assert first.cycle.max() > 150


def test_the_same_seed_gives_the_same_readings() -> None:
    once, again = run(Fleet(machines=9, seed=4), 40), run(Fleet(machines=9, seed=4), 40)

    assert all(np.array_equal(getattr(once, name), getattr(again, name)) for name in Readings.__slots__)


def test_a_fleet_without_machines_is_refused() -> None:
    with pytest.raises(ValueError, match="needs machines"):
        Fleet(machines=0)
