"""Several Apache Kafka nodes in KRaft mode, each to be killed, paused and started again by itself."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

from confluent_kafka.admin import AdminClient

from tests.services.kafka_broker import CLUSTER_ID, CONFIG, READY_WITHIN_S, SETTINGS, is_answering
from tests.services.kafka_jars import MIN_JAVA, jars, java_major
from tests.services.processes import Service, Unavailable, free_port, new_directory

TRIES = 3
WHOLE_WITHIN_S = 90.0
# Three nodes share what one has otherwise. The first compiler alone: a node that is killed every minute
# never earns back what the second one costs.
JVM = [
    "-Xms128m",
    "-Xmx384m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    "-Dlog4j2.level=WARN",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """A further listener of one node: where it listens, and the port that it tells clients to come to."""

    port: int
    advertised_port: int  # of a proxy that leads to `port`


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Running nodes; close it, or use it as a context."""

    nodes: tuple[Service, ...]

    @property
    def bootstrap(self) -> str:
        """Every node, reached directly."""
        return ",".join(node.address for node in self.nodes)

    def lacks(self) -> str:
        """What keeps it from losing one more node; empty when every copy of every partition is in step."""
        client = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        try:
            found = client.list_topics(timeout=5.0)
        except Exception as error:  # no answer is an answer
            return f"it does not answer: {error}"
        if len(found.brokers) < len(self.nodes):
            return f"of {len(self.nodes)} brokers it has {sorted(found.brokers)}"
        behind = [
            (name, p)
            for name, topic in found.topics.items()
            for p in topic.partitions.values()
            if len(p.isrs) < len(p.replicas)
        ]
        if not behind:
            return ""
        name, first = behind[0]
        return f"{len(behind)} partitions are behind, {name}-{first.id} has {first.isrs} of {first.replicas}"

    def make_whole(self, within_s: float = WHOLE_WITHIN_S) -> None:
        """Wait until it lacks nothing; nodes that do not get there by themselves are started again.

        Raises:
            Unavailable: that did not help either.
        """
        for may_restart in (True, False):
            give_up_s = time.monotonic() + within_s
            while lacks := self.lacks():
                if time.monotonic() > give_up_s:
                    break
                time.sleep(0.3)
            if not lacks:
                return
            if may_restart:
                for node in self.nodes:
                    node.kill()
                    node.start()
        raise Unavailable(f"the cluster is not whole after {2 * within_s:g} s: {lacks}")

    def close(self) -> None:
        """Stop every node at once and remove their directories."""
        for node in self.nodes:
            node.kill()  # three that stop in good order would wait for one another
            node.close()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def start_cluster(
    count: int = 3,
    *,
    doors: Mapping[str, Sequence[Door]] | None = None,
    settings: Mapping[str, str] | None = None,
) -> Cluster:
    """Start nodes that are broker and controller at once.

    Every topic has `count` copies unless it asks for fewer, and a write counts once two have it.

    Args:
        count: how many nodes.
        doors: further listeners by name (capital letters and digits), one for each node.
        settings: server properties over the defaults.

    Raises:
        Unavailable: no Java 17, no jars, or the nodes did not come up.
    """
    java = shutil.which("java")
    if java is None or java_major() < MIN_JAVA:
        raise Unavailable(f"Java {MIN_JAVA} or newer is not installed (found {java_major() or 'none'})")
    command = [java, *JVM, "-cp", f"{jars()}/*"]
    for left in reversed(range(TRIES)):
        cluster = Cluster(nodes=_services(command, count, doors or {}, settings or {}))
        try:
            with ThreadPoolExecutor(count) as pool:  # none answers before most of them run
                list(pool.map(lambda node: _format(command, node), cluster.nodes))
                list(pool.map(Service.start, cluster.nodes))
        except BaseException as error:
            cluster.close()
            if left == 0 or not isinstance(error, Unavailable):
                raise
        else:
            return cluster
    raise AssertionError("TRIES must be at least 1")


def _services(
    java: list[str], count: int, doors: Mapping[str, Sequence[Door]], settings: Mapping[str, str]
) -> tuple[Service, ...]:
    ports = [free_port() for _ in range(count)]
    controllers = [free_port() for _ in range(count)]
    voters = ",".join(f"{i + 1}@127.0.0.1:{port}" for i, port in enumerate(controllers))
    copies, enough = str(count), str(min(2, count))
    services = []
    for i, port in enumerate(ports):
        inside = {"PLAINTEXT": (port, port), "CONTROLLER": (controllers[i], controllers[i])}
        outside = {name: (of[i].port, of[i].advertised_port) for name, of in doors.items()}
        listeners = {**inside, **outside}
        directory = new_directory(f"kafka-{i + 1}")
        properties = {
            **SETTINGS,
            "broker.session.timeout.ms": "3000",  # leaders move soon
            "node.id": str(i + 1),
            "listeners": ",".join(f"{name}://127.0.0.1:{at}" for name, (at, _) in listeners.items()),
            "advertised.listeners": ",".join(
                f"{name}://127.0.0.1:{said}" for name, (_, said) in listeners.items()
            ),
            "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in listeners),
            "inter.broker.listener.name": "PLAINTEXT",
            "controller.quorum.voters": voters,
            "default.replication.factor": copies,
            "min.insync.replicas": enough,
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": enough,
            "share.coordinator.state.topic.replication.factor": copies,
            "share.coordinator.state.topic.min.isr": enough,
            "num.network.threads": "1",  # for each listener
            "num.io.threads": "2",
            "log.dirs": str(directory / "data"),
            **settings,
        }
        config = directory / CONFIG
        config.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        address = f"127.0.0.1:{port}"
        services.append(
            Service(
                name=f"Kafka node {i + 1}",
                address=address,
                directory=directory,
                command=[*java, "kafka.Kafka", str(config)],
                is_ready=lambda address=address: is_answering(address),  # type: ignore[misc]
                ready_within_s=2 * READY_WITHIN_S,  # three start on the cores of one
            )
        )
    return tuple(services)


def _format(java: list[str], node: Service) -> None:
    tool = ["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(node.directory / CONFIG)]
    done = subprocess.run(
        [*java, *tool],
        capture_output=True,
        text=True,
        cwd=node.directory,
        timeout=READY_WITHIN_S,
        check=False,
    )
    if done.returncode != 0:
        said = (done.stderr + done.stdout).strip().splitlines()
        raise Unavailable(f"{node.name}'s storage could not be formatted: {' | '.join(said[-3:])[:300]}")
