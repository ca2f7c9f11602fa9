"""Everything that faults act on: three brokers, a Redis, the network between, workers and their events."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from numpy.typing import NDArray

from tests.chaos.collect import Collector
from tests.chaos.fleet import Fleet, Member
from tests.chaos.outcomes import Outcomes
from tests.chaos.proxy import ROOT, Proxy
from tests.chaos.stream import Feed
from tests.chaos.world import (
    PARTITIONS,
    Topics,
    Variation,
    build_model,
    create,
    delete,
    topics,
    write_pipeline,
)
from tests.services.kafka_cluster import Cluster, Door, start_cluster
from tests.services.processes import Service, free_port
from tests.services.redis_server import start_redis

BROKERS = 3
SLOTS = ("w1", "w2", "w3", "w4")
QUIET_S = 8.0
STUCK_S = 90.0  # no outcome for so long, with everything healed, is a hang
CALM_STUCK_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What outlives a round."""

    cluster: Cluster
    redis: Service
    proxy: Proxy
    kafka: dict[str, str]  # by worker: the brokers as it reaches them, through links of its own
    store: dict[str, str]  # by worker: Redis as it reaches it
    admin: dict[str, int]  # by worker: the port of its metrics
    folder: Path


@dataclass(slots=True, kw_only=True)
class Outage:
    """A time in which a lane had events waiting and no outcome came."""

    lane: int
    from_s: float
    until_s: float

    @property
    def length_s(self) -> float:
        """How long."""
        return self.until_s - self.from_s


@dataclass(slots=True, kw_only=True)
class Arena:
    """One round: fresh topics and a fresh group."""

    services: Services
    mode: str
    protocol: str  # of the group
    named: Topics
    fleet: Fleet
    feed: Feed
    collector: Collector
    broker_lock: threading.Lock = field(default_factory=threading.Lock)  # one broker fails at a time
    redis_lock: threading.Lock = field(default_factory=threading.Lock)
    outages: list[Outage] = field(default_factory=list)
    _waiting_since: dict[int, float] = field(default_factory=dict)
    _watch_stop: threading.Event = field(default_factory=threading.Event)

    @property
    def outcomes(self) -> Outcomes:
        """What came out so far."""
        return self.collector.outcomes

    @property
    def backlog(self) -> int:
        """Events that are in the topic and have no outcome yet."""
        return int(self.feed.acknowledged.sum()) - self.outcomes.done

    def begin_watch(self) -> None:
        """Note outages from now until the round ends."""
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        done = [0] * PARTITIONS
        while not self._watch_stop.wait(0.05):
            now_s = time.monotonic()
            for lane, kept in enumerate(self.outcomes.lanes):
                count, waits = kept.done, self.feed.acknowledged[lane] > kept.done
                since = self._waiting_since.get(lane)
                if count > done[lane] or not waits:
                    if since is not None and now_s - since > 0.5:
                        self.outages.append(Outage(lane=lane, from_s=since, until_s=now_s))
                    self._waiting_since.pop(lane, None)
                if waits:
                    self._waiting_since.setdefault(lane, now_s)
                done[lane] = count

    def members(self) -> str:
        """Who is in the group, as the broker sees it, and which lanes each has or is to get."""
        admin = AdminClient({"bootstrap.servers": self.services.cluster.bootstrap})
        (answer,) = admin.describe_consumer_groups([self.named.group], request_timeout=30).values()
        found = answer.result(35)
        lines = [f"group {found.state.name}"]
        for member in found.members:
            has, will = (
                sorted(tp.partition for tp in each.topic_partitions) if each else None
                for each in (member.assignment, getattr(member, "target_assignment", None))
            )
            lines.append(f"member {member.member_id} {member.client_id}: has {has}, is to get {will}")
        return "\n".join(lines)

    def drain(self) -> None:
        """Wait until every event has an outcome, or is committed without one.

        Raises:
            RuntimeError: nothing moves any more.
        """
        done, moved_s = -1, time.monotonic()
        while self.backlog > 0:
            self.collector.check()
            if self.outcomes.done > done:
                done, moved_s = self.outcomes.done, time.monotonic()
            if time.monotonic() - moved_s > QUIET_S and (self.committed() >= self.feed.acknowledged).all():
                return  # what has no outcome now is lost
            if time.monotonic() - moved_s > STUCK_S:
                tails = "\n".join(f"--- {m.name}\n{m.tail()}" for m in self.fleet.members if m.started)
                lanes = [
                    f"lane {i}: {lane.done} of {self.feed.acknowledged[i]}"
                    for i, lane in enumerate(self.outcomes.lanes)
                ]
                raise RuntimeError(f"stuck for {STUCK_S:g} s: {', '.join(lanes)}\n{self.members()}\n{tails}")
            time.sleep(0.1)

    def committed(self) -> NDArray[np.int64]:
        """Next offset of the group in each lane; -1 where nothing is committed or nobody answers."""
        bootstrap = self.services.cluster.bootstrap
        client = Consumer({"bootstrap.servers": bootstrap, "group.id": self.named.group, "log_level": 0})
        try:
            asked = [TopicPartition(self.named.events, p) for p in range(PARTITIONS)]
            return np.array([max(-1, p.offset) for p in client.committed(asked, timeout=10.0)], np.int64)
        except KafkaException:
            return np.full(PARTITIONS, -1, np.int64)
        finally:
            client.close()

    def close(self) -> None:
        """Let go of threads and connections; workers still there are killed."""
        self._watch_stop.set()
        self.fleet.leave()
        self.collector.close()


