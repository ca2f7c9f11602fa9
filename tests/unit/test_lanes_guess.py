"""Told to score without rows while the store is away, a worker is exact where it does not say it guessed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import pytest

from feature_cache.lanes import Lanes
from feature_cache.layout import NEVER_US
from feature_cache.recent import apply_windows
from feature_cache.rows import HotRows, RowsFullError
from feature_cache.store import LaneMeta, MemoryStore, Stored, StoreUnavailableError
from tests.unit.test_lanes import LAYOUT, slow_sums

PARTITIONS = 2
EVENTS = 50  # of each partition
WEIGHTS = {"apply": 8, "write": 4, "leave": 2, "come_back": 2, "heal": 2, "lose_an_answer": 1, "crash": 1}
PARTS, RUNS = 3, 100
Answer = TypeVar("Answer")


class Unsteady(MemoryStore):
    """A store in memory that is away at times, or does a write and loses the answer."""

    is_away = False
    loses_answer = False

    def _there(self, call: Callable[[], Answer]) -> Answer:
        if self.is_away:
            raise StoreUnavailableError("away")
        return call()

    def take(self, lane: str, *, generation: int) -> LaneMeta:
        return self._there(lambda: super(Unsteady, self).take(lane, generation=generation))

    def meta(self, lane: str) -> LaneMeta | None:
        return self._there(lambda: super(Unsteady, self).meta(lane))

    def read(self, wanted: Sequence[tuple[str, Sequence[bytes]]]) -> list[Stored]:
        return self._there(lambda: super(Unsteady, self).read(wanted))

    def write(self, *arguments: object) -> bool:
        done = self._there(lambda: super(Unsteady, self).write(*arguments))  # type: ignore[arg-type]
        if self.loses_answer:
            self.loses_answer = False
            raise StoreUnavailableError("the answer was lost")
        return done


@dataclass(slots=True, kw_only=True)
class World:
    """One worker that owns two partitions, and what it published of each: offset to whether it guessed."""

    logs: list[list[tuple[bytes, int, float]]]
    chance: random.Random
    hot_rows: int
    store: Unsteady = field(default_factory=Unsteady)
    lanes: Lanes = field(init=False)
    at: list[int] = field(default_factory=lambda: [0] * PARTITIONS)
    committed: list[int] = field(default_factory=lambda: [0] * PARTITIONS)
    unsent: list[dict[int, bool]] = field(default_factory=lambda: [{} for _ in range(PARTITIONS)])
    published: list[dict[int, bool]] = field(default_factory=lambda: [{} for _ in range(PARTITIONS)])

    def take(self, partition: int) -> None:
        self.lanes.drop(partition)
        self.at[partition] = self.lanes.take(
            partition, committed=self.committed[partition], start=0, low=0, high=EVENTS, now_ms=1000
        )
        self.unsent[partition] = {}

    def crash(self) -> None:
        """A new process takes both partitions, once the store is there."""
        if self.store.is_away:
            return
        self.lanes = Lanes(HotRows(LAYOUT, self.hot_rows), self.store, "g", "t", may_guess=True)
        for partition in range(PARTITIONS):
            self.take(partition)

    def apply(self) -> None:
        """A poll of some events of both partitions; one that finds no room is tried again after a write."""
        ends = [min(EVENTS, at + self.chance.randint(0, 3)) for at in self.at]
        try:
            self._apply(ends)
        except RowsFullError:
            self.write()
            with suppress(RowsFullError):  # else the worker rests until the store is back
                self._apply(ends)

    def _apply(self, ends: list[int]) -> None:
        places = [(p, offset) for p in range(PARTITIONS) for offset in range(self.at[p], ends[p])]
        if not places:
            return
        part, n = [self.logs[p][offset] for p, offset in places], len(places)
        slots, _, _ = self.lanes.load([key for key, _, _ in part], np.array([p for p, _ in places], np.int32))
        guessed = self.lanes.rows.is_guess[slots].tolist()
        out = np.zeros((n, 2))
        apply_windows(
            self.lanes.rows.groups[0],
            slots,
            np.array([t for _, t, _ in part], np.int64),
            np.array([x for _, _, x in part], np.float64),
            np.zeros(n, np.bool_),
            np.full(n, NEVER_US, np.int64),
            out,
            np.zeros(n, np.bool_),
            np.zeros(n, np.bool_),
        )
        self.lanes.changed(slots)
        for (p, offset), is_guess, value in zip(places, guessed, out[:, 1].tolist(), strict=True):
            assert is_guess or value == slow_sums(self.logs[p])[offset], f"partition {p}, offset {offset}"
            if offset >= self.lanes[p].mute_until:
                self.unsent[p][offset] = is_guess
        for p in range(PARTITIONS):
            if ends[p] > self.at[p]:
                self.lanes.advance(p, ends[p], self.logs[p][ends[p] - 1][1], self.logs[p][self.at[p]][1])
                self.at[p] = ends[p]

    def write(self) -> None:
        """Commit to Kafka, and then write the rows, as the loop does."""
        for p in range(PARTITIONS):
            assert not self.unsent[p].keys() & self.published[p].keys(), "an outcome was published twice"
            self.published[p] |= self.unsent[p]
            self.unsent[p] = {}
            self.committed[p] = max(self.committed[p], self.at[p])
        self.lanes.release()
        for p in range(PARTITIONS):
            self.lanes.write(p)

    def heal(self) -> None:
        guessing = self.lanes.guessing()
        self.lanes.check(guessing)
        if guessing:
            with suppress(StoreUnavailableError):
                self.write()
            for partition in guessing:
                self.take(partition)

    def leave(self) -> None:
        self.store.is_away = True

    def come_back(self) -> None:
        self.store.is_away = False

    def lose_an_answer(self) -> None:
        self.store.loses_answer = True


def play(seed: int) -> tuple[int, int]:
    """One random history, and then calm until everything is published; how many outcomes, how many guessed.

    Raises:
        AssertionError: an outcome that does not say that it was guessed is wrong, or one is there twice.
    """
    chance = random.Random(seed)
    logs = []
    for p in range(PARTITIONS):
        now, log = 0, []
        for _ in range(EVENTS):
            now += chance.randint(0, 1)
            log.append((b"%d-%d" % (p, chance.randrange(5)), now, float(chance.randint(1, 9))))
        logs.append(log)
    world = World(logs=logs, chance=chance, hot_rows=chance.choice([6, 8, 64]))
    world.crash()
    for what in chance.choices(list(WEIGHTS), list(WEIGHTS.values()), k=80):
        with suppress(StoreUnavailableError):
            getattr(world, what)()
    world.come_back()
    for _ in range(8 * EVENTS):
        if not world.lanes.guessing() and min(map(len, world.published)) == EVENTS:
            break
        for step in (world.heal, world.apply, world.write):
            with suppress(StoreUnavailableError):  # one answer more may be lost
                step()
    assert [sorted(outcomes) for outcomes in world.published] == [list(range(EVENTS))] * PARTITIONS
    return PARTITIONS * EVENTS, sum(sum(outcomes.values()) for outcomes in world.published)


@pytest.mark.parametrize("part", range(PARTS))
def test_what_was_not_guessed_is_exact_and_everything_is_published_once(part: int) -> None:
    found = [play(seed) for seed in range(part * RUNS, (part + 1) * RUNS)]

    guessed, outcomes = sum(g for _, g in found), sum(n for n, _ in found)
    assert 0.05 < guessed / outcomes < 0.95, "these histories try one thing only"
