"""A round: fresh topics, workers, events, faults from a seed, then calm, and the comparison."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tests.chaos.arena import Arena, Services, arena, ends, forget, undisturbed
from tests.chaos.faults import KINDS, NotInjectedError
from tests.chaos.verdict import Verdict, judge
from tests.chaos.world import Variation
from worker.exits import Exit

READY_WITHIN_S = 180.0  # the first start of a checkout compiles
INSIST_S = 180.0  # on a fault that each round must have
AT_ONCE = 4  # faults that are at work together, at most
TRICKLE_PER_S = 200.0  # while workers start
BREATHE_AT_MOST_S = 10.0
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
    space_s: tuple[float, float] = (2.5, 6.0)  # between two turns; a turn is one to three faults
    workers: int = 3
    events_per_s: float = 3_000.0
    prefill: int = 20_000
    plant: str | None = None
    variation: Variation = field(default_factory=Variation)


@dataclass(slots=True, kw_only=True)
class Result:
    """What a round gave."""

    seed: int
    mode: str
    variation: Variation
    verdict: Verdict
    faults: list[Injected] = field(default_factory=list)
    longest_outage_s: dict[int, float] = field(default_factory=dict)  # by number of the fault
    not_injected: Counter[str] = field(default_factory=Counter)
    exits: Counter[int] = field(default_factory=Counter)
    last_exits: dict[str, int] = field(default_factory=dict)
    measures: dict[str, float] = field(default_factory=dict)
    begun_s: float = 0.0  # on the monotonic clock
    seconds: float = 0.0
    drained_s: float = 0.0
    outages: list[dict[str, float]] = field(default_factory=list)  # the longest ones
    judged_s: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether the promise was kept, no worker ended by a bug, and all left when asked to."""
        left = -signal.SIGKILL not in self.last_exits.values()
        return self.verdict.holds(self.mode) and not self.exits[Exit.BUG] and left


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
        self.begun_s = time.monotonic()

    def inject(self, kind: str, rng: np.random.Generator) -> bool:
        """Do one fault; False, and counted, when it cannot be done now."""
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
            return False
        done = Injected(number=number, kind=kind, detail=detail, from_s=from_s, until_s=time.monotonic())
        self.done.append(done)
        self._say(
            f"{from_s - self.begun_s:7.1f} s  {number:>3}  {kind:<14} {detail}"
            f"  [{self._arena.backlog} events wait]"
        )
        return True

    def run(self) -> None:
        """Faults alone and in mixes, for as long as asked; the same choices for the same seed."""
        settings = self._settings
        until_s = self.begun_s + settings.seconds
        first = np.random.default_rng((settings.seed, 0))
        shuffled = [settings.kinds[i] for i in first.permutation(len(settings.kinds))]
        once = shuffled if settings.each_once else []
        weights = np.array([KINDS[kind].weight for kind in settings.kinds])
        jobs: set[Future[None]] = set()
        turn = 0
        with ThreadPoolExecutor(AT_ONCE) as pool:
            while time.monotonic() < until_s or once:
                turn += 1
                rng = np.random.default_rng((settings.seed, turn))
                count = 1 if once else int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))
                mix = rng.choice(settings.kinds, count, p=weights / weights.sum()).tolist()
                for i, kind in enumerate([once.pop()] if once else mix):
                    patience_s = INSIST_S if settings.each_once else 0.0
                    jobs.add(pool.submit(self._try, kind, patience_s, settings.seed, turn, i))
                    time.sleep(float(rng.uniform(0.0, 1.0)))
                time.sleep(float(rng.uniform(*settings.space_s)))
                # A broker takes long to come back: what else is broken meanwhile need not wait for it.
                while len(jobs) >= AT_ONCE:
                    ended, jobs = wait(jobs, return_when=FIRST_COMPLETED)
                    for job in ended:
                        job.result()
                self._breathe()
            for job in jobs:
                job.result()

    def _try(self, kind: str, patience_s: float, *seed: int) -> None:
        give_up_s, attempt = time.monotonic() + patience_s, 0
        while not self.inject(kind, np.random.default_rng((*seed, attempt))):
            attempt += 1
            if time.monotonic() >= give_up_s:
                return
            time.sleep(1.0)

    def _breathe(self) -> None:
        """Let the workers catch up when they are far behind."""
        deadline_s = time.monotonic() + BREATHE_AT_MOST_S
        while self._arena.backlog > BREATHE_S * self._settings.events_per_s:
            if time.monotonic() > deadline_s:
                return
            time.sleep(0.2)


def run_round(running: Services, name: str, settings: Settings, say: Say) -> Result:
    """Run one round and judge it.

    Raises:
        RuntimeError: the workers did not start or hang with everything healed; that is a finding too.
    """
    with arena(
        running,
        name,
        mode=settings.mode,
        seed=settings.seed,
        plant=settings.plant,
        variation=settings.variation,
    ) as made:
        running.cluster.make_whole()  # or no broker may fail
        names = [member.name for member in made.fleet.members][: settings.workers]
        made.feed.prefill(settings.prefill)
        _first_commit(made, names[0], settings, say)
        made.feed.start(TRICKLE_PER_S)
        start_workers(made, set(names))
        made.feed.start(settings.events_per_s)
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
            mode=settings.mode,
            variation=settings.variation,
            verdict=verdict,
            faults=sorted(injector.done, key=lambda fault: fault.number),
            not_injected=injector.not_injected,
            exits=made.fleet.exits,
            last_exits=last,
            begun_s=injector.begun_s,
            seconds=seconds,
            drained_s=drained_s,
            judged_s=time.monotonic() - begun_s,
        )
        result.longest_outage_s = _outages(made, result.faults)
        longest = sorted(made.outages, key=lambda outage: -outage.length_s)[:10]
        result.outages = [
            {"lane": o.lane, "at_s": round(o.from_s - injector.begun_s, 1), "length_s": round(o.length_s, 1)}
            for o in longest
        ]
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
        "variation": asdict(result.variation),
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
        "longest_outages": result.outages,
        "injected": [
            {"at_s": round(f.from_s - result.begun_s, 1), "kind": f.kind, "detail": f.detail}
            for f in result.faults
        ],
        "exits": {str(code): count for code, count in sorted(result.exits.items())},
        "last_exits": result.last_exits,
        "examples": result.verdict.examples,
    }