@contextmanager
def services() -> Iterator[Services]:
    """Start brokers, Redis and the proxy; all end with the context, only the folder of the logs stays."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="penstock-chaos-"))
        build_model(folder)
        doors = {
            slot.upper(): [Door(port=free_port(), advertised_port=free_port()) for _ in range(BROKERS)]
            for slot in SLOTS
        }
        redis = stack.enter_context(start_redis())
        redis_port = int(redis.address.rpartition(":")[2].partition("/")[0])
        redis_doors = {slot: free_port() for slot in SLOTS}
        links = {
            f"{slot}.kafka.{n}": (door.advertised_port, door.port)
            for slot in SLOTS
            for n, door in enumerate(doors[slot.upper()])
        } | {f"{slot}.redis": (redis_doors[slot], redis_port) for slot in SLOTS}
        proxy = stack.enter_context(Proxy(links))
        cluster = stack.enter_context(start_cluster(BROKERS, doors=doors))
        yield Services(
            cluster=cluster,
            redis=redis,
            proxy=proxy,
            kafka={
                slot: ",".join(f"127.0.0.1:{door.advertised_port}" for door in doors[slot.upper()])
                for slot in SLOTS
            },
            store={slot: f"redis://127.0.0.1:{redis_doors[slot]}/0" for slot in SLOTS},
            admin={slot: free_port() for slot in SLOTS},
            folder=folder,
        )


@contextmanager
def arena(
    running: Services,
    name: str,
    *,
    mode: str,
    seed: int,
    plant: str | None = None,
    variation: Variation = Variation(),  # noqa: B008 it is frozen
) -> Iterator[Arena]:
    """Fresh topics, a pipeline file, members not yet started, a feed not yet started, and the collector."""
    folder = running.folder / name
    folder.mkdir()
    (folder / "tiny").symlink_to(running.folder / "tiny")
    named = topics(f"{name}.", "chaos")
    bootstrap = running.cluster.bootstrap
    create(
        bootstrap,
        {named.events: PARTITIONS, **named.partitions},
        BROKERS,
    )
    file = write_pipeline(folder / "chaos.yaml", named, mode, variation.sections)
    members = [
        Member(
            slot,
            file,
            folder / f"{slot}.log",
            {
                "CHAOS_KAFKA": running.kafka[slot],
                "CHAOS_STORE": running.store[slot],
                "CHAOS_WORKER": slot,
                "CHAOS_ADMIN": str(running.admin[slot]),
            },
            plant,
        )
        for slot in SLOTS
    ]
    made = Arena(
        services=running,
        mode=mode,
        protocol=variation.protocol,
        named=named,
        fleet=Fleet(members),
        feed=Feed(bootstrap, named.events, PARTITIONS, seed=seed),
        collector=Collector(bootstrap, named),
    )
    try:
        yield made
    finally:
        made.close()


def undisturbed(made: Arena) -> Outcomes:
    """What one worker that nobody disturbs gives for the same log: its own group, outputs and state."""
    running = made.services
    bootstrap = running.cluster.bootstrap
    named = topics(made.named.events.removesuffix("events"), "calm")
    create(bootstrap, named.partitions, 1)
    folder = running.folder / named.group
    folder.mkdir()
    (folder / "tiny").symlink_to(running.folder / "tiny")
    file = write_pipeline(
        folder / "calm.yaml",
        named,
        "at_least_once",
        {
            "batching": {"max_rows": 4096, "max_wait": "20ms", "eager": False},
            "delivery": {"commit_interval": "1s"},
            "state": {"hot_rows": 30_000, "write_interval": "1h"},
        },
    )
    log = folder / "calm.log"
    events = int(made.feed.acknowledged.sum())
    collector = Collector(bootstrap, named)
    expected = collector.outcomes
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.cli", "run", str(file)],
            cwd=ROOT,
            env={**os.environ, "CHAOS_KAFKA": bootstrap, "CHAOS_STORE": "memory://", "CHAOS_WORKER": "calm"},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
        )
    try:
        done, moved_s = -1, time.monotonic()
        while expected.done < events:
            collector.check()
            if expected.done > done:
                done, moved_s = expected.done, time.monotonic()
            if process.poll() is not None or time.monotonic() - moved_s > CALM_STUCK_S:
                raise RuntimeError(
                    f"the undisturbed worker stands at {done} of {events} (exit {process.poll()}):\n"
                    + "\n".join(log.read_text(errors="replace").splitlines()[-12:])
                )
            time.sleep(0.1)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        collector.close()
    return expected


def ends(made: Arena) -> NDArray[np.int64]:
    """Next offset of each input partition, as the brokers say it."""
    client = Consumer({"bootstrap.servers": made.services.cluster.bootstrap, "group.id": "ends"})
    try:
        found = [
            client.get_watermark_offsets(TopicPartition(made.named.events, p), timeout=30)[1]
            for p in range(PARTITIONS)
        ]
    finally:
        client.close()
    return np.array(found, np.int64)


def forget(made: Arena) -> None:
    """Remove the topics and rows of a round that is over."""
    calm = topics(made.named.events.removesuffix("events"), "calm")
    names = [made.named.events, *made.named.outputs.values(), *calm.outputs.values()]
    delete(made.services.cluster.bootstrap, names)
