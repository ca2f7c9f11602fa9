"""How long lanes are without a score after SIGKILL of one of two workers, and after FLUSHALL."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis

from tests.chaos.arena import Arena, Services, arena, ends, forget, undisturbed
from tests.chaos.fleet import Member
from tests.chaos.rounds import TRICKLE_PER_S, Say, start_workers
from tests.chaos.verdict import judge
from tests.chaos.world import SESSION_TIMEOUT_S, WINDOWS

TIMES = 3
CALM_S = 4.0
RECOVERED_WITHIN_S = 90.0
RATE = 1_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What both gave, and whether every outcome was right meanwhile."""

    kill_outage_s: tuple[float, ...]
    flush_outage_s: tuple[float, ...]
    flush_caught_up_s: tuple[float, ...]
    flush_events_in_topic: tuple[int, ...]
    events: int
    lost: int
    doubled: int
    different: int

    @property
    def allowed_kill_outage_s(self) -> float:
        """Session timeout and two seconds."""
        return SESSION_TIMEOUT_S + 2.0

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return {
            "kill_one_of_two": {
                "outage_s": [round(s, 2) for s in self.kill_outage_s],
                "allowed_s": self.allowed_kill_outage_s,
                "within": max(self.kill_outage_s) <= self.allowed_kill_outage_s,
                "session_timeout_s": SESSION_TIMEOUT_S,
            },
            "flushall": {
                "outage_s": [round(s, 2) for s in self.flush_outage_s],
                "caught_up_s": [round(s, 2) for s in self.flush_caught_up_s],
                "events_in_topic": list(self.flush_events_in_topic),
                "longest_window": WINDOWS[-1],
            },
            "events": self.events,
            "events_per_s": RATE,
            "lost": self.lost,
            "doubled": self.doubled,
            "different": self.different,
        }


def measure(running: Services, name: str, *, seed: int, say: Say) -> Measured:
    """Do each a few times with two workers under steady load; what came out is judged as ever."""
    kills: list[float] = []
    flushes: list[tuple[float, float, int]] = []
    with arena(running, name, mode="exactly_once", seed=seed) as made:
        pair = made.fleet.members[:2]
        made.feed.prefill(5_000)
        made.feed.start(TRICKLE_PER_S)
        start_workers(made, {member.name for member in pair})
        made.feed.start(RATE)
        for i in range(TIMES):
            kills.append(_outage(made, lambda member=pair[i % 2]: _kill(made, member))[0])  # type: ignore[misc]
            say(f"one of two workers killed: {kills[-1]:.2f} s until every lane scored again")
            made.fleet.want({member.name for member in pair})
        for _ in range(TIMES):
            events = int(made.feed.acknowledged.sum())
            flushes.append((*_outage(made, lambda: _flush(made)), events))
            scored_s, caught_up_s, _ = flushes[-1]
            say(f"FLUSHALL: scores again after {scored_s:.2f} s, caught up after {caught_up_s:.2f} s")
        made.feed.stop()
        made.drain()
        made.fleet.leave()
        expected = undisturbed(made)
        made.collector.close()
        verdict = judge(made.outcomes, expected, ends(made))
        forget(made)
    return Measured(
        kill_outage_s=tuple(kills),
        flush_outage_s=tuple(outage for outage, _, _ in flushes),
        flush_caught_up_s=tuple(behind for _, behind, _ in flushes),
        flush_events_in_topic=tuple(events for _, _, events in flushes),
        events=verdict.events,
        lost=verdict.lost,
        doubled=verdict.doubled,
        different=verdict.different,
    )


def _kill(made: Arena, member: Member) -> None:
    made.fleet.want({other.name for other in made.fleet.members[:2]} - {member.name})
    member.send(signal.SIGKILL)


def _flush(made: Arena) -> None:
    with redis.Redis.from_url(made.services.redis.address, socket_timeout=5.0) as client:
        client.flushall()


def _outage(made: Arena, do: Callable[[], None]) -> tuple[float, float]:
    """Seconds until every lane had outcomes of events sent after a fault, and until it had caught up."""
    _wait(made, lambda: made.backlog < RATE, "calm before the fault")
    time.sleep(CALM_S)
    do()
    begun_s = time.monotonic()
    sent = made.feed.acknowledged.copy()
    lanes = made.outcomes.lanes
    _wait(made, lambda: all(lane.newest >= sent[i] for i, lane in enumerate(lanes)), "outcomes again")
    scored_s = time.monotonic() - begun_s
    _wait(made, lambda: made.backlog < RATE, "nothing waiting")
    return scored_s, time.monotonic() - begun_s


def _wait(made: Arena, holds: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + RECOVERED_WITHIN_S
    while not holds():
        made.collector.check()
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"no {what} after {RECOVERED_WITHIN_S:g} s; {made.backlog} events wait")
        time.sleep(0.02)
