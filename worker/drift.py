"""Whether what a model is given still looks like what it was trained on: counts by bin, and tests of them.

Everything is computed from how many values fell into each bin of the training rows' distribution, a block of
events at a time; docs/watch.md says what is promised of the tests, and under which assumption.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.watch_kernels import count_bins

BLOCKS = 10  # of a window: the tests are judged this often while a window passes
_HALF = 0.5
_NO_YES = np.array([0.0, 1.0])


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftPolicy:
    """How far apart is too far."""

    window_events: int  # events that shares and PSI are over
    psi: float  # raised at this, cleared below half of it
    tolerance: float  # how far a rate may be from the reference and still be no drift
    false_alarm_events: float  # a test of one column raises without cause less often than this, on average

    @property
    def block_events(self) -> int:
        """Events between two judgements."""
        return -(-self.window_events // BLOCKS)

    @property
    def log_limit(self) -> float:
        """Logarithm of the evidence that raises: as many blocks as lie between two false alarms."""
        return math.log(max(self.false_alarm_events / self.block_events, 2.0))

    def bets(self, tolerance: NDArray[np.float64]) -> NDArray[np.float64]:
        """(k,) share bet on each event: twice the tolerance away is found within a window, on average."""
        return np.minimum(0.5, 1.25 * (self.log_limit + math.log(2)) / (self.window_events * tolerance))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Bins:
    """The training rows' distributions of k columns, padded to the most bins that one of them has."""

    names: tuple[str, ...]
    edges: NDArray[np.float32]  # (k, b - 1) ascending; bin j holds edges[j - 1] < x <= edges[j]; +inf: none
    shares: NDArray[np.float64]  # (k, b) of the training rows
    ranks: NDArray[np.float64]  # (k, b) middle of the ranks of a bin's rows; on average one half
    counts: NDArray[np.int64]  # (k,) bins of each column

    def __len__(self) -> int:
        return len(self.names)


