"""When events are due: open-loop arrival processes that know nothing of the system under test."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["constant", "poisson", "ramp", "spike"]
KINDS: tuple[Kind, ...] = ("constant", "poisson", "ramp", "spike")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rate:
    """A rate over time: straight lines between the points, the last rate for ever after."""

    at_s: NDArray[np.float64]  # (k,) ascending, from 0
    per_s: NDArray[np.float64]  # (k,) events a second at these times, never negative; the last above 0

    def __post_init__(self) -> None:
        if self.per_s[-1] <= 0 or self.per_s.min() < 0 or self.at_s[0] != 0 or np.any(np.diff(self.at_s) < 0):
            raise ValueError(f"impossible rate: {self.per_s.tolist()} events/s at {self.at_s.tolist()} s")


def constant(per_s: float) -> Rate:
    """The same rate all the time."""
    return Rate(at_s=np.zeros(1), per_s=np.array([per_s], float))


def ramp(from_per_s: float, to_per_s: float, over_s: float) -> Rate:
    """From one rate to another in a straight line, then on at the second one."""
    return Rate(at_s=np.array([0.0, over_s]), per_s=np.array([from_per_s, to_per_s], float))


def spike(per_s: float, factor: float, start_s: float, for_s: float) -> Rate:
    """A steady rate that is `factor` times higher from `start_s` on for `for_s` seconds."""
    end_s = start_s + for_s
    return Rate(
        at_s=np.array([0.0, start_s, start_s, end_s, end_s]),
        per_s=np.array([per_s, per_s, per_s * factor, per_s * factor, per_s], float),
    )


def due_times(rate: Rate, expected: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return when the expected number of events reaches the given values: the inverse of the rate's integral.

    Args:
        rate: events a second over time.
        expected: (n,) numbers of events, ascending, from 0.

    Returns:
        (n,) seconds since the start, ascending.
    """
    span = np.diff(rate.at_s)
    reached = np.concatenate([[0.0], np.cumsum(span * (rate.per_s[:-1] + rate.per_s[1:]) / 2)])
    part = np.searchsorted(reached, expected, "right") - 1
    begin, more = rate.per_s[part], expected - reached[part]
    slopes = np.append(np.divide(np.diff(rate.per_s), span, out=np.zeros_like(span), where=span > 0), 0.0)
    slope = slopes[part]
    # Solves begin * t + slope * t^2 / 2 = more in the form that stays exact for slope 0 and for begin 0.
    root = np.sqrt(np.maximum(begin**2 + 2 * slope * more, 0.0))
    # The root of the least numbers is 0.
    t = np.divide(2 * more, begin + root, out=np.zeros_like(more), where=begin + root > 0)
    return np.asarray(rate.at_s[part] + t)


class Arrivals:
    """Hands out due times in order; holds how far it has got."""

    def __init__(self, rate: Rate, *, evenly: bool = False, seed: int = 0) -> None:
        """Start at second 0.

        Args:
            rate: events a second over time.
            evenly: equal steps of the expected number; else random ones (a Poisson process).
            seed: of the random steps.
        """
        self._rate = rate
        self._rng = None if evenly else np.random.default_rng(seed)
        self._expected = 0.0

    def take(self, n: int) -> NDArray[np.float64]:
        """Return the next n due times, (n,) seconds since the start, ascending."""
        steps = np.ones(n) if self._rng is None else self._rng.standard_exponential(n)
        expected = self._expected + np.cumsum(steps)
        if n:
            self._expected = float(expected[-1])
        return due_times(self._rate, expected)


def arrivals(
    kind: Kind,
    per_s: float,
    *,
    seed: int = 0,
    ramp_from_per_s: float = 0.0,
    ramp_s: float = 30.0,
    spike_factor: float = 5.0,
    spike_at_s: float = 20.0,
    spike_s: float = 5.0,
) -> Arrivals:
    """Build an arrival process by name; ramp and spike draw their steps like poisson.

    Raises:
        ValueError: the rate is impossible or the name unknown.
    """
    if kind == "constant":
        return Arrivals(constant(per_s), evenly=True)
    if kind == "poisson":
        return Arrivals(constant(per_s), seed=seed)
    if kind == "ramp":
        return Arrivals(ramp(ramp_from_per_s, per_s, ramp_s), seed=seed)
    if kind == "spike":
        return Arrivals(spike(per_s, spike_factor, spike_at_s, spike_s), seed=seed)
    raise ValueError(f"unknown arrival process {kind!r}, expected one of {', '.join(KINDS)}")


def capped(due_s: NDArray[np.float64], per_s: float, free_s: float = 0.0) -> NDArray[np.float64]:
    """Delay due times so that no two are nearer than 1 / per_s.

    Args:
        due_s: (n,) ascending seconds.
        per_s: the cap in events a second.
        free_s: no event before this time (the slot after the previous chunk's last event).

    Returns:
        (n,) ascending seconds, none earlier than it was.
    """
    slot = np.arange(len(due_s)) / per_s
    return np.asarray(np.maximum.accumulate(np.maximum(due_s, free_s) - slot) + slot)
