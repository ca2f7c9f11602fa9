"""Every kind of fault of the chaos suite, held until somebody is told of it, and how it is undone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from signal import SIGCONT, SIGKILL, SIGSTOP

import numpy as np
import redis

from tests.chaos.arena import Arena
from tests.chaos.faults import KINDS, NotInjectedError
from tests.chaos.fleet import Member
from tests.services import Service

DELAY_S = 0.3  # of each chunk on a slow link: the most that the chaos suite takes
CLOCK_BY_S = 3_600.0
POISON_SHARE = 0.6
AGAIN_S = 2.0
Begin = Callable[[Arena], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault that lasts for as long as its context."""

    what: str
    begin: Begin
    is_of_chaos: bool = True  # else it is here because a person asks what would be said of it


def _victim(arena: Arena) -> Member:
    return arena.fleet.members[0]


@contextmanager
def _killed(arena: Arena, count: int) -> Iterator[None]:
    """Workers that nobody starts again."""
    victims = [member for member in arena.fleet.members if member.is_wanted][:count]
    for victim in victims:
        victim.is_wanted = False
        victim.send(SIGKILL)
    try:
        yield
    finally:
        for victim in victims:
            victim.is_wanted = True


@contextmanager
def _again(do: Callable[[], object], every_s: float) -> Iterator[None]:
    """Something that is done again and again."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            do()
            stop.wait(every_s)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)


@contextmanager
def _killed_again(arena: Arena) -> Iterator[None]:
    with _again(lambda: _victim(arena).send(SIGKILL), 8.0):
        yield


@contextmanager
def _stopped(arena: Arena) -> Iterator[None]:
    _victim(arena).send(SIGSTOP)
    try:
        yield
    finally:
        _victim(arena).send(SIGCONT)


@contextmanager
def _repeated(kind: str, arena: Arena) -> Iterator[None]:
    """What the chaos suite does in moments, again and again."""
    rng = np.random.default_rng(1)

    def inject() -> None:
        try:
            KINDS[kind].inject(arena, rng)
        except NotInjectedError:
            time.sleep(0.5)

    with _again(inject, AGAIN_S):
        yield


@contextmanager
def _dead(services: Callable[[Arena], list[Service]], arena: Arena) -> Iterator[None]:
    for service in services(arena):
        service.kill()
    try:
        yield
    finally:
        for service in services(arena):
            service.start()


@contextmanager
def _frozen(services: Callable[[Arena], list[Service]], arena: Arena) -> Iterator[None]:
    for service in services(arena):
        service.pause()
    try:
        yield
    finally:
        for service in services(arena):
            service.resume()


@contextmanager
def _network(which: str, how: str, arena: Arena) -> Iterator[None]:
    proxy, name = arena.services.proxy, _victim(arena).name
    brokers = [f"{name}.kafka.{n}" for n in range(len(arena.services.cluster.nodes))]
    links = brokers if which == "kafka" else [f"{name}.redis"]
    for link in links:
        if how == "delay":
            proxy.delay(link, DELAY_S)
        else:
            proxy.cut(link)
    try:
        yield
    finally:
        for link in links:
            proxy.heal(link)


@contextmanager
def _flushed(arena: Arena) -> Iterator[None]:
    with redis.Redis.from_url(arena.services.redis.address, socket_timeout=5.0) as client:
        client.flushall()
    yield


@contextmanager
def _clock(arena: Arena) -> Iterator[None]:
    _victim(arena).step_clock(CLOCK_BY_S)
    try:
        yield
    finally:
        _victim(arena).step_clock(0.0)


@contextmanager
def _poison(arena: Arena) -> Iterator[None]:
    arena.feed.flood_share = POISON_SHARE
    try:
        yield
    finally:
        arena.feed.flood_share = 0.0


def _redis(arena: Arena) -> list[Service]:
    return [arena.services.redis]


def _one_broker(arena: Arena) -> list[Service]:
    return [arena.services.cluster.nodes[0]]


def _all_brokers(arena: Arena) -> list[Service]:
    return list(arena.services.cluster.nodes)


HELD: dict[str, Fault] = {
    "kill": Fault(what="one of two workers killed, and not started again", begin=lambda a: _killed(a, 1)),
    "pause": Fault(what="one of two workers stopped (SIGSTOP)", begin=_stopped),
    "redis-kill": Fault(what="Redis killed", begin=partial(_dead, _redis)),
    "redis-freeze": Fault(what="Redis does not answer (SIGSTOP)", begin=partial(_frozen, _redis)),
    "redis-cut": Fault(
        what="the network between one worker and Redis cut", begin=partial(_network, "redis", "cut")
    ),
    "redis-slow": Fault(
        what=f"each chunk between one worker and Redis {DELAY_S * 1000:g} ms late",
        begin=partial(_network, "redis", "delay"),
    ),
    "flush": Fault(what="FLUSHALL, once", begin=_flushed),
    "broker-kill": Fault(what="one of three brokers killed", begin=partial(_dead, _one_broker)),
    "broker-freeze": Fault(what="one of three brokers stopped", begin=partial(_frozen, _one_broker)),
    "broker-cut": Fault(
        what="the network between one worker and all brokers cut", begin=partial(_network, "kafka", "cut")
    ),
    "broker-slow": Fault(
        what=f"each chunk between one worker and all brokers {DELAY_S * 1000:g} ms late",
        begin=partial(_network, "kafka", "delay"),
    ),
    "clock": Fault(what="one worker's clock an hour ahead", begin=_clock),
    "poison": Fault(what=f"{POISON_SHARE:.0%} of the records damaged", begin=_poison),
    "leader-change": Fault(
        what="brokers stopped in good order and started again, one after another",
        begin=partial(_repeated, "leader-change"),
    ),
    "handover": Fault(
        what="a former owner writes during the new one's replay, again and again",
        begin=partial(_repeated, "handover"),
    ),
    "rebalance": Fault(
        what="workers killed or stopped in rebalances, again and again", begin=partial(_repeated, "rebalance")
    ),
    "storm": Fault(
        what="strangers join the group and leave, again and again", begin=partial(_repeated, "storm")
    ),
    "kill-again": Fault(
        what="one worker killed every 8 s, and started again", begin=_killed_again, is_of_chaos=False
    ),
    "kafka-freeze": Fault(
        what="all brokers stopped", begin=partial(_frozen, _all_brokers), is_of_chaos=False
    ),
    "kill-all": Fault(what="all workers killed", begin=lambda a: _killed(a, 2), is_of_chaos=False),
}
