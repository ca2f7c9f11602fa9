"""The faults: each is done and undone by one function, with seeded choices."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import numpy as np
import redis
from confluent_kafka import Consumer, ElectionType
from confluent_kafka.admin import AdminClient

from tests.chaos.arena import Arena
from tests.chaos.fleet import Member
from tests.chaos.steps import STEPS, steady_points
from tests.chaos.world import SESSION_TIMEOUT_S
from tests.services.kafka_cluster import WHOLE_WITHIN_S

PASSES_WITHIN_S = 10.0
REBALANCING = ("assign", "revoke", "take", "seek")  # the steps that a stranger brings about


class NotInjectedError(Exception):
    """The fault could not be done now: what it acts on is busy, or the step is not passed."""


Fault = Callable[[Arena, np.random.Generator], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A fault and how often it is chosen."""

    what: str
    inject: Fault
    weight: float


@contextmanager
def _member(arena: Arena, rng: np.random.Generator) -> Iterator[Member]:
    """A member that runs and that no other fault is at work on."""
    running = [m for m in arena.fleet.members if m.is_wanted and m.is_running and not m.is_stopped]
    for index in rng.permutation(len(running)).tolist():
        if running[index].lock.acquire(blocking=False):
            try:
                yield running[index]
            finally:
                running[index].lock.release()
            return
    raise NotInjectedError("no worker is free")


def _hit(arena: Arena, member: Member, rng: np.random.Generator, do: str) -> str:
    """Have a member kill or stop itself at a step; returns where it did."""
    points = steady_points(arena.mode)
    point = points[int(rng.integers(len(points)))]
    # Rare steps once; those of every batch at some later passing.
    passing = 1 if point.startswith(("load", "write")) else int(rng.integers(1, 12))
    member.arm(point, passing, do)
    fired = member.fired(PASSES_WITHIN_S)
    if fired is None:
        member.disarm()
        fired = member.fired(0.2)  # it may have passed in this very moment
    if fired is None:
        raise NotInjectedError(f"{member.name} did not pass {point}")
    return f"{member.name} at {fired.split()[1]}"


def _kill(arena: Arena, rng: np.random.Generator) -> str:
    with _member(arena, rng) as member:
        return _hit(arena, member, rng, "kill")


def _pause(arena: Arena, rng: np.random.Generator) -> str:
    with _member(arena, rng) as member:
        where = _hit(arena, member, rng, "stop")
        # Half of them for longer than the session timeout, after which somebody else has the lanes.
        for_s = float(rng.uniform(0.2, 3.0) if rng.random() < 0.5 else rng.uniform(7.0, 12.0))
        try:
            time.sleep(for_s)
        finally:
            member.send(signal.SIGCONT)
        return f"{where} for {for_s:.1f} s"


def _handover(arena: Arena, rng: np.random.Generator) -> str:
    """A former owner writes while the new one is replaying: the moment that epochs are for."""
    with _member(arena, rng) as former:
        others = [m for m in arena.fleet.members if m is not former and m.is_running and not m.is_stopped]
        others = [m for m in others if m.lock.acquire(blocking=False)]
        try:
            former.arm("write.before", 1, "stop")
            if former.fired(PASSES_WITHIN_S) is None:
                former.disarm()
                raise NotInjectedError(f"{former.name} did not write")
            for other in others:
                other.arm("take.after", 1, "stop")
            took = [m for m in others if m.fired(12.0) is not None]
            former.send(signal.SIGCONT)
            if not took:
                raise NotInjectedError(f"nobody took the lanes of {former.name}")
            time.sleep(0.7)
            return f"{former.name} wrote while {', '.join(m.name for m in took)} took its lanes"
        finally:
            for other in others:
                other.disarm()
                other.send(signal.SIGCONT)
                other.lock.release()
            former.send(signal.SIGCONT)


@contextmanager
def _broker(arena: Arena, rng: np.random.Generator) -> Iterator[int]:
    """A broker, when all others are in step; the next one may fail only once this one is back."""
    if not arena.broker_lock.acquire(blocking=False):
        raise NotInjectedError("another broker is down")
    try:
        if lacks := arena.services.cluster.lacks():
            raise NotInjectedError(f"the cluster is not whole: {lacks}")
        yield int(rng.integers(len(arena.services.cluster.nodes)))
        deadline_s = time.monotonic() + WHOLE_WITHIN_S
        while lacks := arena.services.cluster.lacks():
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"the cluster is not whole after {WHOLE_WITHIN_S:g} s: {lacks}")
            time.sleep(0.3)
    finally:
        arena.broker_lock.release()


def _broker_kill(arena: Arena, rng: np.random.Generator) -> str:
    with _broker(arena, rng) as number:
        node, for_s = arena.services.cluster.nodes[number], float(rng.uniform(0.0, 5.0))
        node.kill()
        time.sleep(for_s)
        node.start()
    return f"broker {number + 1}, started again after {for_s:.1f} s"


