"""Where the tests' services come from: the environment, else Docker, else this machine's own programs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from tests.services import docker_engine, kafka_broker, redis_server
from tests.services.processes import Service, Unavailable

KAFKA_VARIABLE = "PENSTOCK_TEST_KAFKA"
REDIS_VARIABLE = "PENSTOCK_TEST_REDIS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Addresses of a real Kafka and a real Redis."""

    kafka_bootstrap: str  # host:port
    redis_url: str  # redis://host:port/0


def kafka_address() -> AbstractContextManager[str]:
    """Give the bootstrap address of a real Kafka; one started for it ends with the context.

    Raises:
        Unavailable: on entering, when none can be had; the message says why.
    """
    return _found(
        KAFKA_VARIABLE,
        lambda address: kafka_broker.is_answering(address, timeout_s=10.0),
        docker_engine.kafka_container,
        # Nobody restarts this one: however long the machine stands still, it is there afterwards.
        lambda: kafka_broker.start_broker({"broker.session.timeout.ms": "60000"}),
    )


def redis_address() -> AbstractContextManager[str]:
    """Give the URL of a real Redis; one started for it ends with the context.

    Raises:
        Unavailable: on entering, when none can be had; the message says why.
    """
    return _found(
        REDIS_VARIABLE,
        redis_server.is_answering,
        docker_engine.redis_container,
        redis_server.start_redis,
    )


@contextlib.contextmanager
def real_services() -> Iterator[Services]:
    """Give both services; those started for it end with the context.

    Raises:
        Unavailable: one of them cannot be had; the message says why.
    """
    with redis_address() as url, kafka_address() as bootstrap:
        yield Services(kafka_bootstrap=bootstrap, redis_url=url)


@contextlib.contextmanager
def _found(
    variable: str,
    is_answering: Callable[[str], bool],
    container: Callable[[], AbstractContextManager[str]],
    start: Callable[[], Service],
) -> Iterator[str]:
    given = os.environ.get(variable)
    if given:
        # An address that was given and is dead is a mistake to report, not a reason to start another.
        if not is_answering(given):
            raise Unavailable(f"nothing answers at {variable}={given}")
        yield given
        return
    with contextlib.ExitStack() as stack:
        address = None
        if docker_engine.is_running():
            # An engine that cannot fetch the image is no reason to go without.
            with contextlib.suppress(Unavailable):
                address = stack.enter_context(container())
        yield address or stack.enter_context(start()).address
