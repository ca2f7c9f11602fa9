"""A round: fresh topics, workers, events, faults from a seed, then calm, and the comparison."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.chaos.arena import Arena, Services, arena, ends, forget, undisturbed
from tests.chaos.faults import KINDS, NotInjectedError
from tests.chaos.verdict import Verdict, judge

READY_WITHIN_S = 90.0
BREATHE_S = 20.0  # of events waiting: more of them, and the next fault waits
Say = Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class Injected:
    """One fault that was injected."""

    number: int
    kind: str
    detail: str
    from_s: float
    until_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a round is like."""

    seconds: float  # of faults
    seed: int
    mode: str = "exactly_once"
    kinds: tuple[str, ...] = tuple(KINDS)
    each_once: bool = False  # every kind once, in a seeded order, before they are chosen at random
    workers: int = 3
    events_per_s: float = 3_000.0
    prefill: int = 20_000
    plant: str | None = None


@dataclass(slots=True, kw_only=True)
class Result:
    """What a round gave."""

    seed: int
    verdict: Verdict
    faults: list[Injected] = field(default_factory=list)
    longest_outage_s: dict[int, float] = field(default_factory=dict)  # by number of the fault
    not_injected: Counter[str] = field(default_factory=Counter)
    exits: Counter[int] = field(default_factory=Counter)
    last_exits: dict[str, int] = field(default_factory=dict)
    measures: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    drained_s: float = 0.0
    judged_s: float = 0.0


class Injector:
    """Chooses faults, does them, and numbers them."""

    def __init__(self, made: Arena, settings: Settings, say: Say) -> None:
        self.done: list[Injected] = []
        self.not_injected: Counter[str] = Counter()
        self._arena = made
        self._settings = settings
        self._say = say
        self._lock = threading.Lock()
        self._next = 1
        self._begun_s = time.monotonic()

    def inject(self, kind: str, rng: np.random.Generator) -> None:
        """Do one fault; one that cannot be done now is counted and that is all."""
        outcomes = self._arena.outcomes
        with self._lock:
            number, self._next = self._next, self._next + 1
            before, outcomes.fault = outcomes.fault, number
        from_s = time.monotonic()
        try:
            detail = KINDS[kind].inject(self._arena, rng)
        except NotInjectedError:
            self.not_injected[kind] += 1
            if outcomes.fault == number:
                outcomes.fault = before
            return
        done = Injected(number=number, kind=kind, detail=detail, from_s=from_s, until_s=time.monotonic())
        self.done.append(done)
        self._say(
            f"{from_s - self._begun_s:7.1f} s  {number:>3}  {kind:<14} {detail}"
            f"  [{self._arena.backlog} events wait]"
        )

    def run(self) -> None:
        """Faults alone and in mixes, for as long as asked; the same choices for the same seed."""
        settings = self._settings
        until_s = self._begun_s + settings.seconds
        first = np.random.default_rng((settings.seed, 0))
        queue = (
            [settings.kinds[i] for i in first.permutation(len(settings.kinds))] if settings.each_once else []
        )
        weights = np.array([KINDS[kind].weight for kind in settings.kinds])
        turn = 0
        with ThreadPoolExecutor(4) as pool:
            while time.monotonic() < until_s or queue:
                turn += 1
                rng = np.random.default_rng((settings.seed, turn))
                if queue:
                    kinds = [queue.pop(0)]
                else:
                    count = int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))
                    kinds = list(rng.choice(settings.kinds, count, p=weights / weights.sum()))
                jobs = []
                for i, kind in enumerate(kinds):
                    jobs.append(
                        pool.submit(self.inject, str(kind), np.random.default_rng((settings.seed, turn, i)))
                    )
                    time.sleep(float(rng.uniform(0.0, 1.0)) if len(kinds) > 1 else 0.0)
                for job in jobs:
                    job.result()
                time.sleep(float(rng.uniform(0.5, 2.5)))
                self._breathe()

    def _breathe(self) -> None:
        """Let the workers catch up when they are far behind."""
        deadline_s = time.monotonic() + 60.0
        while self._arena.backlog > BREATHE_S * self._settings.events_per_s:
            if time.monotonic() > deadline_s:
                return
            time.sleep(0.2)


