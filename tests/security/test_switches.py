"""What the admin token allows does what it says to a real worker."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from benchmarks.workers import RunningWorker, create_topics, running, topics_of
from tests.pipeline.streams import Reader, alone, fill, transactions
from worker.exits import Exit

TOKEN = "admin-token-of-a-test-9915"
EVENTS = 400
WAIT_S = 60.0


def ask(worker: RunningWorker, method: str, path: str) -> tuple[int, str]:
    """Status and body, with the token."""
    address = re.search(r'"address": ?"([^"]+)"', worker.log.read_text())
    assert address is not None
    request = urllib.request.Request(address[1] + path, method=method)
    request.add_header("Authorization", f"Bearer {TOKEN}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status), answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def readiness(worker: RunningWorker) -> dict[str, Any]:
    """What /readyz says of the one pipeline."""
    (said,) = json.loads(ask(worker, "GET", "/readyz")[1])["pipelines"]
    return dict(said)


@pytest.mark.kafka
@pytest.mark.redis
def test_a_paused_worker_reads_nothing_keeps_its_partitions_and_goes_on_where_it_was(
    kafka_bootstrap: str, redis_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    create_topics(kafka_bootstrap, topics_of(topic_prefix, 2))
    file = alone(tmp_path, topic_prefix)
    env = {
        "PENSTOCK_KAFKA": kafka_bootstrap,
        "PENSTOCK_STORE": redis_url,
        "PENSTOCK_DEVICE": "cpu",
        "PENSTOCK_ADMIN_TOKEN": TOKEN,
    }
    keys, values = transactions(EVENTS)
    half = EVENTS // 2
    reader = Reader(kafka_bootstrap, topic_prefix)
    with running([[file]], tmp_path, env) as (worker,):
        fill(kafka_bootstrap, f"{topic_prefix}transactions", keys[:half], values[:half])
        reader.read_all(half)

        assert ask(worker, "POST", "/pause?pipeline=no-such")[0] == 400
        assert ask(worker, "POST", "/pause") == (200, "paused: fraud\n")
        give_up_s = time.monotonic() + WAIT_S
        while not (readiness(worker)["paused"] and not readiness(worker)["ready"]):
            assert time.monotonic() < give_up_s
            time.sleep(0.05)
        fill(kafka_bootstrap, f"{topic_prefix}transactions", keys[half:], values[half:])
        for _ in range(10):
            reader.read(0.2)
        while_paused = len(reader.outcomes.times_seen)
        is_alive = readiness(worker)["alive"]

        assert ask(worker, "POST", "/resume?pipeline=fraud") == (200, "running: fraud\n")
        found = reader.read_all(EVENTS)
        is_ready = readiness(worker)["ready"]
        assert ask(worker, "POST", "/loglevel?level=warning")[0] == 200
        assert worker.stop() == Exit.OK
    reader.close()

    assert (while_paused, is_alive, is_ready) == (half, True, True)
    assert len(found.scores) == EVENTS
    assert found.doubled == []
    log = worker.log.read_text()
    assert log.count('"lane taken"') == 2, "one for each partition, and none again"
    assert log.count('"admin changed"') == 3
    assert '"stopping"' not in log, "level warning shows no information any more"
