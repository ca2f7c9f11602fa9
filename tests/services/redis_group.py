"""Several Redis servers that belong together: a cluster, or a master and its replica under a Sentinel."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import redis

from tests.services.processes import POLL_S, Service, Unavailable, first_that_starts, free_port, new_directory
from tests.services.redis_server import is_answering, start_redis, tls_arguments

AGREE_WITHIN_S = 30.0
SLOTS = 16384


@dataclass(slots=True, kw_only=True)
class RedisGroup:
    """Servers in the order they were started, and what clients are given."""

    address: str
    servers: list[Service]
    stack: ExitStack = field(repr=False)

    def close(self) -> None:
        """Stop all of them; calling it again does nothing."""
        self.stack.close()

    def __enter__(self) -> RedisGroup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def start_cluster(
    masters: int = 3, *, replicas: bool = False, each: Sequence[tuple[str, ...]] = ()
) -> RedisGroup:
    """Start a cluster; with replicas, server number masters + i is the replica of server number i.

    Args:
        each: further settings of each server.

    Raises:
        Unavailable: redis-server is not installed, or the nodes did not agree in time.
    """
    with ExitStack() as stack:
        servers = [
            stack.enter_context(_cluster_node(each[number] if each else ()))
            for number in range(2 * masters if replicas else masters)
        ]
        clients = [stack.enter_context(redis.Redis.from_url(server.address)) for server in servers]
        for number, client in enumerate(clients[:masters]):
            first, end = SLOTS * number // masters, SLOTS * (number + 1) // masters
            client.execute_command("CLUSTER ADDSLOTSRANGE", first, end - 1)
        for other in servers[1:]:
            host, port = host_and_port(other)
            bus = int(redis_setting(other, "cluster-port"))
            clients[0].execute_command("CLUSTER MEET", host, port, bus)
        until(
            lambda: all(_agrees(client, len(servers)) for client in clients), "the cluster's nodes to agree"
        )
        for number, client in enumerate(clients[masters:]):
            client.execute_command("CLUSTER REPLICATE", clients[number].execute_command("CLUSTER MYID"))
        until(
            lambda: (
                all(client.info("replication")["connected_slaves"] == 1 for client in clients[:masters])
                if replicas
                else True
            ),
            "the replicas to follow",
        )
        hosts = ",".join("{}:{}".format(*host_and_port(server)) for server in servers[:masters])
        return RedisGroup(address=f"redis+cluster://{hosts}", servers=servers, stack=stack.pop_all())


def start_sentinel(
    name: str = "mymaster", down_after_ms: int = 1000, *, folder: Path | None = None
) -> RedisGroup:
    """Start a master, its replica and a Sentinel that promotes the replica, in this order.

    Args:
        folder: certificates for TLS (see `tls_arguments`); the servers' own addresses stay plain.

    Raises:
        Unavailable: redis-server is not installed, or they did not find each other in time.
    """
    with ExitStack() as stack:
        master = stack.enter_context(start_redis("--repl-diskless-sync-delay", "0", *_tls(folder)))
        host, port = host_and_port(master)
        if folder is not None:
            port = int(redis_setting(master, "tls-port"))
        replica = stack.enter_context(start_redis(*_tls(folder), "--replicaof", host, str(port)))
        sentinel = stack.enter_context(_sentinel(name, host, port, down_after_ms, _tls(folder)))
        with redis.Redis.from_url(sentinel.address) as client:
            until(lambda: client.sentinel_master(name)["num-slaves"] == 1, "the Sentinel to see the replica")
        with redis.Redis.from_url(replica.address) as client:
            until(lambda: client.info("replication")["master_link_status"] == "up", "the replica to follow")
        host, port = host_and_port(sentinel)
        if folder is not None:
            port = sentinel_tls_port(sentinel)
        scheme = "redis" if folder is None else "rediss"
        return RedisGroup(
            address=f"{scheme}+sentinel://{host}:{port}/{name}/0",
            servers=[master, replica, sentinel],
            stack=stack.pop_all(),
        )


def host_and_port(service: Service) -> tuple[str, int]:
    """Where a server of a group listens."""
    host, _, port = service.address.removeprefix("redis://").partition("/")[0].partition(":")
    return host, int(port)


def redis_setting(service: Service, name: str) -> str:
    """One value of a server's configuration."""
    with redis.Redis.from_url(service.address, decode_responses=True) as client:
        return str(client.config_get(name)[name])


def until(happens: Callable[[], bool], what: str, within_s: float = AGREE_WITHIN_S) -> None:
    """Wait for something to become true; an error of the server counts as not yet.

    Raises:
        Unavailable: it did not in time.
    """
    deadline_s = time.monotonic() + within_s
    while True:
        try:
            if happens():
                return
        except redis.RedisError:
            pass
        if time.monotonic() > deadline_s:
            raise Unavailable(f"waited {within_s:.0f} s for {what}")
        time.sleep(POLL_S)


def sentinel_tls_port(service: Service) -> int:
    """The port on which a Sentinel talks TLS."""
    found = re.search(r"--tls-port (\d+)", " ".join(service._command))
    return int(found[1]) if found else 0


def _tls(folder: Path | None) -> tuple[str, ...]:
    return () if folder is None else (*tls_arguments(folder, free_port()), "--tls-replication", "yes")


def _cluster_node(arguments: tuple[str, ...]) -> Service:
    return start_redis(
        *("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--cluster-node-timeout", "1500"),
        *("--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0"),
        *arguments,
    )


def _agrees(client: redis.Redis, nodes: int) -> bool:
    info = client.execute_command("CLUSTER INFO")  # type: ignore[no-untyped-call]
    return bool(info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == nodes)


def _sentinel(name: str, host: str, port: int, down_after_ms: int, arguments: tuple[str, ...]) -> Service:
    server = shutil.which("redis-server")
    if server is None:
        raise Unavailable("redis-server is not installed")

    def make() -> Service:
        own_port, directory = free_port(), new_directory("sentinel")
        url = f"redis://127.0.0.1:{own_port}"
        return Service(
            name="Redis Sentinel",
            address=url,
            directory=directory,
            command=[
                server,
                str(_sentinel_file(directory)),
                "--sentinel",
                "--port",
                str(own_port),
                *arguments,
            ],
            is_ready=lambda: is_answering(url),
            ready_within_s=15.0,
        )

    def configure(service: Service) -> None:
        _sentinel_file(service.directory).write_text(
            f"bind 127.0.0.1\n"
            f"sentinel monitor {name} {host} {port} 1\n"
            f"sentinel down-after-milliseconds {name} {down_after_ms}\n"
            f"sentinel failover-timeout {name} 5000\n"
        )

    return first_that_starts(make, configure)


def _sentinel_file(directory: Path) -> Path:
    return directory / "sentinel.conf"
