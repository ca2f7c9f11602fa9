"""Two versions on the same events: how alike they are, and whether the newer one must go."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.rollout_types import Guards

Flagged = tuple[int, int]  # events with a label that reached the lowest threshold, and those that were right
GUARDS = ("error_share", "slowdown", "alert_ratio", "rank_correlation", "score_psi", "precision")
_REMEMBERED = 4096  # pairs that ranks and distributions are computed of, the newest ones
_EVERY = 512  # events of the challenger between two looks
_BINS = 10
# Looked at again and again, a true difference shows and chance must not: beyond 5 standard deviations one
# look in three million is wrong, so one in a month at a look a second.
_SURE = 5.0
_CHANCE = 1e-5  # that a look is wrong about the ratio of alerts, if that were just the one allowed
_TERMS = 200  # of a binomial tail; those before are nothing beside them
_LEAST_S = 0.01  # of all calls; of less the ratio is noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How the challenger compares with the champion, over what is remembered."""

    events: int  # scored by both since the challenger came
    rank_correlation: float  # Spearman's rho of the pairs remembered; NaN: too few, or one is constant
    flipped_share: float  # of all events: only one of the two raises an alert
    score_psi: float  # of the pairs remembered, by deciles of the champion's scores
    alert_share: tuple[float, float]  # of all events: champion, challenger
    error_share: float  # of all events: the challenger has no score
    slowdown: float  # time in its calls, times that of the champion in its own; NaN: too short to tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """A guard that was broken."""

    guard: str
    found: float
    allowed: float
    events: int  # of the challenger until then

    def __str__(self) -> str:
        return f"guard {self.guard}: found {self.found:.4g}, allowed {self.allowed:.4g}"


class Comparison:
    """What is known of a challenger; the loop's thread adds, any thread may read `agreement`."""

    def __init__(self, guards: Guards, alerts_at: float, *, alerts_below: bool) -> None:
        """Know nothing yet.

        Args:
            alerts_at: the score from which on an event is an alert; NaN: nothing ever is.
            alerts_below: scores at or below it are, instead of those at or above.
        """
        self._guards = guards
        self._alerts_at = np.float32(alerts_at)
        self._alerts_below = alerts_below
        self._pairs = np.empty((2, _REMEMBERED), np.float32)
        self._events = 0
        self._pairs_seen = 0
        self._failed = 0
        self._alerts = np.zeros(2, np.int64)
        self._flipped = 0
        self._took_s = np.zeros(2)
        self._next_look = 0

    def add(
        self,
        champion: NDArray[np.float32],
        challenger: NDArray[np.float32],
        champion_s: float,
        challenger_s: float,
    ) -> Trip | None:
        """Take in what both say of (n,) events, not finite where one has no score; a guard that is broken.

        Args:
            champion_s, challenger_s: how long each took for its call, the champion perhaps for more events.
        """
        n = len(challenger)
        if not n:
            return None
        has_both = np.isfinite(challenger) & np.isfinite(champion)
        old, new = champion[has_both], challenger[has_both]
        self._events += n
        self._failed += n - int(np.isfinite(challenger).sum())
        raised = self._is_alert(old), self._is_alert(new)
        self._alerts += (int(raised[0].sum()), int(raised[1].sum()))
        self._flipped += int((raised[0] != raised[1]).sum())
        self._took_s += (champion_s, challenger_s)
        self._remember(old[-_REMEMBERED:], new[-_REMEMBERED:])
        if self._events < max(self._next_look, self._guards.min_events):
            return None
        self._next_look = self._events + _EVERY
        return self._broken()

    def failed(self, count: int) -> Trip | None:
        """The challenger gave up on so many events."""
        self._events += count
        self._failed += count
        if self._guards.error_share is None:
            return None
        # No reason to wait for more of them: a version that cannot be asked is of no use.
        return self._trip("error_share", self._failed / self._events, self._guards.error_share)

    def agreement(self) -> Agreement:
        """How alike they are; a millisecond for the ranks, so not for every batch."""
        old, new = self._known_pairs()
        events = max(self._events, 1)
        return Agreement(
            events=self._events,
            rank_correlation=spearman(old, new),
            flipped_share=self._flipped / events,
            score_psi=psi(old, new),
            alert_share=(self._alerts[0] / events, self._alerts[1] / events),
            error_share=self._error_share,
            slowdown=self._slowdown,
        )

    @property
    def _error_share(self) -> float:
        return self._failed / max(self._events, 1)

    @property
    def _slowdown(self) -> float:
        champion_s, challenger_s = self._took_s.tolist()
        return float(challenger_s / champion_s) if champion_s > _LEAST_S else math.nan

    def _known_pairs(self) -> NDArray[np.float32]:
        return self._pairs[:, : min(self._pairs_seen, _REMEMBERED)]

    def _is_alert(self, scores: NDArray[np.float32]) -> NDArray[np.bool_]:
        found = scores <= self._alerts_at if self._alerts_below else scores >= self._alerts_at
        return np.asarray(found)

    def _remember(self, old: NDArray[np.float32], new: NDArray[np.float32]) -> None:
        at = (self._pairs_seen + np.arange(len(old))) % _REMEMBERED
        self._pairs[0, at], self._pairs[1, at] = old, new
        self._pairs_seen += len(old)

    def _broken(self) -> Trip | None:
        guards = self._guards
        if guards.error_share is not None and self._error_share > guards.error_share:
            return self._trip("error_share", self._error_share, guards.error_share)
        if guards.slowdown is not None and self._slowdown > guards.slowdown:
            return self._trip("slowdown", self._slowdown, guards.slowdown)
        if guards.alert_ratio is not None:
            old, new = self._alerts.tolist()
            if is_ratio_beyond(old, new, guards.alert_ratio):
                return self._trip("alert_ratio", new / max(old, 1), guards.alert_ratio)
        old, new = self._known_pairs()
        if guards.rank_correlation is not None:
            rho = spearman(old, new)  # NaN, which is never below, where one does not vary
            if rho + _SURE / math.sqrt(max(len(old) - 1, 1)) < guards.rank_correlation:
                return self._trip("rank_correlation", rho, guards.rank_correlation)
        if guards.score_psi is not None and (index := psi(old, new)) > guards.score_psi:
            return self._trip("score_psi", index, guards.score_psi)
        return None

    def _trip(self, guard: str, found: float, allowed: float) -> Trip:
        return Trip(guard=guard, found=found, allowed=allowed, events=self._events)