def _leader_change(arena: Arena, rng: np.random.Generator) -> str:
    """A broker hands its leaders over in good order, and gets them back when it has returned."""
    with _broker(arena, rng) as number:
        node = arena.services.cluster.nodes[number]
        node.stop()
        node.start()
    admin = AdminClient({"bootstrap.servers": arena.services.cluster.bootstrap})
    admin.elect_leaders(ElectionType.PREFERRED, None).result(30)
    return f"broker {number + 1} left and returned"


def _broker_freeze(arena: Arena, rng: np.random.Generator) -> str:
    with _broker(arena, rng) as number:
        node, for_s = arena.services.cluster.nodes[number], float(rng.uniform(0.5, 8.0))
        node.pause()
        try:
            time.sleep(for_s)
        finally:
            node.resume()
    return f"broker {number + 1} for {for_s:.1f} s"


@contextmanager
def _redis(arena: Arena) -> Iterator[None]:
    if not arena.redis_lock.acquire(blocking=False):
        raise NotInjectedError("Redis is being hit already")
    try:
        yield
    finally:
        arena.redis_lock.release()


def _redis_kill(arena: Arena, rng: np.random.Generator) -> str:
    with _redis(arena):
        for_s = float(rng.uniform(0.0, 4.0))
        arena.services.redis.kill()
        time.sleep(for_s)
        arena.services.redis.start()
    return f"started again, empty, after {for_s:.1f} s"


def _flush(arena: Arena, rng: np.random.Generator) -> str:
    """FLUSHALL at any time, or between a worker's decision to write and its write; a kill may follow."""
    how = rng.choice(["any time", "any time, then kill", "before a write", "before a write, then kill"])
    with _redis(arena), ExitStack() as stack:
        client = stack.enter_context(redis.Redis.from_url(arena.services.redis.address, socket_timeout=5.0))
        member = None
        if how != "any time":
            member = stack.enter_context(_member(arena, rng))
        if member is not None and how.startswith("before"):
            member.arm("write.before", 1, "stop")
            if member.fired(PASSES_WITHIN_S) is None:
                member.disarm()
                member.send(signal.SIGCONT)
                raise NotInjectedError(f"{member.name} did not write")
        rows = client.dbsize()
        client.flushall()
        if member is not None:
            member.send(signal.SIGCONT)
            if how.endswith("kill"):
                time.sleep(0.3)
                member.send(signal.SIGKILL)
    return f"{rows} rows, {how}{f' {member.name}' if member else ''}"


def _redis_freeze(arena: Arena, rng: np.random.Generator) -> str:
    with _redis(arena):
        for_s = float(rng.uniform(0.5, 6.0))
        arena.services.redis.pause()
        try:
            time.sleep(for_s)
        finally:
            arena.services.redis.resume()
    return f"for {for_s:.1f} s"


def _network(arena: Arena, rng: np.random.Generator, links: list[str], how: str) -> str:
    proxy, for_s = arena.services.proxy, float(rng.uniform(1.0, 9.0))
    try:
        for link in links:
            if how == "delay":
                proxy.delay(link, float(rng.uniform(0.02, 0.3)))
            elif how == "stall":
                proxy.stall(link)
            else:
                proxy.cut(link)
        time.sleep(for_s)
    finally:
        for link in links:
            proxy.heal(link)
    return f"{', '.join(links)}: {how} for {for_s:.1f} s"


def _store_network(arena: Arena, rng: np.random.Generator, hows: tuple[str, ...]) -> str:
    with _member(arena, rng) as member:
        return _network(arena, rng, [f"{member.name}.redis"], hows[int(rng.integers(len(hows)))])


def _broker_network(arena: Arena, rng: np.random.Generator, hows: tuple[str, ...]) -> str:
    with _member(arena, rng) as member:
        count = len(arena.services.cluster.nodes)
        which = list(range(count)) if rng.random() < 0.5 else [int(rng.integers(count))]
        links = [f"{member.name}.kafka.{n}" for n in which]
        return _network(arena, rng, links, hows[int(rng.integers(len(hows)))])


def _clock(arena: Arena, rng: np.random.Generator) -> str:
    with _member(arena, rng) as member:
        by_s = float(rng.choice([-86_400.0, -3_600.0, -60.0, 60.0, 3_600.0, 86_400.0]))
        member.step_clock(by_s)
        time.sleep(float(rng.uniform(0.5, 3.0)))
        if rng.random() < 0.5:
            member.step_clock(0.0)
        return f"{member.name} by {by_s:+.0f} s"


@contextmanager
def _strangers() -> Iterator[list[Consumer]]:
    """Members of the group that take lanes and do nothing with them; those still there leave at the end."""
    joined: list[Consumer] = []
    try:
        yield joined
    finally:
        for stranger in joined:
            stranger.close()


