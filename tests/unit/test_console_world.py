"""What all workers say, added up: who is gone, what is stale, what is wrong, and what a second was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from worker.console_health import Gone, findings
from worker.console_snapshot import Snapshot, decode
from worker.console_world import GONE_MS, STALE_MS, WORKERS_AT_MOST, World
from worker.latency_window import LatencyWindow, to_sparse

CALM: dict[str, Any] = {
    "is_ready": True,
    "lanes_total": 2,
    "lanes": {"reading": 1, "waiting": 0},
    "batch_events": 1000,
    "model": "m",
    "champion": "1",
}


def said(worker: str = "a", *, seq: int = 1, started_ms: int = 1, **more: Any) -> Snapshot:
    return Snapshot(
        pipeline="p", worker=worker, started_ms=started_ms, seq=seq, at_ms=seq, **{**CALM, **more}
    )


def latency(*seconds: float) -> dict[str, int]:
    window = LatencyWindow()
    window.add(np.array(seconds))
    return to_sparse(window.counts())


def pipeline(world: World, now_ms: float) -> dict[str, Any]:
    (only,) = world.state(now_ms, {})
    return only


def states(world: World, now_ms: float) -> dict[str, str]:
    return {worker["worker"]: worker["state"] for worker in pipeline(world, now_ms)["workers"]}


def test_a_worker_is_live_then_marked_stale_then_gone() -> None:
    world = World()
    world.take(said(), 0.0)

    assert states(world, STALE_MS) == {"a": "live"}
    assert states(world, STALE_MS + 1) == {"a": "stale"}
    assert states(world, GONE_MS + 1) == {"a": "gone"}


def test_the_numbers_of_a_worker_that_is_gone_or_has_left_do_not_count() -> None:
    world = World()
    world.take(said("a", per_s={"events": 5.0}), 0.0)
    world.take(said("b", per_s={"events": 7.0}), 4000.0)
    assert pipeline(world, 4000.0)["per_s"] == {"events": 12.0}

    assert pipeline(world, GONE_MS + 1.0)["per_s"] == {"events": 7.0}
    world.left("p", "b")
    assert pipeline(world, GONE_MS + 1.0)["per_s"] == {}
    assert states(world, GONE_MS + 1.0) == {"a": "gone", "b": "left"}


def test_an_older_snapshot_never_takes_the_place_of_a_newer_one() -> None:
    world = World()
    world.take(said(seq=5, per_s={"events": 5.0}), 0.0)
    world.take(said(seq=4, per_s={"events": 4.0}), 1.0)
    assert pipeline(world, 1.0)["per_s"] == {"events": 5.0}

    world.take(said(seq=1, started_ms=2, per_s={"events": 1.0}), 2.0)  # the worker was started anew

    assert pipeline(world, 2.0)["per_s"] == {"events": 1.0}


def test_percentiles_are_those_of_all_events_and_not_means_of_percentiles() -> None:
    world = World()
    world.take(said("a", latency=latency(*[0.001] * 990)), 0.0)
    world.take(said("b", latency=latency(*[1.0] * 10)), 0.0)

    told = pipeline(world, 0.0)["latency_ms"]

    assert told["p50"] == pytest.approx(1.0, rel=0.03)
    assert told["p99"] == pytest.approx(1.0, rel=0.03)
    assert told["p999"] == pytest.approx(1000.0, rel=0.03)
    assert told["events"] == 1000


def test_a_lane_that_has_just_moved_is_told_by_its_newest_owner() -> None:
    world = World()
    world.take(said("a", seq=2, lag={"0": (1, 0.5), "1": (9, 3.0)}), 0.0)
    world.take(said("b", seq=3, lag={"1": (4, 2.0), "?": (1, 1.0)}), 0.0)

    lag = pipeline(world, 0.0)["lag"]

    assert list(lag) == ["0", "1"]
    assert lag["1"] == {"records": 4, "seconds": 2.0, "worker": "b"}


def test_a_second_is_a_point_and_no_more() -> None:
    world = World()
    for second in range(4):
        world.take(said(seq=second + 1, per_s={"events": float(second)}), second * 1000.0)
        world.tick(second * 1000.0)
        world.tick(second * 1000.0 + 400)

    points = world.history(10_000.0, 3000.0)["p"]

    assert [point[1] for point in points] == [0.0, 1.0, 2.0, 3.0]
    assert [point[0] for point in points] == [7000, 8000, 9000, 10_000]


def test_what_was_read_of_the_time_before_stands_in_front_of_what_came_since() -> None:
    past, world = World(), World()
    for second in range(3):
        past.take(said(seq=second + 1, per_s={"events": 1.0}), second * 1000.0)
        past.tick(second * 1000.0)
    world.take(said(seq=9, per_s={"events": 2.0}), 3000.0)
    world.tick(3000.0)

    world.adopt(past)

    assert [point[1] for point in world.history(3000.0, 3000.0)["p"]] == [1.0, 1.0, 1.0, 2.0]
    assert pipeline(world, 3000.0)["per_s"] == {"events": 2.0}


def test_who_writes_made_up_workers_does_not_fill_the_memory() -> None:
    world = World()
    for number in range(WORKERS_AT_MOST + 50):
        world.take(said(f"w{number}"), 0.0)

    assert len(pipeline(world, 0.0)["workers"]) == WORKERS_AT_MOST


def test_a_snapshot_comes_back_as_it_was_and_leaves_out_what_is_new() -> None:
    made = said(lag={"3": (5, 0.25)}, drift=(("f", 0.1, 0.5, "psi"),), latency={"4": 2})

    assert decode(made.encode()) == made
    assert decode(made.encode()[:-1] + b',"of_a_newer_version":1}') == made


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"pipeline":"p","worker":"w","started_ms":1,"seq":-1,"at_ms":1}',
        b'{"pipeline":"p","worker":"w","started_ms":1,"seq":1,"at_ms":1,"loop_age_s":Infinity}',
        b'{"pipeline":"p","worker":"w","started_ms":1,"seq":1,"at_ms":1,"latency":{"1":1e99}}',
        b'{"pipeline":"p","worker":"w","started_ms":1,"seq":1,"at_ms":1,"lag":{"1":["x"]}}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_snapshot_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="no snapshot"):
        decode(value)


def _found(*live: Snapshot, gone: tuple[Gone, ...] = ()) -> list[tuple[str, str]]:
    lag = {p: {"records": n, "seconds": s} for each in live for p, (n, s) in each.lag.items()}
    return [(finding.level, finding.text) for finding in findings("p", live, gone, lag)]


BOTH = (said("a"), said("b"))


def test_when_all_is_well_nothing_is_said() -> None:
    assert _found(*BOTH) == []


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        ({"is_alive": False, "loop_age_s": 42.0}, "bad", "has been stuck for 42 s"),
        ({"is_paused": True}, "warn", "is paused"),
        ({"is_ready": False}, "warn", "does not read all of its partitions yet"),
        ({"lanes": {"reading": 0, "waiting": 0}}, "bad", "1 of 2 partitions belong to no worker"),
        ({"lanes": {"reading": 0, "waiting": 1}}, "warn", "1 of 2 partitions wait for Kafka or the store"),
        ({"lag": {"1": (500, 12.0)}}, "warn", "12 s late on partition 1; 500 events wait"),
        ({"lag": {"1": (500, 180.0)}}, "bad", "3 min late on partition 1"),
        ({"writes_failed": 3}, "bad", "did not take 3 writes of"),
        ({"writes_failed": 1}, "bad", "did not take 1 write of"),
        ({"at_ms": BOTH[0].at_ms + 3_600_000}, "warn", "The clock of worker b is 60 min ahead of that of a"),
        ({"recoveries": {"FencedError": 2}}, "warn", "took its partitions again 2 times"),
        (
            {"dead_letters": {"truncated": 100, "bad_magic": 5}},
            "warn",
            "could not be scored, mostly truncated",
        ),
        ({"dead_letters": {"truncated": 2000}}, "bad", "50% of the records"),
        ({"degradation": 2}, "warn", "WITHOUT_ROWS"),
        ({"degraded": {"STALE_LOOKUP": 1}}, "warn", "STALE_LOOKUP"),
        ({"slo_missed": True, "late_share": 0.031}, "warn", "3.1% of the events are later"),
        ({"is_refused": True}, "bad", "refuses the newest change of the model"),
        ({"champion": "2"}, "warn", "different versions"),
        ({"drift_alarms": ("amount PSI", "score SHIFT")}, "warn", "amount PSI, score SHIFT"),
    ],
)
def test_everything_that_is_wrong_is_one_sentence(change: dict[str, Any], level: str, words: str) -> None:
    ((found_level, text),) = _found(BOTH[0], replace(BOTH[1], **change))

    assert (found_level, words in text) == (level, True), text


def test_a_clock_that_is_behind_is_told_by_the_one_that_is_ahead() -> None:
    ahead = replace(BOTH[0], at_ms=BOTH[1].at_ms + 31_000)

    assert _found(ahead, BOTH[1]) == [("warn", "The clock of worker a is 31 s ahead of that of b.")]


def test_workers_that_were_heard_some_seconds_apart_have_the_same_clock() -> None:
    assert _found(BOTH[0], replace(BOTH[1], at_ms=BOTH[0].at_ms + 9_000)) == []


def test_a_few_dead_letters_among_many_events_are_no_alarm() -> None:
    assert _found(BOTH[0], replace(BOTH[1], dead_letters={"truncated": 3})) == []


def test_a_worker_that_died_is_told_and_one_that_left_is_news_for_a_minute() -> None:
    dead = Gone(worker="x", for_s=7.0, has_left=False)
    left = Gone(worker="y", for_s=7.0, has_left=True)
    long_ago = Gone(worker="z", for_s=70.0, has_left=True)

    found = _found(*BOTH, gone=(left, dead, long_ago))

    assert [level for level, _ in found] == ["bad", "info"]
    assert "Worker x has said nothing for 7 s" in found[0][1]
    assert "Worker y has left in good order" in found[1][1]


def test_without_any_worker_that_is_said_first() -> None:
    assert _found()[0][1].startswith("No worker of p is running")