def is_ratio_beyond(old: int, new: int, most: float) -> bool:
    """Whether one of two counts is surely more than `most` times the other.

    Of all that was counted the share of each would be binomial if the ratio were just `most`. Counted on the
    same events both have some in common, and stray from each other by less than that.
    """
    return _are_too_few(min(old, new), old + new, 1 / (1 + most))


def precision_trip(old: Flagged, new: Flagged, most: float) -> Trip | None:
    """The guard on precision, as labels tell it; None where it is not broken, or nobody knows yet.

    Args:
        old, new: events with a label that the champion and the challenger flagged, and those that were right.
        most: times the champion's precision may be that of the challenger.
    """
    if not old[0] or not new[0]:
        return None
    precision = old[1] / old[0]
    if not _are_too_few(new[1], new[0], precision / most):
        return None
    return Trip(guard="precision", found=new[1] / new[0], allowed=precision / most, events=new[0])


def _are_too_few(few: int, total: int, share: float) -> bool:
    """Whether so few of so many would be too strange if each were one with this chance."""
    if not 0 < share < 1 or few >= total * share:
        return False
    # The terms of the binomial tail, the largest one last.
    logs = [
        math.lgamma(total + 1)
        - math.lgamma(k + 1)
        - math.lgamma(total - k + 1)
        + k * math.log(share)
        + (total - k) * math.log1p(-share)
        for k in range(max(0, few - _TERMS), few + 1)
    ]
    return sum(map(math.exp, logs)) < _CHANCE


def spearman(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Rank correlation of (n,) pairs, equal values sharing their rank; NaN where one does not vary."""
    if len(a) < 2:
        return math.nan
    ranks_a, ranks_b = _ranks(a), _ranks(b)
    spread = ranks_a.std() * ranks_b.std()
    if not spread > 0:
        return math.nan
    return float(((ranks_a - ranks_a.mean()) * (ranks_b - ranks_b.mean())).mean() / spread)


def _ranks(values: NDArray[np.float32]) -> NDArray[np.float64]:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[which])


def psi(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Population stability index of two samples, by deciles of the first; 0 where one is empty."""
    if not len(expected) or not len(found):
        return 0.0
    edges = np.unique(np.quantile(expected, np.linspace(0, 1, _BINS + 1)[1:-1]))
    shares = [
        (np.bincount(np.searchsorted(edges, each, side="right"), minlength=len(edges) + 1) + 0.5)
        / (len(each) + 0.5 * (len(edges) + 1))
        for each in (expected, found)
    ]
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())
