"""Due times follow the asked rate and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.arrivals import KINDS, Arrivals, arrivals, capped, constant, due_times, ramp, spike


def counted(process: Arrivals, until_s: float, chunk: int = 777) -> np.ndarray:
    due = [process.take(chunk)]
    while due[-1][-1] < until_s:
        due.append(process.take(chunk))
    everything = np.concatenate(due)
    return everything[everything < until_s]


def test_constant_arrivals_are_evenly_spaced() -> None:
    due = counted(arrivals("constant", 250.0), 4.0)

    assert np.allclose(np.diff(due), 1 / 250)
    assert len(due) in (999, 1000)


def test_poisson_arrivals_have_the_mean_rate_and_exponential_gaps() -> None:
    gaps = np.diff(counted(arrivals("poisson", 1000.0, seed=1), 60.0))

    assert gaps.mean() == pytest.approx(1e-3, rel=0.02)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)


def test_a_ramp_reaches_its_rate_and_stays_there() -> None:
    due = counted(arrivals("ramp", 1000.0, ramp_from_per_s=0.0, ramp_s=20.0, seed=1), 30.0)
    per_second = np.bincount(due.astype(int), minlength=30)

    assert per_second[:2].sum() < 250
    assert per_second[:20].sum() == pytest.approx(10_000, rel=0.05)
    assert per_second[20:].mean() == pytest.approx(1000, rel=0.05)


def test_a_spike_is_as_high_and_as_long_as_asked() -> None:
    due = counted(arrivals("spike", 200.0, spike_factor=10, spike_at_s=5, spike_s=3, seed=1), 15.0)
    per_second = np.bincount(due.astype(int), minlength=15)

    assert per_second[5:8].mean() == pytest.approx(2000, rel=0.05)
    assert np.delete(per_second, [5, 6, 7]).mean() == pytest.approx(200, rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_due_times_do_not_depend_on_how_many_are_asked_for_at_once(kind: str) -> None:
    whole = arrivals(kind, 300.0, seed=9).take(1000)  # type: ignore[arg-type]
    piecewise = arrivals(kind, 300.0, seed=9)  # type: ignore[arg-type]

    assert np.allclose(np.concatenate([piecewise.take(n) for n in (1, 399, 0, 600)]), whole)


@settings(deadline=None)
@given(
    st.floats(0, 500, allow_subnormal=False),
    st.floats(0.1, 500),
    st.floats(0.1, 60),
    st.lists(st.floats(0, 40_000, allow_subnormal=False), min_size=1, max_size=40),
)
def test_due_times_invert_the_expected_number_of_events(
    begin: float, end: float, over_s: float, expected: list[float]
) -> None:
    wanted = np.sort(np.array(expected))

    t = due_times(ramp(begin, end, over_s), wanted)

    inside = np.minimum(t, over_s)
    reached = begin * inside + (end - begin) / over_s * inside**2 / 2 + end * np.maximum(t - over_s, 0)
    assert np.allclose(reached, wanted, rtol=1e-6, atol=1e-3)
    assert np.all(np.diff(t) >= 0)


def test_the_least_number_of_events_that_there_is_is_due_at_once() -> None:
    assert due_times(ramp(0.0, 0.1, 60.0), np.array([0.0, 5e-324])).tolist() == [0.0, 0.0]


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="impossible rate"):
        constant(0.0)
    with pytest.raises(ValueError, match="impossible rate"):
        spike(100.0, -1.0, 5.0, 1.0)
    with pytest.raises(ValueError, match="unknown arrival process"):
        arrivals("sometimes", 5.0)  # type: ignore[arg-type]


@settings(deadline=None)
@given(st.lists(st.floats(0, 10), max_size=60), st.floats(0.5, 100), st.floats(0, 5))
def test_a_cap_delays_events_and_never_advances_them(due: list[float], per_s: float, free_s: float) -> None:
    wanted = np.sort(np.array(due))

    given_out = capped(wanted, per_s, free_s)

    assert np.all(given_out >= wanted - 1e-9)
    assert np.all(given_out >= free_s - 1e-9)
    assert np.all(np.diff(given_out) >= 1 / per_s - 1e-9)
