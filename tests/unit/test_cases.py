"""What is counted of cases is a function of the facts that were given, whatever happened on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_cache.cases import SHARDS, Applied, Cases, Fact, Mark, MemoryCases, contribution, shard_of
from feature_cache.store import StoreUnavailableError
from tests.truth_facts import FACTS, alert, counts_of, label, score
from worker.truth_apply import Marks, Partition, apply_facts

NOW_MS = 1_000_000
NEWEST = 1_000


def given_in_order(facts: list[Fact]) -> MemoryCases:
    """Cases that were given these facts, one by one."""
    cases = MemoryCases(lambda: NOW_MS)
    cases.begin("p:0", 0)
    for offset, fact in enumerate(facts):
        mark = Mark("p:0", 0, offset + 1)
        assert cases.apply(shard_of(fact.event_id), [mark], [fact]) is not None
    return cases


def all_cells(cases: Cases) -> dict[int, dict[str, int]]:
    """Everything that is counted, empty buckets left out."""
    return {bucket: cells for bucket, cells in cases.cells(range(NEWEST)).items() if cells}


@given(st.lists(FACTS, max_size=30), st.randoms())
def test_counts_are_those_of_the_newest_facts_in_any_order_however_often(
    facts: list[Fact], random: Any
) -> None:
    given_again = [*facts, *random.choices(facts, k=len(facts))] if facts else []
    random.shuffle(given_again)

    assert all_cells(given_in_order(given_again)) == counts_of(facts)


def test_a_label_may_come_before_its_score() -> None:
    cases = MemoryCases(lambda: NOW_MS)
    shard = shard_of(b"e")
    assert cases.apply(shard, [], [label("e", 1)]) == Applied(waiting=1)
    assert cases.cells(range(NEWEST)) == {}
    assert cases.apply(shard, [], [score("e")]) == Applied(joined=1)
    assert sum(n for name, n in all_cells(cases)[7].items() if name.endswith(" 1")) > 0


def test_a_corrected_label_takes_the_place_of_the_first_and_not_the_other_way_round() -> None:
    first, corrected = label("e", 1, at=5), label("e", 0, at=6)

    for facts in ([score("e"), first, corrected], [corrected, score("e"), first, first]):
        assert all_cells(given_in_order(facts)) == counts_of([score("e"), corrected])


def test_a_score_without_a_label_is_counted_as_such() -> None:
    assert all_cells(given_in_order([score("e")])) == {7: {"v1 - n 5.1.3 n": 1, "v1 - s 3 n": 300_000}}


def test_an_expired_fact_is_not_taken_and_an_expired_case_is_forgotten_with_its_counts_kept() -> None:
    now_ms = [0]
    cases = MemoryCases(lambda: now_ms[0])
    shard = shard_of(b"e")
    cases.apply(shard, [], [score("e", expires_ms=100)])
    counted = all_cells(cases)

    now_ms[0] = 100
    assert cases.apply(shard, [], [score("e", expires_ms=100)]) == Applied(expired=1)
    assert cases.apply(shard, [], [label("e", 1, expires_ms=200)]) == Applied(waiting=1)
    assert all_cells(cases) == counted


def test_a_shard_that_has_seen_less_than_the_caller_believes_takes_nothing() -> None:
    cases = MemoryCases(lambda: NOW_MS)
    shard = shard_of(b"e")

    assert cases.apply(shard, [Mark("p:0", 0, 1)], [score("e")]) is None
    cases.begin("p:0", 5)
    assert cases.apply(shard, [Mark("p:0", 6, 7)], [score("e")]) is None
    assert all_cells(cases) == {}
    assert cases.apply(shard, [Mark("p:0", 5, 7)], [score("e")]) == Applied(waiting=1)
    assert cases.marks(["p:0"])[0][shard] == 7
    assert cases.marks(["p:0"])[0][shard - 1] == 5
    cases.begin("p:0", 99)
    assert cases.apply(shard, [Mark("p:0", 0, 6)], []) == Applied()
    assert cases.marks(["p:0"])[0][shard] == 7


def test_a_value_of_the_label_goes_before_that_of_the_alert() -> None:
    def value(*facts: Fact) -> int | None:
        found = contribution({f.text[0]: f.text[2:] for f in facts})
        assert found is not None
        return next((n for name, n in found[1].items() if " v " in name), None)

    assert value(score("e")) is None
    assert value(score("e"), alert("e", value=7)) == 7
    assert value(score("e"), alert("e", value=7), label("e", 1, value=9)) == 9


# ---------------------------------------------------------------------------------------------------------
# Several members, crashes at any step, a store that is away or goes back in time


@dataclass
class Log:
    """Partitions of facts, as Kafka keeps them."""

    partitions: dict[Partition, list[Fact]]


@dataclass
class Member:
    """One reader: where it is in the partitions that it believes to own."""

    marks: Marks = field(default_factory=dict)
    position: dict[Partition, int] = field(default_factory=dict)


class Unsure:
    """Cases whose next answers are lost, before or after what was asked is done."""

    def __init__(self, cases: MemoryCases) -> None:
        self.cases = cases
        self.fate: list[str] = []

    def apply(self, shard: int, marks: Any, facts: Any) -> Applied | None:
        fate = self.fate.pop() if self.fate else "well"
        if fate == "before":
            raise StoreUnavailableError("away")
        done = self.cases.apply(shard, marks, facts)
        if fate == "after":
            raise StoreUnavailableError("the answer was lost")
        return done

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cases, name)


def name(partition: Partition) -> str:
    return f"{partition[0]}:{partition[1]}"


def take(member: Member, cases: Any, partition: Partition) -> None:
    """What Reader does when it is given a partition, or goes back; a horizon holds all of the log."""
    (marks,) = cases.marks([name(partition)])
    start = 0 if None in marks else min(marks)
    if None in marks:
        cases.begin(name(partition), start)
    member.marks[partition] = [start if mark is None else mark for mark in marks]
    member.position[partition] = start


def turn(member: Member, cases: Any, log: Log, count: int) -> None:
    """What TruthJoin does with the next records of all its partitions."""
    facts, ends = [], {}
    for partition, at in member.position.items():
        here = log.partitions[partition][at : at + count]
        facts += [(partition, fact) for fact in here]
        ends[partition] = at + len(here)
    if apply_facts(cases, facts, member.marks, ends, name):
        member.position.update(ends)
    else:
        for partition in list(member.position):
            take(member, cases, partition)


def copied(cases: MemoryCases) -> Callable[[], None]:
    """Remember the state; the returned function goes back to it."""
    kept = (
        [dict(marks) for marks in cases._marks],
        {k: replace(case, facts=dict(case.facts)) for k, case in cases._cases.items()},
        {b: Counter(cells) for b, cells in cases._cells.items()},
    )

    def go_back() -> None:
        cases._marks, cases._cases, cases._cells = kept

    return go_back


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("turn"), st.integers(0, 2), st.integers(1, 4)),
        st.tuples(st.just("take"), st.integers(0, 2), st.integers(0, 3)),
        st.tuples(st.just("crash"), st.integers(0, 2)),
        st.tuples(st.just("fail"), st.sampled_from(["before", "after"]), st.integers(0, 3)),
        st.tuples(st.just("save")),
        st.tuples(st.just("go back")),
        st.tuples(st.just("lose all")),
    ),
    max_size=40,
)


@given(st.lists(FACTS, max_size=24), st.data())
def test_no_sequence_of_crashes_doubles_or_loses_a_label(facts: list[Fact], data: st.DataObject) -> None:
    partitions: list[Partition] = [("scores", 0), ("scores", 1), ("labels", 0), ("labels", 1)]
    log = Log({p: [] for p in partitions})
    for i, fact in enumerate(facts):
        log.partitions["labels" if fact.text[0] == "l" else "scores", i % 2].append(fact)
    memory = MemoryCases(lambda: NOW_MS)
    cases, members = Unsure(memory), [Member(), Member(), Member()]
    go_back = copied(memory)

    for action in data.draw(ACTIONS):
        match action:
            case ("turn", who, count):
                with suppress(StoreUnavailableError):  # tried again with its next turn, unless it crashes
                    turn(members[who], cases, log, count)
            case ("take", who, which):  # whoever had it before may not know yet that it has lost it
                take(members[who], cases, partitions[which])
            case ("crash", who):
                members[who] = Member()
            case ("fail", fate, after):
                cases.fate = [fate, *["well"] * after]
            case ("save",):
                go_back = copied(memory)
            case ("go back",):
                go_back()
                go_back = copied(memory)
            case ("lose all",):
                memory._marks, memory._cases, memory._cells = [{} for _ in range(SHARDS)], {}, {}

    cases.fate = []
    last = Member()
    for partition in partitions:
        take(last, cases, partition)
    for _ in range(2 * len(facts) + 2):
        turn(last, cases, log, 3)
    assert last.position == {p: len(log.partitions[p]) for p in partitions}
    assert all_cells(memory) == counts_of(facts)


@pytest.mark.parametrize("events", [1, 50])
def test_events_are_spread_over_all_shards(events: int) -> None:
    assert len({shard_of(b"%d" % i) for i in range(events * SHARDS)}) >= min(events, 2) * SHARDS // 4
