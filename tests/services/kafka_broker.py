"""One Apache Kafka node in KRaft mode, small enough for a laptop."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.services.kafka_jars import MIN_JAVA, jars, java_major
from tests.services.processes import Service, Unavailable, first_that_starts, free_port, new_directory

READY_WITHIN_S = 120.0
CLUSTER_ID = "cGVuc3RvY2stdGVzdHMtMQ"  # 16 bytes in base64; any fixed one will do

CONFIG = "server.properties"

SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "num.partitions": "1",
    # One node: every internal topic has one copy, and few partitions start fast.
    "default.replication.factor": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    # Replays carry event times of years ago; the default of seven days would delete them at once.
    "log.retention.ms": "-1",
    # Groups settle and members expire within the patience of a test.
    "group.initial.rebalance.delay.ms": "100",
    "group.min.session.timeout.ms": "1000",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.min.heartbeat.interval.ms": "100",
    "group.consumer.heartbeat.interval.ms": "500",
    # A machine that stands still for longer than this has no broker afterwards. After a crash the
    # broker is let in again only when its old session has ended.
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "9000",
    # A transaction past its timeout is aborted within this (default 10 s).
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "log.cleaner.dedupe.buffer.size": "8388608",  # default 128 MiB, a quarter of the heap below
}

JVM = ["-Xms256m", "-Xmx512m", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-Dlog4j2.level=WARN"]


def start_broker(
    settings: dict[str, str] | None = None,
    *,
    listeners: Mapping[str, int] | None = None,
    jvm: Sequence[str] = (),
) -> Service:
    """Start one broker from Kafka's jars on free loopback ports; `close` it, or use it as a context.

    Args:
        settings: server properties over the defaults above.
        listeners: further listeners by name with their loopback ports; `settings` must say the protocols.
        jvm: further options of the Java machine, such as system properties.

    Raises:
        Unavailable: no Java 17, no jars, or the broker did not come up.
    """
    java = shutil.which("java")
    if java is None or java_major() < MIN_JAVA:
        raise Unavailable(f"Java {MIN_JAVA} or newer is not installed (found {java_major() or 'none'})")
    command = [java, *JVM, *jvm, "-cp", f"{jars()}/*"]
    return first_that_starts(
        lambda: _service(command, settings or {}, listeners or {}),
        prepare=lambda service: _format_storage(command, service),
    )


def is_answering(bootstrap: str, timeout_s: float = 1.0) -> bool:
    """Say whether a broker answers with metadata at this address."""
    # Without a logger the client writes each refused connection to stderr while the broker starts.
    client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, "log.connection.close": False})
    try:
        return bool(client.list_topics(timeout=timeout_s).brokers)
    except KafkaException:
        return False


def server_properties(
    *, port: int, controller_port: int, host: str, settings: dict[str, str]
) -> dict[str, str]:
    """Return the whole configuration of a node whose clients reach it at 127.0.0.1:port."""
    return {
        **SETTINGS,
        "listeners": f"PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller_port}",
        **settings,
    }


def _service(java: list[str], settings: dict[str, str], listeners: Mapping[str, int]) -> Service:
    directory = new_directory("kafka")
    port = free_port()
    properties = server_properties(
        port=port, controller_port=free_port(), host="127.0.0.1", settings=settings
    ) | {"log.dirs": str(directory / "data")}
    for name, further_port in listeners.items():
        for key in ("listeners", "advertised.listeners"):
            properties[key] += f",{name}://127.0.0.1:{further_port}"
    config = directory / CONFIG
    config.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
    return Service(
        name="Kafka",
        address=f"127.0.0.1:{port}",
        directory=directory,
        command=[*java, "kafka.Kafka", str(config)],
        is_ready=lambda: is_answering(f"127.0.0.1:{port}"),
        ready_within_s=READY_WITHIN_S,
    )


def _format_storage(java: list[str], service: Service) -> None:
    config = service.directory / CONFIG
    done = subprocess.run(
        [
            *java,
            "-XX:TieredStopAtLevel=1",
            "kafka.tools.StorageTool",
            "format",
            "--standalone",
            "-t",
            CLUSTER_ID,
            "-c",
            str(config),
        ],
        capture_output=True,
        text=True,
        cwd=service.directory,
        timeout=READY_WITHIN_S,
        check=False,
    )
    if done.returncode != 0:
        said = (done.stderr + done.stdout).strip().splitlines()
        why = next((line for line in said if "Exception" in line), " | ".join(said[-3:]))
        raise Unavailable(f"Kafka's storage could not be formatted: {why[:300]}")
