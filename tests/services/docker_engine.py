"""The same two services as containers, where a Docker engine runs."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator

from tests.services import kafka_broker, redis_server
from tests.services.kafka_jars import kafka_version
from tests.services.processes import Sweeper, Unavailable, free_port

REDIS_IMAGE = "redis:8.2-alpine"
INFO_TIMEOUT_S = 5
PULL_TIMEOUT_S = 600
READY_WITHIN_S = 90


def is_running() -> bool:
    """Say whether a Docker engine answers within a few seconds."""
    docker = shutil.which("docker")
    if docker is None:
        return False
    try:
        done = subprocess.run([docker, "info"], capture_output=True, timeout=INFO_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


@contextlib.contextmanager
def kafka_container() -> Iterator[str]:
    """Give the bootstrap address of a fresh broker in a container.

    Raises:
        Unavailable: the image could not be had or the broker did not come up.
    """
    port, controller_port = free_port(), free_port()
    properties = kafka_broker.server_properties(
        port=port, controller_port=controller_port, host="0.0.0.0", settings={}
    )
    # The image formats its storage without --standalone, so the controller is named the older way.
    del properties["controller.quorum.bootstrap.servers"]
    properties["controller.quorum.voters"] = f"1@127.0.0.1:{controller_port}"
    properties["advertised.listeners"] = f"PLAINTEXT://127.0.0.1:{port}"
    # The image reads KAFKA_A_B for the property a.b.
    variables = [f"KAFKA_{key.upper().replace('.', '_')}={value}" for key, value in properties.items()]
    options = [part for variable in variables for part in ("-e", variable)]
    bootstrap = f"127.0.0.1:{port}"
    with _container(
        f"apache/kafka:{kafka_version()}",
        ["-p", f"{bootstrap}:{port}", *options],
        [],
        lambda: kafka_broker.is_answering(bootstrap),
    ):
        yield bootstrap


@contextlib.contextmanager
def redis_container() -> Iterator[str]:
    """Give the URL of a fresh Redis in a container.

    Raises:
        Unavailable: the image could not be had or the server did not come up.
    """
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    with _container(
        REDIS_IMAGE,
        ["-p", f"127.0.0.1:{port}:6379"],
        ["redis-server", "--save", "", "--appendonly", "no"],
        lambda: redis_server.is_answering(url),
    ):
        yield url


@contextlib.contextmanager
def _container(
    image: str, options: list[str], command: list[str], is_ready: Callable[[], bool]
) -> Iterator[None]:
    name = f"penstock-tests-{uuid.uuid4().hex[:12]}"
    sweeper = Sweeper(["docker", "rm", "-f", "-v", name])
    try:
        done = subprocess.run(
            ["docker", "run", "-d", "--name", name, *options, image, *command],
            capture_output=True,
            text=True,
            timeout=PULL_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise Unavailable(f"docker could not run {image}: {done.stderr.strip()[-300:]}")
        deadline_s = time.monotonic() + READY_WITHIN_S
        while not is_ready():
            if time.monotonic() > deadline_s:
                raise Unavailable(f"{image} not ready in {READY_WITHIN_S} s")
            time.sleep(0.2)
        yield
    finally:
        sweeper.sweep()