def bins_of(names: Sequence[str], histograms: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Bins:
    """Lay out (edges, shares) of each column; there is a share more than edges, their sum is about 1."""
    width = max((len(shares) for _, shares in histograms), default=1)
    edges = np.full((len(names), width - 1), np.inf, np.float32)
    shares, ranks = np.zeros((2, len(names), width))
    for column, (at, given) in enumerate(histograms):
        edges[column, : len(at)] = at
        exact = np.array(given, np.float64) / sum(given)
        shares[column, : len(given)] = exact
        ranks[column, : len(given)] = np.cumsum(exact) - exact / 2
    counts = np.array([len(given) for _, given in histograms], np.int64)
    return Bins(names=tuple(names), edges=edges, shares=shares, ranks=ranks, counts=counts)


def psi(counts: NDArray[np.int64], bins: Bins) -> NDArray[np.float64]:
    """(k,) population stability index of counted bins (k, b) against the training rows.

    Half an event is added to every bin, and a bin of the training rows holds a share of at least 1e-4: an
    empty one is finite.
    """
    is_bin = np.arange(counts.shape[1]) < bins.counts[:, None]
    live = np.where(is_bin, counts + 0.5, 1.0)  # a place that is no bin: the ratio is 1, its logarithm 0
    live /= (live * is_bin).sum(axis=1, keepdims=True)
    known = np.where(is_bin, np.maximum(bins.shares, 1e-4), live)
    known /= (known * is_bin).sum(axis=1, keepdims=True)
    index: NDArray[np.float64] = ((live - known) * np.log(live / known) * is_bin).sum(axis=1)
    return index


class Evidence:
    """Shiryaev-Roberts sums of bets that a mean in [0, 1] has left its tolerance, for k columns, both ways.

    A bet multiplies by 1 + bet * (z - most) for a value z. While the mean of what comes is not beyond `most`,
    whatever its distribution and whatever came before, a bet gains nothing on average. So the expected number
    of blocks before the sum reaches a limit is at least that limit.
    """

    def __init__(
        self,
        values: NDArray[np.float64],
        usual: NDArray[np.float64],
        tolerance: NDArray[np.float64],
        policy: DriftPolicy,
        *,
        is_upward_only: bool = False,
    ) -> None:
        """Begin without any evidence.

        Args:
            values: (k, b) in [0, 1] that can come.
            usual: (k,) their mean by the training rows.
            tolerance: (k,) how far from it the mean may be.
            policy: see there.
            is_upward_only: less than usual is no drift.
        """
        away = values - usual[:, None]
        ways = (away,) if is_upward_only else (away, -away)
        self._gain = np.log1p(
            policy.bets(tolerance)[:, None] * (np.stack(ways) - tolerance[:, None])
        )  # (1 or 2, k, b) of each value
        self._log = np.full((len(ways), len(values)), -np.inf)
        self._limit = policy.log_limit + math.log(len(ways))

    def add(self, times: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Add a block of so many times each value, (k, b); (k,) which have left their tolerance."""
        self._log = np.logaddexp(self._log, 0.0) + np.einsum("wkb,kb->wk", self._gain, times)
        return np.asarray(np.logaddexp.reduce(self._log, axis=0) >= self._limit)

    def forget(self, columns: NDArray[np.bool_]) -> None:
        """Begin anew for these (k,) columns."""
        self._log[:, columns] = -np.inf


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Judgement:
    """How the columns stand after a block: statistics over the last window, and what the tests say."""

    events: int  # of the window so far
    psi: NDArray[np.float64]  # (k,)
    mean_rank: NDArray[np.float64]  # (k,) one half is usual; NaN: no value in the window
    missing: NDArray[np.float64]  # (k,) share
    rates: NDArray[np.float64]  # (r,) share of events
    is_apart: NDArray[np.bool_]  # (k,) by PSI; keeps its last word between raising and clearing
    has_shifted: NDArray[np.bool_]  # (k,) by the mean rank
    is_missing: NDArray[np.bool_]  # (k,)
    is_frequent: NDArray[np.bool_]  # (r,)


class Drift:
    """The counts of the last window, and the tests' evidence, of one model version."""

    def __init__(
        self,
        bins: Bins,
        tolerance: NDArray[np.float64],
        usual_rates: NDArray[np.float64],
        policy: DriftPolicy,
    ) -> None:
        """Start empty.

        Args:
            bins: of the k columns.
            tolerance: (k,) how far the mean rank may be from one half.
            usual_rates: (r,) shares of events in the training rows, of things that are counted.
            policy: see there.
        """
        k, r = len(bins), len(usual_rates)
        self.bins, self.policy, self._usual, self.tolerance = bins, policy, usual_rates, tolerance
        self._counts = np.zeros((BLOCKS, *bins.shares.shape), np.int64)
        self._missing = np.zeros((BLOCKS, k), np.int64)
        self._hits = np.zeros((BLOCKS, r), np.int64)
        self._events = np.zeros(BLOCKS, np.int64)  # all of them, and...
        self._valued = np.zeros(BLOCKS, np.int64)  # ...those whose values were counted
        self._block = 0
        self._shift = Evidence(bins.ranks, np.full(k, _HALF), tolerance, policy)
        of_rates = np.full(max(k, r), policy.tolerance)
        self._gone = Evidence(
            np.tile(_NO_YES, (k, 1)), np.zeros(k), of_rates[:k], policy, is_upward_only=True
        )
        self._often = Evidence(
            np.tile(_NO_YES, (r, 1)), usual_rates, of_rates[:r], policy, is_upward_only=True
        )
        self._is_apart, self._has_shifted, self._is_missing = np.zeros((3, k), np.bool_)
        self._is_frequent = np.zeros(r, np.bool_)

    def add(
        self, x: NDArray[np.float32], is_whole: NDArray[np.bool_], hits: NDArray[np.bool_]
    ) -> list[Judgement]:
        """Count events, in order; a judgement for each block that they complete.

        What comes out does not depend on how the events are cut into calls.

        Args:
            x: (n, k) values; NaN: missing.
            is_whole: (n,) whose values are counted; of the others something is not the event's own.
            hits: (n, r) what is counted of each event for the rates.
        """
        judged, at = [], 0
        while at < len(x):
            room = self.policy.block_events - int(self._events[self._block])
            part = slice(at, at + room)
            self._count(x[part], is_whole[part], hits[part])
            at += room
            if self._events[self._block] == self.policy.block_events:
                judged.append(self._judge())
        return judged

    def _count(self, x: NDArray[np.float32], is_whole: NDArray[np.bool_], hits: NDArray[np.bool_]) -> None:
        block = self._block
        whole = x if is_whole.all() else x[is_whole]
        count_bins(whole, self.bins.edges, self._counts[block], self._missing[block])
        self._hits[block] += hits.sum(axis=0)
        self._events[block] += len(x)
        self._valued[block] += len(whole)

    def _judge(self) -> Judgement:
        block, bins, policy = self._block, self.bins, self.policy
        counts, valued = self._counts.sum(axis=0), int(self._valued.sum())
        events, present = int(self._events.sum()), counts.sum(axis=1)
        is_full = events >= policy.window_events
        index = psi(counts, bins)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_rank = (counts * bins.ranks).sum(axis=1) / present
            missing = self._missing.sum(axis=0) / valued
        rates = self._hits.sum(axis=0) / events
        # What a window says of values that hardly came is no news.
        is_known = present >= max(policy.window_events // 2, 1)
        is_away = np.abs(mean_rank - _HALF) > self.tolerance
        # What is over within a window, as a night is, has moved the evidence but not the window's mean.
        now = self._shift.add(self._counts[block]) & is_away & is_full
        self._has_shifted = _settle(self._has_shifted, now, is_known & ~is_away, self._shift)
        now = self._gone.add(_no_yes(self._missing[block], self._valued[block]))
        self._is_missing = _settle(self._is_missing, now, missing <= policy.tolerance, self._gone)
        now = self._often.add(_no_yes(self._hits[block], self._events[block]))
        calm = rates <= self._usual + policy.tolerance
        self._is_frequent = _settle(self._is_frequent, now, calm, self._often)
        if is_full:
            self._is_apart = is_known & (index >= np.where(self._is_apart, policy.psi / 2, policy.psi))
        self._next_block()
        return Judgement(
            events=events,
            psi=index,
            mean_rank=mean_rank,
            missing=missing,
            rates=rates,
            is_apart=self._is_apart.copy(),
            has_shifted=self._has_shifted.copy(),
            is_missing=self._is_missing.copy(),
            is_frequent=self._is_frequent.copy(),
        )

    def _next_block(self) -> None:
        self._block = (self._block + 1) % BLOCKS
        for ring in (self._counts, self._missing, self._hits, self._events, self._valued):
            ring[self._block] = 0


def _no_yes(hits: NDArray[np.int64], events: np.int64) -> NDArray[np.int64]:
    """(k, 2) of so many events, in how many each thing did not happen, and did."""
    return np.stack([events - hits, hits], axis=1)


def _settle(
    was: NDArray[np.bool_], now: NDArray[np.bool_], is_calm: NDArray[np.bool_], evidence: Evidence
) -> NDArray[np.bool_]:
    """Raised by the evidence, cleared when the last window is within the tolerance; then it begins anew."""
    stays: NDArray[np.bool_] = np.where(was, ~is_calm, now)
    evidence.forget(was)  # while raised nothing has to be found; once cleared, everything
    return stays
