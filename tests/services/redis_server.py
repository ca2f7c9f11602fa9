"""One Redis server of the system's package, without persistence unless asked for."""

from __future__ import annotations

import shutil
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.services.processes import Service, Unavailable, first_that_starts, free_port, new_directory

READY_WITHIN_S = 15.0


def start_redis(*arguments: str) -> Service:
    """Start one redis-server on a free loopback port; `close` it, or use it as a context.

    Args:
        arguments: further command line settings, such as "--appendonly", "yes".

    Raises:
        Unavailable: redis-server is not installed or did not come up.
    """
    server = shutil.which("redis-server")
    if server is None:
        raise Unavailable("redis-server is not installed")
    return first_that_starts(lambda: _service(server, arguments))


def tls_arguments(folder: Path, port: int, *, asks_clients: bool = False) -> tuple[str, ...]:
    """Settings for TLS on this port, with the ca.pem, server.pem and server.key of a folder."""
    return (
        *("--tls-port", str(port), "--tls-ca-cert-file", str(folder / "ca.pem")),
        *("--tls-cert-file", str(folder / "server.pem"), "--tls-key-file", str(folder / "server.key")),
        *("--tls-auth-clients", "yes" if asks_clients else "no"),
    )


def is_answering(url: str) -> bool:
    """Say whether a Redis answers a ping at this address."""
    try:
        once = Retry(NoBackoff(), 0)  # the default retries ten times, for seconds
        with redis.Redis.from_url(url, socket_timeout=1.0, socket_connect_timeout=1.0, retry=once) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def _service(server: str, arguments: tuple[str, ...]) -> Service:
    port = free_port()
    directory = new_directory("redis")
    url = f"redis://127.0.0.1:{port}/0"
    settings = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
    return Service(
        name="Redis",
        address=url,
        directory=directory,
        command=[server, *settings, "--save", "", "--appendonly", "no", *arguments],
        is_ready=lambda: is_answering(url),
        ready_within_s=READY_WITHIN_S,
    )