def _join(arena: Arena, joined: list[Consumer]) -> None:
    classic = {
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": int(SESSION_TIMEOUT_S * 1000),
    }
    stranger = Consumer(
        {
            "bootstrap.servers": arena.services.cluster.bootstrap,
            "group.id": arena.named.group,
            "group.protocol": arena.protocol,
            **(classic if arena.protocol == "classic" else {}),
            "enable.auto.commit": False,
            "reconnect.backoff.max.ms": 500,
            "log_level": 0,
        }
    )
    stranger.subscribe([arena.named.events])
    joined.append(stranger)


def _idle(joined: list[Consumer], for_s: float) -> None:
    until_s = time.monotonic() + for_s
    while time.monotonic() < until_s:
        for stranger in joined:
            stranger.consume(100, 0.02)


def _storm(arena: Arena, rng: np.random.Generator) -> str:
    """Strangers join the group, are given lanes, do nothing with them and leave; a worker goes and comes."""
    joins = int(rng.integers(2, 5))
    with _strangers() as joined:
        for _ in range(joins):
            _join(arena, joined)
            _idle(joined, float(rng.uniform(0.2, 2.0)))
            if len(joined) > 1 and rng.random() < 0.6:
                joined.pop(0).close()
        restarted = ""
        if rng.random() < 0.5:
            with suppress(NotInjectedError), _member(arena, rng) as member:
                member.send(signal.SIGTERM)
                restarted = f", {member.name} was asked to leave"
    return f"{joins} strangers joined and left{restarted}"


def _rebalance(arena: Arena, rng: np.random.Generator) -> str:
    """A worker is killed or stopped in the middle of a rebalance that a stranger brings about."""
    point = str(rng.choice([point for step in STEPS if step.name in REBALANCING for point in step.points]))
    do = "kill" if rng.random() < 0.5 else "stop"
    with _member(arena, rng) as member, _strangers() as joined:
        member.arm(point, 1, do)
        try:
            _join(arena, joined)
            _idle(joined, 2.0)
            joined.pop().close()
            fired = member.fired(6.0)
            if fired is None:
                raise NotInjectedError(f"{member.name} did not pass {point}")
            if do == "kill":
                return f"{member.name} killed at {point}"
            for_s = float(rng.choice([0.5, 8.0]))
            time.sleep(for_s)
            return f"{member.name} stopped at {point} for {for_s:g} s"
        finally:
            member.disarm()
            member.send(signal.SIGCONT)


def _poison(arena: Arena, rng: np.random.Generator) -> str:
    share, for_s = float(rng.uniform(0.3, 0.9)), float(rng.uniform(0.5, 2.0))
    arena.feed.flood_share = share
    try:
        time.sleep(for_s)
    finally:
        arena.feed.flood_share = 0.0
    return f"{share:.0%} of the events of {for_s:.1f} s"


KINDS: dict[str, Kind] = {
    "kill": Kind(what="SIGKILL of a worker at a step of its loop", inject=_kill, weight=5),
    "pause": Kind(what="SIGSTOP of a worker at a step, SIGCONT later", inject=_pause, weight=4),
    "handover": Kind(what="a former owner writes during the new one's replay", inject=_handover, weight=1),
    "broker-kill": Kind(what="a broker killed and started again", inject=_broker_kill, weight=1.5),
    "leader-change": Kind(
        what="a broker stopped in good order, leaders moved", inject=_leader_change, weight=1
    ),
    "broker-freeze": Kind(what="a broker stopped answering (SIGSTOP)", inject=_broker_freeze, weight=1.5),
    "redis-kill": Kind(what="Redis killed and started again, empty", inject=_redis_kill, weight=1),
    "flush": Kind(what="FLUSHALL", inject=_flush, weight=1.5),
    "redis-freeze": Kind(what="Redis stopped answering (SIGSTOP)", inject=_redis_freeze, weight=1),
    "redis-cut": Kind(
        what="network between a worker and Redis cut or silent",
        inject=lambda a, r: _store_network(a, r, ("cut", "stall")),
        weight=2,
    ),
    "redis-slow": Kind(
        what="network between a worker and Redis slow",
        inject=lambda a, r: _store_network(a, r, ("delay",)),
        weight=1,
    ),
    "broker-cut": Kind(
        what="network between a worker and brokers cut or silent",
        inject=lambda a, r: _broker_network(a, r, ("cut", "stall")),
        weight=2,
    ),
    "broker-slow": Kind(
        what="network between a worker and brokers slow",
        inject=lambda a, r: _broker_network(a, r, ("delay",)),
        weight=1,
    ),
    "clock": Kind(what="a worker's wall clock stepped", inject=_clock, weight=1),
    "rebalance": Kind(what="SIGKILL or SIGSTOP of a worker in a rebalance", inject=_rebalance, weight=2),
    "storm": Kind(what="members joining and leaving quickly", inject=_storm, weight=2),
    "poison": Kind(what="a flood of damaged records", inject=_poison, weight=1.5),
}
