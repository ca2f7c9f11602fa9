"""The services that the other tests stand on: real ones, and gone when they should be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.services import Service, Unavailable, start_broker, start_redis
from tests.services.redis_server import is_answering

WAIT_S = 30.0


def _until(is_so: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + WAIT_S
    while not is_so():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.kafka
def test_a_committed_transaction_is_read_and_an_aborted_one_is_not(
    kafka_bootstrap: str, make_topics: Callable[[str, int], str], unique_name: str
) -> None:
    topic = make_topics("out", 1)
    producer = Producer({"bootstrap.servers": kafka_bootstrap, "transactional.id": unique_name})
    producer.init_transactions(WAIT_S)
    for value, end in (
        (b"aborted", producer.abort_transaction),
        (b"committed", producer.commit_transaction),
    ):
        producer.begin_transaction()
        producer.produce(topic, value)
        producer.flush(WAIT_S)
        end(WAIT_S)

    consumer = Consumer(
        {"bootstrap.servers": kafka_bootstrap, "group.id": unique_name, "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([topic])
    message = consumer.poll(WAIT_S)
    consumer.close()

    assert message is not None
    assert message.value() == b"committed"


@pytest.mark.redis
def test_a_redis_that_was_killed_comes_back_at_the_same_address_with_what_it_had_synced(
    own_redis: Service,
) -> None:
    # own_redis proves that one can be had here; this test wants one that writes to disk.
    with (
        start_redis("--appendonly", "yes", "--appendfsync", "always") as service,
        redis.Redis.from_url(service.address) as client,
    ):
        client.set("kept", "1")
        service.kill()
        assert not is_answering(service.address)

        service.start()

        assert client.get("kept") == b"1"
        assert own_redis.pid != service.pid
    assert not service.directory.exists()


@pytest.mark.redis
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_when_the_process_that_started_a_service_ends(
    own_redis: Service, ending: signal.Signals
) -> None:
    # A job in the background ignores SIGINT, and its children inherit that: ask for the usual handling.
    program = (
        "import signal, time; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from tests.services import start_redis; s = start_redis();"
        "print(s.pid, s.directory, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        line = parent.stdout.readline().split()
        pid, directory = int(line[0]), Path(line[1])
        assert pid != own_redis.pid
        parent.send_signal(ending)
        parent.wait(WAIT_S)

    assert _until(lambda: not _is_running(pid))
    assert _until(lambda: not directory.exists())


@pytest.mark.kafka
def test_a_broker_goes_on_with_its_topics_after_a_crash(own_broker: Service) -> None:
    admin = AdminClient({"bootstrap.servers": own_broker.address, "log_level": 0})
    admin.create_topics([NewTopic("kept", num_partitions=3, replication_factor=1)])["kept"].result(WAIT_S)
    own_broker.kill()

    own_broker.start()

    assert _until(lambda: "kept" in admin.list_topics(timeout=WAIT_S).topics)


@pytest.mark.kafka
def test_a_broker_that_does_not_come_up_says_why(own_broker: Service) -> None:
    assert own_broker.pid  # so that what is missing is not Java
    with pytest.raises(Unavailable, match=r"process\.roles"):
        start_broker({"process.roles": "nothing"})


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A container whose first process reaps nobody keeps the dead as zombies.
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
