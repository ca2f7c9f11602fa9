"""Every reader of the control topic draws the same decision, whoever wrote what at the same time."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.control import (
    Change,
    ControlError,
    Decided,
    Routing,
    Status,
    decode,
    describe,
    history,
    next_change,
)

AT_START = "1"
Record = tuple[bytes, bytes]


def changed(decided: Decided, action: str, **new: Any) -> Change:
    return next_change(decided, "p", AT_START, action, by="me", why="", **new)


def nothing_decided() -> Decided:
    return Decided({}, {})


def after(*steps: tuple[str, dict[str, Any]]) -> Routing:
    """The routing after these actions, one after the other."""
    decided = nothing_decided()
    for action, new in steps:
        decided.take(b"k", changed(decided, action, **new).encode())
    last = decided.routing("p")
    assert last is not None
    return last.routing


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([("promote", {"version": "2"})], Routing(champion="2", before=("1",))),
        (
            [("promote", {"version": "2"}), ("rollback", {})],
            Routing(champion="1"),
        ),
        (
            [("canary", {"version": "2", "share": 0.1})],
            Routing(champion="1", challenger="2", share=0.1),
        ),
        (
            [("canary", {"version": "2", "share": 0.1}), ("canary", {"version": "2", "share": 0.5})],
            Routing(champion="1", challenger="2", share=0.5),
        ),
        ([("canary", {"version": "2", "share": 0.1}), ("rollback", {})], Routing(champion="1")),
        (
            [("canary", {"version": "2", "share": 0.1}), ("promote", {"version": "2"})],
            Routing(champion="2", before=("1",)),
        ),
        (
            [("shadow", {"version": "2"}), ("pin", {})],
            Routing(champion="1", challenger="2", is_shadow=True, share=1.0, is_pinned=True),
        ),
        (
            [("pin", {}), ("promote", {"version": "2"}), ("rollback", {}), ("unpin", {})],
            Routing(champion="1"),
        ),
    ],
)
def test_actions_change_the_routing_as_they_say(
    steps: list[tuple[str, dict[str, Any]]], expected: Routing
) -> None:
    assert after(*steps) == expected


@pytest.mark.parametrize(
    ("action", "new", "said"),
    [
        ("rollback", {}, "nothing to go back to: version 1 serves"),
        ("promote", {"version": "1"}, "nothing to change: version 1 serves"),
        ("unpin", {}, "nothing to change"),
        ("canary", {"version": "1", "share": 0.1}, "cannot be compared with itself"),
    ],
)
def test_what_changes_nothing_is_an_error_that_says_what_serves(
    action: str, new: dict[str, Any], said: str
) -> None:
    with pytest.raises(ControlError, match=said):
        changed(nothing_decided(), action, **new)


STEPS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5), st.booleans()), max_size=30)


def written(steps: list[tuple[int, int, bool]]) -> list[Record]:
    """The topic as writers leave it that each know it only as far as they have read."""
    log: list[Record] = []
    seen = [nothing_decided() for _ in range(3)]
    read = [0, 0, 0]
    for writer, version, reads in steps:
        if reads:
            for key, value in log[read[writer] :]:
                seen[writer].take(key, value)
            read[writer] = len(log)
        try:
            change = changed(seen[writer], "promote", version=str(version))
        except ControlError:
            continue
        log.append((f"p {change.revision:08} {len(log)}".encode(), change.encode()))
    return log


@settings(deadline=None)
@given(STEPS, st.randoms(use_true_random=False))
def test_readers_that_have_read_as_far_know_the_same_whenever_they_came(
    steps: list[tuple[int, int, bool]], chance: random.Random
) -> None:
    log = written(steps)
    one, other = nothing_decided(), nothing_decided()
    for key, value in log:
        one.take(key, value)
    # Compaction removes what has a later record of its key. There is none: every change has its own.
    assert len({key for key, _ in log}) == len(log)
    for key, value in log:
        other.take(key, value)
        if chance.random() < 0.2:
            other.take(b"status p w", status("w").encode())

    assert one.routing("p") == other.routing("p")
    assert history(one, "p") == history(other, "p")


@settings(deadline=None)
@given(STEPS)
def test_of_changes_made_from_one_revision_the_first_counts_and_no_revision_is_left_out(
    steps: list[tuple[int, int, bool]],
) -> None:
    log = written(steps)
    decided = nothing_decided()
    for key, value in log:
        decided.take(key, value)

    changes = history(decided, "p")

    assert [change.revision for change in changes] == list(range(1, len(changes) + 1))
    assert decided.passed_over == len(log) - len(changes)
    firsts: dict[int, Change] = {}
    for _, value in log:
        change = decode(value)
        assert isinstance(change, Change)
        firsts.setdefault(change.revision, change)
    assert changes == tuple(firsts[change.revision] for change in changes)


def status(worker: str) -> Status:
    return Status(pipeline="p", worker=worker, revision=3, champion="2", challenger=None, refused="", at_ms=5)


def test_a_worker_that_leaves_is_forgotten_and_others_stay() -> None:
    decided = nothing_decided()
    for worker in ("a", "b"):
        decided.take(b"status p " + worker.encode(), status(worker).encode())

    decided.take(b"status p a", None)
    decided.take(b"nonsense", None)

    assert decided.statuses == {("p", "b"): status("b")}


def test_pipelines_do_not_see_each_others_changes() -> None:
    decided = nothing_decided()
    for name in ("p", "q"):
        change = next_change(decided, name, AT_START, "promote", by="", why="", version=f"{name}2")
        decided.take(b"k", change.encode())

    assert [decided.routing(name).routing.champion for name in ("p", "q")] == ["p2", "q2"]  # type: ignore[union-attr]
    assert decided.routing("r") is None


@settings(deadline=None)
@given(st.binary() | st.text().map(str.encode))
def test_what_is_no_record_of_ours_is_told_and_changes_nothing(value: bytes) -> None:
    decided = nothing_decided()

    with pytest.raises(ValueError, match="no record of the control topic"):
        decided.take(b"k", value)

    assert decided == nothing_decided()


def test_a_routing_is_told_in_one_line() -> None:
    routing = Routing(champion="2", challenger="3", share=0.1, is_pinned=True)
    assert describe(routing) == "version 2 serves, 3 scores 0.1 of the keys, pinned"
