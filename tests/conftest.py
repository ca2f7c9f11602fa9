"""Real services for the tests that ask for them by fixture, and a closing line when they cannot be had."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import TypeVar

import pytest
import redis
import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from hypothesis import settings

from benchmarks.workers import create_topics
from tests.services import Service, Unavailable, kafka_address, redis_address, start_broker, start_redis
from tests.services.redis_group import RedisGroup, start_cluster, start_sentinel

# A machine may be slow, and the first example compiles.
settings.register_profile("penstock", deadline=None)
settings.load_profile("penstock")

T = TypeVar("T")
MakeTopics = Callable[[str, int], str]

ADMIN_TIMEOUT_S = 30.0
MISSING = "no real "  # opens every skip reason made here, so that the summary finds them


@pytest.fixture(autouse=True)
def _logs_of_this_test_alone() -> Iterator[None]:
    """A test that sets up logging leaves it bound to its own captured stderr, which is closed afterwards."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def kafka_bootstrap() -> Iterator[str]:
    """Bootstrap address of a real Kafka broker, host:port, kept for the whole session."""
    yield from or_missing("Kafka", kafka_address)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """URL of a real Redis, kept for the whole session."""
    yield from or_missing("Redis", redis_address)


@pytest.fixture
def own_broker() -> Iterator[Service]:
    """A broker of this test alone, to kill, pause and start again; its `address` is the bootstrap."""
    yield from or_missing("Kafka", start_broker)


@pytest.fixture
def own_redis() -> Iterator[Service]:
    """A Redis of this test alone, to kill, pause and start again; its `address` is the URL."""
    yield from or_missing("Redis", start_redis)


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[str]:
    """Address of a Redis Cluster of three masters, kept for the whole session."""
    for group in or_missing("Redis Cluster", start_cluster):
        yield group.address


@pytest.fixture
def own_cluster() -> Iterator[RedisGroup]:
    """A cluster of this test alone: three masters, and then a replica of each."""
    yield from or_missing("Redis Cluster", lambda: start_cluster(replicas=True))


@pytest.fixture
def own_sentinel() -> Iterator[RedisGroup]:
    """A master, its replica and a Sentinel of this test alone, in this order."""
    yield from or_missing("Redis Sentinel", start_sentinel)


@pytest.fixture
def unique_name() -> str:
    """A name no other test has, fit for pipelines, groups and topics: lower case letters and digits."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def topic_prefix(unique_name: str) -> str:
    """What every topic of this test starts with."""
    return f"{unique_name}."


@pytest.fixture
def redis_prefix(redis_url: str, unique_name: str) -> Iterator[str]:
    """A name to use inside this test's Redis keys; keys that contain it are removed at the end."""
    yield unique_name
    with redis.Redis.from_url(redis_url) as client:
        for key in client.scan_iter(match=f"*{unique_name}*", count=1000):
            client.delete(key)


@pytest.fixture
def make_topics(kafka_bootstrap: str, topic_prefix: str) -> Iterator[MakeTopics]:
    """A function (name, partitions) that creates a topic of this test and returns its full name."""
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    made: list[str] = []

    def make(name: str, partitions: int) -> str:
        topic = f"{topic_prefix}{name}"
        create_topics(kafka_bootstrap, {topic: partitions})
        made.append(topic)
        return topic

    yield make
    for future in admin.delete_topics(made).values() if made else ():
        with suppress(KafkaException):  # a test may have killed the broker or deleted the topic itself
            future.result(ADMIN_TIMEOUT_S)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Close with one line for each service that was missing: which, how many tests, why."""
    skipped: dict[str, int] = {}
    for report in terminalreporter.getreports("skipped"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        if MISSING in reason:
            reason = reason[reason.index(MISSING) :]
            skipped[reason] = skipped.get(reason, 0) + 1
    for reason, tests in skipped.items():
        terminalreporter.write_line(
            f"{tests} {'test' if tests == 1 else 'tests'} skipped: {reason}", yellow=True
        )


def or_missing(service: str, begin: Callable[[], AbstractContextManager[T]]) -> Iterator[T]:
    """Give the service for as long as the fixture lives, or skip (in CI: fail) saying why."""
    with ExitStack() as stack:
        try:
            given = stack.enter_context(begin())
        except Unavailable as error:
            reason = f"{MISSING}{service}: {error}"
            if os.environ.get("CI") == "true":
                pytest.fail(f"{reason} (a skip is a failure with CI=true)", pytrace=False)
            pytest.skip(reason)
        yield given
