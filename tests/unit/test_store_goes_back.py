"""A store that goes back in time, as a failover makes it do, never leads to a wrong score."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from feature_cache.lanes import Lanes
from feature_cache.rows import RowsFullError
from feature_cache.store import FencedError, LaneMeta, MemoryStore
from tests.unit.test_lanes import PARTITION, apply, lanes, slow_sums, take

WORKERS = 2
Log = list[tuple[bytes, int, float]]


@dataclass(slots=True, kw_only=True)
class Member:
    """A worker: which copy of the store it talks to, and what it has applied and published."""

    talks_to: int = 0
    owner: Lanes | None = None
    at: int = 0
    committed: int = 0  # as far as it knows
    unsent: dict[int, float] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class World:
    """A topic's log, Kafka's idea of who owns it, and two copies of the store that replicate now and then."""

    log: Log
    expected: list[float]
    hot_rows: int
    stores: list[MemoryStore]  # two copies of one store: master and replica, now this way, now that
    members: list[Member] = field(default_factory=lambda: [Member() for _ in range(WORKERS)])
    assigned: int = 0
    committed: int = 0
    clock_ms: int = 1000
    published: dict[int, float] = field(default_factory=dict)

    def take(self, number: int) -> None:
        """Kafka gives the partition to this member; the former one does not know yet."""
        self.assigned = number
        member = self.members[number]
        member.owner = lanes(self.stores[member.talks_to], hot_rows=self.hot_rows)
        member.at = take(member.owner, committed=self.committed, now_ms=self.clock_ms)
        member.committed, member.unsent = self.committed, {}

    def fenced(self, number: int) -> None:
        """It drops the lane; if it still is its own, it takes it again."""
        self.members[number].owner = None
        if number == self.assigned:
            self.take(number)

    def apply(self, number: int, count: int) -> None:
        """Read on; a member that lost the partition may do so too for a while."""
        member = self.members[number]
        end = min(len(self.log), member.at + count)
        if member.owner is None or end <= member.at:
            return
        try:
            sums = apply(member.owner, self.log, member.at, end)
        except RowsFullError:
            self.write(number)  # nothing leaves memory before it is written
            return
        mute_until = member.owner[PARTITION].mute_until
        member.unsent |= {member.at + i: s for i, s in enumerate(sums) if member.at + i >= mute_until}
        member.at = end

    def commit(self, number: int) -> None:
        """Kafka takes outputs and offsets of the owner only."""
        member = self.members[number]
        if member.owner is None:
            return
        if number != self.assigned:
            member.owner = None
            return
        assert not member.unsent.keys() & self.published.keys(), "an outcome was published twice"
        for offset, value in member.unsent.items():
            assert value == self.expected[offset], f"the score of offset {offset} is wrong"
        self.published |= member.unsent
        member.unsent = {}
        self.committed = member.committed = max(self.committed, member.at)

    def write(self, number: int) -> None:
        """Everything applied is committed first, as the loop does; then the rows are written."""
        member = self.members[number]
        if member.at > member.committed:
            self.commit(number)
        if member.owner is not None:
            member.owner.write(PARTITION)

    def move(self, number: int) -> None:
        """This member's client finds another master."""
        member = self.members[number]
        member.talks_to = 1 - member.talks_to
        if member.owner is not None:
            member.owner._store = self.stores[member.talks_to]

    def replicate(self, source: int) -> None:
        """The other copy becomes a replica of this one, and loses what only it had."""
        target = self.stores[1 - source]
        target._meta = copy.copy(self.stores[source]._meta)
        target._rows = {lane: dict(rows) for lane, rows in self.stores[source]._rows.items()}

    def go_on(self, number: int, count: int) -> None:
        """A turn of the loop with everything in it."""
        self.apply(number, count)
        self.write(number)


WEIGHTS = {"go_on": 8, "apply": 3, "commit": 1, "write": 2, "take": 2, "move": 2, "replicate": 2}
PARTS, RUNS = 3, 50


def play(seed: int, kind: type[MemoryStore] = MemoryStore) -> None:
    """One random history, and then undisturbed work until everything has its outcome.

    Raises:
        AssertionError: a score was wrong, published twice, or missing.
    """
    chance = random.Random(seed)
    now, log = 0, []
    for _ in range(60):  # few keys close in time: nearly every window holds events of several turns
        now += chance.randint(0, 1)
        log.append((b"%d" % chance.randrange(7), now, float(chance.randint(1, 9))))
    world = World(
        log=log, expected=slow_sums(log), hot_rows=chance.choice([5, 6, 64]), stores=[kind(), kind()]
    )
    world.take(0)
    for what in chance.choices(list(WEIGHTS), list(WEIGHTS.values()), k=60):
        number, count = chance.randrange(WORKERS), chance.randint(1, 5)
        world.clock_ms += 1
        try:
            if what in ("go_on", "apply"):
                getattr(world, what)(number, count)
            else:
                getattr(world, what)(number)
        except FencedError:
            world.fenced(number)
    for _ in range(2 * len(log)):
        try:
            world.go_on(world.assigned, 5)
        except FencedError:
            world.fenced(world.assigned)
    assert world.published == dict(enumerate(world.expected))


@pytest.mark.parametrize("part", range(PARTS))
def test_no_failover_of_the_store_makes_a_score_wrong(part: int) -> None:
    """Two members, one partition, and two copies of the store, each of which may be the master to each."""
    for seed in range(part * RUNS, (part + 1) * RUNS):
        play(seed)


class ComparesEpochs(MemoryStore):
    """A store that takes writes from whoever has the right epoch, whatever was written since."""

    def write(
        self, lane: str, expected: LaneMeta, new: LaneMeta, keys: Sequence[bytes], rows: Sequence[bytes]
    ) -> bool:
        held = self._meta.get(lane)
        if held is None or held.epoch != expected.epoch:
            return False
        return super().write(lane, held, new, keys, rows)


def test_a_store_that_compares_less_would_be_found_out() -> None:
    def play_all() -> None:
        for seed in range(PARTS * RUNS):
            play(seed, ComparesEpochs)

    with pytest.raises(AssertionError, match="the score of offset"):
        play_all()


def test_a_take_that_a_failover_lost_does_not_come_back_as_somebody_elses() -> None:
    """Epochs alone would say the same of both: the one taken before and the one taken after."""
    old, new = MemoryStore(), MemoryStore()
    lost = old.take("g:t:3", generation=1)
    again = new.take("g:t:3", generation=1)

    assert lost.epoch == again.epoch
    assert lost != again
