"""Lookups read another pipeline's rows as of the event's time, and say how old they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_cache.lanes import Lanes
from feature_cache.rows import HotRows
from feature_cache.store import MemoryStore
from schemas.schema import parse_schema
from tests.builders import EVENT_AVSC, METER, Clock, events, pipeline
from worker.batch import Events
from worker.config import load_pipeline
from worker.degradation import STALE_LOOKUP, WHOLE
from worker.features import enrich
from worker.lookups import Lookup
from worker.plan import FeaturePlan, feature_plan

SCHEMA = parse_schema(json.dumps(EVENT_AVSC))
S = 1_000_000
LANES = 4
OWNED = """
  risk:
    kind: window
    over: amount
    windows: [10s]
    aggregates: [count, mean]
    capacity: 4
    allowed_lateness: 90s
"""


def murmur2(key: bytes) -> int:
    """Kafka's own hash of a key, written from the description of the Java client."""
    mask, seed, m = 0xFFFFFFFF, 0x9747B28C, 0x5BD1E995
    h = seed ^ len(key)
    for i in range(0, len(key) // 4 * 4, 4):
        k = int.from_bytes(key[i : i + 4], "little") * m & mask
        h = h * m & mask ^ ((k ^ k >> 24) * m & mask)
    if rest := key[len(key) // 4 * 4 :]:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return (h ^ h >> 15) & 0x7FFFFFFF


def lane_of(key: bytes) -> int:
    """The partition that producers put a terminal on."""
    return murmur2(key) % LANES


class Owner:
    """The pipeline that keeps the rows: what it applied, and what of it is durable."""

    def __init__(self, plan: FeaturePlan, store: MemoryStore) -> None:
        self.lanes = Lanes(HotRows(plan.layout, 16), store, "penstock-owner", "in")
        self.plan = plan
        self.offset = 0
        for lane in range(LANES):
            self.lanes.take(lane, committed=None, start=0, low=0, high=2**40, now_ms=1)

    def see(self, key: bytes, seconds: float, amount: float) -> None:
        """Apply one event and make it durable."""
        lane = lane_of(key)
        made = events(
            time_us=[round(seconds * S)],
            keys=[key],
            amount=[amount],
            partition=[lane],
            offset=[self.offset],
            schema=SCHEMA,
            columns={"terminal": ["-"], "speed": [0.0]},
        )
        self.offset += 1
        enrich(made, self.plan, self.lanes, (), METER)
        self.lanes.write(lane)

    def mark(self, seconds: float, lanes: Sequence[int] = range(LANES)) -> None:
        """Declare an event time complete on these lanes."""
        for lane in lanes:
            made = events(
                time_us=[],
                schema=SCHEMA,
                next_offsets={lane: self.offset},
                complete_us={lane: round(seconds * S)},
                columns={"terminal": [], "speed": []},
            )
            enrich(made, self.plan, self.lanes, (), METER)
            self.lanes.write(lane)


Make = Callable[..., tuple[Owner, Lookup]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """An owner, and a lookup of its rows."""

    def made(
        options: str = "",
        store: MemoryStore | None = None,
        clock: Clock | None = None,
        partitioner: str = "murmur2",
    ) -> tuple[Owner, Lookup]:
        store = store or MemoryStore()
        owner_file = pipeline(tmp_path, OWNED, name="owner")
        path = tmp_path / "owner.yaml"
        path.write_text(
            path.read_text().replace("event_time: time}", f"event_time: time, partitioner: {partitioner}}}")
        )
        reader = pipeline(
            tmp_path,
            "  amount: {kind: field, field: amount}\n"
            "  t: {kind: lookup, pipeline: owner.yaml, group: risk, key: terminal, "
            f"default: -1.0{options}}}",
        )
        (plan,) = feature_plan(reader).lookups
        return Owner(feature_plan(owner_file), store), Lookup(plan, store, LANES, clock or Clock())

    return made


def asks(seconds: Sequence[float], terminals: Sequence[str]) -> Events:
    """Events about these terminals."""
    return events(
        time_us=[round(s * S) for s in seconds],
        schema=SCHEMA,
        columns={"terminal": list(terminals), "speed": [0.0] * len(seconds)},
    )


def test_a_lookup_fills_its_own_columns(make: Make) -> None:
    assert make()[1].columns == slice(1, 3)


def test_values_are_as_of_the_event_and_nothing_newer(make: Make) -> None:
    owner, lookup = make()
    for second, amount in ((100, 1.0), (105, 2.0), (105, 3.0), (111, 4.0)):
        owner.see(b"t1", second, amount)
    owner.mark(200)

    found = lookup.read(asks([99, 100, 105, 110, 111, 121, 122], ["t1"] * 7))

    assert found.values.tolist() == [[0, 0], [1, 1.0], [3, 2.0], [2, 2.5], [3, 3.0], [0, 0], [0, 0]]
    assert found.age_ms.tolist() == [0] * 7
    assert not found.is_stale.any()


def test_many_terminals_of_many_lanes_come_back_beside_their_events(make: Make) -> None:
    owner, lookup = make()
    names = [f"t{i}" for i in range(12)]
    assert {lane_of(name.encode()) for name in names} == set(range(LANES))
    for i, name in enumerate(names):
        owner.see(name.encode(), 100, float(i))
    owner.mark(200)
    asked = [*names, "t3", "nobody", *reversed(names)]

    found = lookup.read(asks([100] * len(asked), asked))

    assert found.values.tolist() == [[0, 0] if a == "nobody" else [1, float(a[1:])] for a in asked]


def test_an_owner_that_has_stored_nothing_gives_the_default_and_says_so(make: Make) -> None:
    _, lookup = make()

    found = lookup.read(asks([100], ["t1"]))

    assert found.values.tolist() == [[-1, -1]]
    assert found.is_stale.tolist() == [True]
    assert found.age_ms[0] > 10**12
    assert not found.incomplete.any()


def test_a_lookup_that_is_too_old_is_on_the_score(make: Make, tmp_path: Path) -> None:
    owner, lookup = make(", max_age: 1s")
    owner.mark(100)
    plan = feature_plan(load_pipeline(tmp_path / "p.yaml", {}))
    lanes = Lanes(HotRows(plan.layout, 16), MemoryStore(), "g", "in")
    lanes.take(0, committed=None, start=0, low=0, high=2**40, now_ms=1)

    found = enrich(asks([100, 101, 102], ["t1"] * 3), plan, lanes, (lookup,), METER)

    assert found.degradation.tolist() == [WHOLE, WHOLE, STALE_LOOKUP]


def test_a_terminal_never_seen_by_an_owner_that_is_up_to_date_is_zero_and_fresh(make: Make) -> None:
    owner, lookup = make()
    owner.mark(100)

    found = lookup.read(asks([100], ["new"]))

    assert found.values.tolist() == [[0, 0]]
    assert found.is_stale.tolist() == [False]


def test_age_is_how_far_the_owner_is_behind_the_event(make: Make) -> None:
    owner, lookup = make(", max_age: 20s")
    owner.see(b"t1", 100, 1.0)
    owner.mark(100)

    found = lookup.read(asks([90, 100, 107.5, 120, 120.000001], ["t1"] * 5))

    assert found.age_ms.tolist() == [0, 0, 7500, 20_000, 20_000]
    assert found.is_stale.tolist() == [False, False, False, False, True]
    assert found.values.tolist() == [[0, 0], [1, 1], [1, 1], [0, 0], [-1, -1]]


def test_only_the_lane_that_lags_is_old(make: Make) -> None:
    owner, lookup = make(", max_age: 20s")
    slow, fast = "t0", next(f"t{i}" for i in range(1, 50) if lane_of(b"t%d" % i) != lane_of(b"t0"))
    owner.mark(10, [lane_of(slow.encode())])
    owner.mark(100, [lane_of(fast.encode())])

    found = lookup.read(asks([100, 100], [slow, fast]))

    assert found.is_stale.tolist() == [True, False]


def test_what_the_owner_has_forgotten_is_said_to_be_incomplete(make: Make) -> None:
    owner, lookup = make()
    for second in range(100, 106):  # two more than the row holds
        owner.see(b"t1", second, 1.0)
    owner.mark(200)

    found = lookup.read(asks([105, 111.5], ["t1", "t1"]))

    assert found.incomplete.tolist() == [True, False]


def test_no_events_ask_nothing(make: Make) -> None:
    assert make()[1].read(asks([], [])).values.shape == (0, 2)


def test_waiting_ends_when_the_owner_has_caught_up(make: Make) -> None:
    owner, lookup = make(", when_behind: wait, wait_at_most: 30s", clock=Clock(step_s=0.1))
    next_steps: list[Callable[[], None]] = [
        lambda: owner.mark(50),
        lambda: owner.see(b"t1", 95, 7.0),
        lambda: owner.mark(100),
        lambda: owner.see(b"t1", 99, 1000.0),
    ]

    def wait() -> None:
        next_steps.pop(0)()

    found = lookup.read(asks([100], ["t1"]), wait)

    assert found.values.tolist() == [[1, 7.0]]
    assert found.age_ms.tolist() == [0]
    assert len(next_steps) == 1


def test_waiting_ends_when_it_has_been_long_enough_and_says_how_old(make: Make) -> None:
    clock = Clock(step_s=1.0)
    owner, lookup = make(", when_behind: wait, wait_at_most: 5s, max_age: 50s", clock=clock)
    owner.mark(60)

    found = lookup.read(asks([100], ["t1"]))

    assert found.age_ms.tolist() == [40_000]
    assert found.is_stale.tolist() == [False]
    assert 5 <= clock.now_s <= 8


def test_an_owner_that_is_ahead_is_not_waited_for(make: Make) -> None:
    clock = Clock(step_s=1.0)
    owner, lookup = make(", when_behind: wait, wait_at_most: 5s", clock=clock)
    owner.mark(100)

    lookup.read(asks([100, 3], ["t1", "t2"]))

    assert clock.now_s <= 2


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=40))
def test_the_lane_of_a_terminal_is_the_one_that_java_producers_use(key: bytes) -> None:
    from confluent_kafka import murmur2 as theirs

    assert theirs(key, 7) == murmur2(key) % 7


def test_kafkas_own_examples_of_its_hash() -> None:
    """From UtilsTest.testMurmur2 of Apache Kafka."""
    signed = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536}

    for key, value in signed.items():
        assert murmur2(key) == value & 0x7FFFFFFF