def run_round(running: Services, name: str, settings: Settings, say: Say) -> Result:
    """Run one round and judge it.

    Raises:
        RuntimeError: the workers did not start or hang with everything healed; that is a finding too.
    """
    with arena(running, name, mode=settings.mode, seed=settings.seed, plant=settings.plant) as made:
        names = [member.name for member in made.fleet.members][: settings.workers]
        made.feed.prefill(settings.prefill)
        _first_commit(made, names[0], settings, say)
        made.feed.start(settings.events_per_s)
        start_workers(made, set(names))
        injector = Injector(made, settings, say)
        begun_s = time.monotonic()
        injector.run()
        seconds = time.monotonic() - begun_s
        made.feed.stop()
        begun_s = time.monotonic()
        made.drain()
        drained_s = time.monotonic() - begun_s
        last = made.fleet.leave()
        say(f"drained in {drained_s:.1f} s; the undisturbed worker reads the same log")
        begun_s = time.monotonic()
        expected = undisturbed(made)
        made.collector.close()
        verdict = judge(made.outcomes, expected, ends(made))
        result = Result(
            seed=settings.seed,
            verdict=verdict,
            faults=sorted(injector.done, key=lambda fault: fault.number),
            not_injected=injector.not_injected,
            exits=made.fleet.exits,
            last_exits=last,
            seconds=seconds,
            drained_s=drained_s,
            judged_s=time.monotonic() - begun_s,
        )
        result.longest_outage_s = _outages(made, result.faults)
        forget(made)
        return result


def _first_commit(made: Arena, name: str, settings: Settings, say: Say) -> None:
    """Start a worker that dies at its very first commit, before the group has any offset."""
    made.fleet.want({name})
    first = next(member for member in made.fleet.members if member.name == name)
    deadline_s = time.monotonic() + READY_WITHIN_S
    while not first.is_running and time.monotonic() < deadline_s:
        time.sleep(0.02)
    step = "commit.before" if settings.mode == "exactly_once" else "commit-offsets.before"
    first.arm(step, 1, "kill")
    if first.fired(READY_WITHIN_S) is None:
        raise RuntimeError(f"{first.name} did not come to its first commit:\n{first.tail()}")
    say(f"{first.name} died at its first commit")


def start_workers(made: Arena, names: set[str]) -> None:
    """Start these and wait until every lane has an outcome; from then on outages are noted."""
    made.fleet.want(names)
    deadline_s = time.monotonic() + READY_WITHIN_S
    while not all(lane.done for lane in made.outcomes.lanes):
        made.collector.check()
        if time.monotonic() > deadline_s:
            tails = "\n".join(f"--- {m.name}\n{m.tail()}" for m in made.fleet.members if m.started)
            raise RuntimeError(f"lanes without an outcome after {READY_WITHIN_S:g} s:\n{tails}")
        time.sleep(0.05)
    made.begin_watch()


def _outages(made: Arena, faults: Sequence[Injected]) -> dict[int, float]:
    """The longest outage that began after each fault and before the next one."""
    longest: dict[int, float] = {}
    for outage in made.outages:
        # An outage is noticed from the last outcome on, which may be a little before its cause.
        causes = [f for f in faults if f.from_s <= outage.from_s + 1.0 or f.from_s < outage.until_s]
        causes = [f for f in causes if f.until_s >= outage.from_s - 1.0] or causes[-1:]
        if causes:
            number = causes[0].number
            longest[number] = max(longest.get(number, 0.0), outage.length_s)
    return longest


def as_json(result: Result) -> dict[str, Any]:
    """A round as it is written down."""
    return {
        "seed": result.seed,
        "seconds": round(result.seconds, 1),
        "drained_s": round(result.drained_s, 1),
        "judged_s": round(result.judged_s, 1),
        "events": result.verdict.events,
        "alerts": result.verdict.alerts,
        "dead_letters": result.verdict.dead_letters,
        "lost": result.verdict.lost,
        "doubled": result.verdict.doubled,
        "different": result.verdict.different,
        "out_of_order": result.verdict.disordered,
        "faults": len(result.faults),
        "not_injected": dict(result.not_injected),
        "exits": {str(code): count for code, count in sorted(result.exits.items())},
        "last_exits": result.last_exits,
        "examples": result.verdict.examples,
    }
