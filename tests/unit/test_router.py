"""A batch is scored by what was in force when it began; a key always meets the same version."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_cache.key_index import keys_of, stable_hash
from tests.builders import batch
from worker.comparison import Comparison
from worker.degradation import CPU, RULES, WHOLE
from worker.exits import Exit, StopWorker
from worker.rollout_types import Guards
from worker.router import Router, Serving, chosen_rows
from worker.scoring import Scored
from worker.session import ModelError


class Fixed:
    """A scorer that gives the event time plus its own number, and fails where it is told to."""

    def __init__(self, version: str, plus: float = 0.0, *, fails: Exit | None = None) -> None:
        self.card = type("Card", (), {"version": version})()
        self.device = "cpu"
        self.asked: list[int] = []
        self.settled = 0
        self._plus = plus
        self._fails = fails
        self.without: set[float] = set()
        self.step = WHOLE
        self.loaded = self
        self.told: Any = None

    def settle(self) -> None:
        self.settled += 1
        if self._fails is Exit.MODEL and self.asked == [-1]:
            raise RuntimeError("no room on the device")

    def report_to(self, on_step: Any) -> None:
        self.told = on_step
        on_step(self.step)

    def score(self, features: Any, now_ms: float) -> Scored:
        del now_ms
        self.asked.append(len(features.scalars))
        if self._fails is not None:
            raise StopWorker(self._fails, "it fails")
        times = features.scalars[:, 0]
        scores = (times + self._plus).astype(np.float32)
        bad = np.isin(times, list(self.without))
        scores[bad] = np.nan
        return Scored(
            scores=scores,
            degradation=np.full(len(times), self.step, np.uint8),
            failed={int(row): "bad" for row in np.flatnonzero(bad)},
        )


def serving(champion: Fixed, challenger: Fixed | None = None, **more: Any) -> Serving:
    return Serving(champion=champion, challenger=challenger, **more)  # type: ignore[arg-type]


def some(n: int) -> Any:
    return batch(list(range(n)), keys=[b"k%d" % (i % 97) for i in range(n)])


def test_with_one_version_every_event_is_its() -> None:
    routed = Router(serving(Fixed("1"))).score(some(10), 0.0)

    assert routed.version == "1"
    assert routed.scored.scores.tolist() == list(range(10))
    assert routed.shadow is None


def test_a_swap_is_between_two_batches_and_the_new_version_is_settled_first() -> None:
    old, new = Fixed("1"), Fixed("2", 100.0)
    router = Router(serving(old))
    before = router.score(some(5), 0.0)

    router.offer(serving(new, revision=1))
    assert not router.is_up_to_date
    assert new.settled == 0
    after = router.score(some(5), 0.0)

    assert (before.version, after.version) == ("1", "2")
    assert after.scored.scores.tolist() == [100, 101, 102, 103, 104]
    assert (new.settled, old.settled) == (1, 0)
    assert router.is_up_to_date
    assert old.asked == [5]


def test_a_swap_needs_no_events() -> None:
    router = Router(serving(Fixed("1")))
    router.offer(serving(Fixed("2")))
    router.turn()
    assert router.card.version == "2"


@settings(deadline=None, max_examples=50)
@given(st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_has_the_keys_of_a_smaller_one_and_more(one: float, other: float) -> None:
    less, more = (set(chosen_rows(some(97), share).tolist()) for share in sorted((one, other)))
    assert less <= more


def test_the_hash_of_a_key_is_the_same_everywhere_and_spreads_evenly() -> None:
    assert stable_hash(keys_of([b"", b"C1", b"customer-0042"])).tolist() == [
        1207437126,
        2119654666,
        641820136,
    ]
    parts = stable_hash(keys_of([b"C%d" % i for i in range(100_000)])) % 10_000
    assert np.abs(np.bincount(parts // 1000) / 10_000 - 1).max() < 0.05


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_in_a_canary_a_key_meets_one_version_whatever_batch_it_is_in(share: float) -> None:
    router = Router(serving(Fixed("1"), Fixed("2", 1000.0), share=share))
    versions: dict[bytes, set[str]] = {}
    for n in (1, 10, 97, 500):
        events = some(n)
        routed = router.score(events, 0.0)
        told = [routed.version] * n if isinstance(routed.version, str) else routed.version.to_pylist()
        for row, version in enumerate(told):
            versions.setdefault(events.events.records.keys.get(row), set()).add(version)
            assert routed.scored.scores[row] == row + (1000 if version == "2" else 0)

    assert all(len(met) == 1 for met in versions.values())
    share_found = sum(met == {"2"} for met in versions.values()) / len(versions)
    assert abs(share_found - share) < 0.1


def test_a_shadow_decides_nothing() -> None:
    routed = Router(serving(Fixed("1"), Fixed("2", 1000.0), is_shadow=True, share=1.0)).score(some(20), 0.0)

    assert routed.version == "1"
    assert routed.scored.scores.tolist() == list(range(20))
    assert routed.shadow is not None
    assert routed.shadow.version == "2"
    assert routed.shadow.scores.tolist() == [1000 + i for i in range(20)]


def test_what_the_challenger_cannot_score_the_champion_does_and_says_so() -> None:
    champion, challenger = Fixed("1"), Fixed("2", 1000.0)
    challenger.without = {3.0, 4.0}
    champion.without = {4.0, 5.0}

    routed = Router(serving(champion, challenger, share=1.0)).score(some(7), 0.0)

    scores = routed.scored.scores
    assert scores[[0, 3, 5]].tolist() == [1000, 3, 1005]
    assert np.isnan(scores[4])
    assert isinstance(routed.version, pa.StringArray)
    assert routed.version.to_pylist() == ["2", "2", "2", "1", "1", "2", "2"]
    assert set(routed.scored.failed) == {4}, "only what neither could score becomes a dead letter"


def test_a_challenger_that_fails_leaves_its_events_to_the_champion_and_trips_once() -> None:
    comparison = Comparison(Guards(), 0.5, alerts_below=False)
    made = serving(Fixed("1"), Fixed("2", fails=Exit.MODEL), share=1.0, revision=7, comparison=comparison)
    router = Router(made)

    for _ in range(3):
        routed = router.score(some(10), 0.0)
        assert routed.version == "1"
        assert routed.scored.scores.tolist() == list(range(10))

    revision, trip = router.trips.get_nowait()
    assert (revision, trip.guard, trip.found) == (7, "error_share", 1.0)
    assert router.trips.empty()


@pytest.mark.parametrize("is_well", [True, False])
def test_a_device_that_fails_the_challenger_stops_the_worker_only_where_it_fails_the_champion_too(
    monkeypatch: pytest.MonkeyPatch, is_well: bool
) -> None:
    def check(_: Any) -> None:
        if not is_well:
            raise ModelError("CUDA failure 700")

    monkeypatch.setattr("worker.router.check_version", check)
    router = Router(serving(Fixed("1"), Fixed("2", fails=Exit.DEVICE), share=1.0))

    if is_well:
        assert router.score(some(10), 0.0).version == "1"
    else:
        with pytest.raises(StopWorker):
            router.score(some(10), 0.0)


def test_a_version_that_cannot_be_settled_is_not_taken_up_and_says_why() -> None:
    bad = Fixed("2", fails=Exit.MODEL)
    bad.asked = [-1]
    router = Router(serving(Fixed("1")))
    router.offer(serving(bad, revision=4))

    assert router.score(some(5), 0.0).version == "1"
    assert router.is_up_to_date
    assert router.refused == (4, "no room on the device")


def test_each_score_says_which_step_its_own_version_stands_on() -> None:
    champion, challenger = Fixed("1"), Fixed("2", 1000.0)
    challenger.step = CPU

    routed = Router(serving(champion, challenger, share=0.5)).score(some(97), 0.0)

    is_new = np.array([version == "2" for version in routed.version.to_pylist()])
    assert (routed.scored.degradation[is_new] == CPU).all()
    assert (routed.scored.degradation[~is_new] == WHOLE).all()


def test_what_rules_say_in_a_challengers_place_is_not_published_as_its() -> None:
    comparison = Comparison(Guards(), 0.5, alerts_below=False)
    challenger = Fixed("2", 1000.0)
    challenger.step = RULES
    router = Router(serving(Fixed("1"), challenger, share=1.0, comparison=comparison))

    routed = router.score(some(10), 0.0)

    assert routed.version == "1"
    assert router.trips.get_nowait()[1].guard == "error_share"


def test_only_the_version_that_serves_tells_which_step_scores_stand_on() -> None:
    steps: list[int] = []
    old, new = Fixed("1"), Fixed("2")
    new.step = CPU
    router = Router(serving(old, new, share=0.1), steps.append)
    assert steps == [WHOLE]

    router.offer(serving(new))
    router.turn()
    old.told(RULES)

    assert steps == [WHOLE, CPU]


def test_what_is_read_again_is_not_compared_again() -> None:
    comparison = Comparison(Guards(), 0.5, alerts_below=False)
    router = Router(serving(Fixed("1"), Fixed("2"), share=1.0, comparison=comparison))
    events = some(10)
    muted = replace(events.features, is_muted=np.arange(10) < 4)

    router.score(replace(events, features=muted), 0.0)

    assert comparison.agreement().events == 6


def test_intervals_are_those_of_the_version_that_scored() -> None:
    class WithEnds(Fixed):
        def score(self, features: Any, now_ms: float) -> Scored:
            scored = super().score(features, now_ms)
            return replace(scored, ends=(scored.scores - 1, scored.scores + 1))

    bare = Router(serving(Fixed("1"), WithEnds("2", 1000.0), share=0.5)).score(some(97), 0.0)
    both = Router(serving(WithEnds("1"), WithEnds("2", 1000.0), share=0.5)).score(some(97), 0.0)

    assert bare.scored.ends is not None
    assert both.scored.ends is not None
    is_new = np.array([version == "2" for version in bare.version.to_pylist()])
    assert 0 < is_new.sum() < 97
    assert np.array_equal(np.isnan(bare.scored.ends[0]), ~is_new)
    assert np.array_equal(both.scored.ends[1], both.scored.scores + 1)
