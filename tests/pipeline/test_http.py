"""A worker that is asked over HTTP all the time publishes what one does that nobody asks."""

from __future__ import annotations

import http.client
import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from benchmarks.workers import create_topics, start_worker, topics_of
from tests.pipeline.streams import (
    PARTITIONS,
    START_MS,
    STREAM_EVENTS,
    STREAM_PARTS,
    Outcomes,
    Reader,
    Stream,
    alone,
    assert_same,
)

WITHIN_S = 60.0


class Asker:
    """Asks for scores of events that never come, as fast as it is answered, until told to stop."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stop = threading.Event()
        self.statuses: list[int] = []
        self.owners: set[bool] = set()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        number = 0
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=WITHIN_S)
        while not self._stop.is_set():
            number += 1
            events = [event(number, customer) for customer in (number % 200, number % 7)]
            try:
                connection.request("POST", "/score", json.dumps(events))
                answer = connection.getresponse()
                said = json.loads(answer.read())
            except OSError:
                break  # the worker is gone
            except http.client.HTTPException:
                break
            self.statuses.append(answer.status)
            for each in said.get("results", ()):
                self.owners.add(each["as_of"]["is_owner"])

    def stop(self) -> None:
        """Ask no more."""
        self._stop.set()
        self.join()

    def join(self) -> None:
        """Wait until it has ended by itself, or was told to."""
        self._thread.join(WITHIN_S)
        assert not self._thread.is_alive()


def event(number: int, customer: int) -> dict[str, Any]:
    return {
        "transaction_id": f"asked-{number}",
        "event_time": START_MS + 41 * 86_400_000 + number,
        "customer_id": f"C{customer}",
        "terminal_id": "T1",
        "amount": 900.0,
    }


@pytest.mark.kafka
@pytest.mark.redis
def test_a_worker_that_is_asked_all_the_time_publishes_what_one_does_that_nobody_asks(
    kafka_bootstrap: str, redis_url: str, topic_prefix: str, tmp_path: Path, expected: Outcomes
) -> None:
    env = {
        "PENSTOCK_KAFKA": kafka_bootstrap,
        "PENSTOCK_STORE": redis_url,
        "PENSTOCK_DELIVERY": "exactly_once",
        "PENSTOCK_DEVICE": "cpu",
    }
    create_topics(kafka_bootstrap, topics_of(topic_prefix, PARTITIONS))
    # Few rows in memory: some that are asked for have to be read from Redis.
    file = alone(
        tmp_path,
        topic_prefix,
        http={"port": 0, "timeout": "30s"},
        state={"hot_rows": 150},
        batching={"max_rows": 64},
    )
    reader = Reader(kafka_bootstrap, topic_prefix)
    stream = Stream(kafka_bootstrap, topic_prefix, reader)
    worker = start_worker([file], tmp_path / "worker.log", env)
    try:
        worker.wait_until_ready()
        at = re.search(r'"at": ?"http://127.0.0.1:(\d+)"', worker.log.read_text())
        assert at is not None
        asker = Asker(int(at[1]))
        for _ in range(STREAM_PARTS):
            stream.send()
            found = stream.wait()
        asker.stop()
        assert asker.statuses.count(200) > 20
        assert set(asker.statuses) <= {200, 503}, "503: rows were written while they were read"
        assert True in asker.owners

        last = Asker(int(at[1]))
        while len(last.statuses) < 3:
            assert last._thread.is_alive()
        assert worker.stop(WITHIN_S) == 0
        last.join()
        assert set(last.statuses) <= {200, 503}
    finally:
        if worker.process.poll() is None:
            worker.process.kill()
            worker.process.wait(10)
        reader.close()

    assert_same(found, expected, STREAM_EVENTS)
