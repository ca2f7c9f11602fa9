"""Several processes of one command share the partitions, and end together, on real Kafka."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.workers import RunningWorker, create_topics, start_worker, topics_of
from tests.pipeline.streams import Reader, alone, fill, transactions
from worker.exits import Exit

EVENTS = 4_000
PARTITIONS = 4
WITHIN_S = 180.0  # on a machine that is busy with other tests


def until_logged(worker: RunningWorker, pattern: str, times: int) -> list[str]:
    """Wait until the log has this many matches, and return them."""
    deadline_s = time.monotonic() + WITHIN_S
    while len(found := re.findall(pattern, worker.log.read_text())) < times:
        assert time.monotonic() < deadline_s, worker.tail()
        assert worker.process.poll() is None, worker.tail()
        time.sleep(0.05)
    return found


def pids(worker: RunningWorker) -> list[int]:
    """Of the processes that the parent started."""
    return [int(pid) for pid in until_logged(worker, r'"pid": (\d+), "event": "process starts"', 2)]


def is_gone(pid: int) -> bool:
    """Whether no such process runs any more."""
    return not Path(f"/proc/{pid}").exists()


@pytest.mark.kafka
def test_two_processes_score_every_record_once_and_end_together(
    kafka_bootstrap: str, topic_prefix: str, tmp_path: Path
) -> None:
    create_topics(kafka_bootstrap, topics_of(topic_prefix, PARTITIONS))
    file = alone(
        tmp_path,
        topic_prefix,
        delivery={"worker_id": "w", "mode": "exactly_once"},
        model={"device": "cpu"},
        state={"store": "memory://"},
        kafka={"static_membership": True},
        batching={"latency_slo": "200ms"},
    )
    env = {"PENSTOCK_KAFKA": kafka_bootstrap}
    reader = Reader(kafka_bootstrap, topic_prefix)
    worker = start_worker([file], tmp_path / "worker.log", env, "--processes", "2")
    try:
        until_logged(worker, r'"event": "lane taken"', PARTITIONS)
        members = set(until_logged(worker, r'"process": (\d)[^\n]*"event": "lane taken"', PARTITIONS))
        until_logged(worker, r'"address": ', 2)
        if len(members) < 2:  # the second came later, and got its share then
            until_logged(worker, rf'"process": {1 - int(members.pop())}[^\n]*"event": "lane taken"', 1)
        fill(kafka_bootstrap, f"{topic_prefix}transactions", *transactions(EVENTS))
        found = reader.read_all(EVENTS)
        waits_s = re.findall(r"^penstock_batch_max_wait_seconds\S* (\S+)", worker.metrics(), re.MULTILINE)
        running = pids(worker)
        code = worker.stop()
    finally:
        worker.process.kill()
        reader.close()

    assert len(found.times_seen) == EVENTS
    assert found.doubled == []
    assert 0.0 <= float(waits_s[0]) < 0.2  # seconds, chosen for the objective
    assert code == Exit.OK
    assert all(map(is_gone, running))


@pytest.mark.kafka
def test_a_killed_process_takes_the_others_with_it(
    kafka_bootstrap: str, topic_prefix: str, tmp_path: Path
) -> None:
    create_topics(kafka_bootstrap, topics_of(topic_prefix, PARTITIONS))
    file = alone(tmp_path, topic_prefix, model={"device": "cpu"}, state={"store": "memory://"})
    worker = start_worker(
        [file], tmp_path / "worker.log", {"PENSTOCK_KAFKA": kafka_bootstrap}, "--processes", "2"
    )
    try:
        running = pids(worker)
        until_logged(worker, r'"event": "pipeline starts"', 1)
        os.kill(running[0], signal.SIGKILL)
        code = worker.process.wait(WITHIN_S)
    finally:
        worker.process.kill()

    assert code == 128 + signal.SIGKILL
    assert '"process ended, stopping the others"' in worker.log.read_text()
    assert all(map(is_gone, running))


def test_nothing_is_left_of_a_demo_that_was_killed() -> None:
    command = [sys.executable, "-c", "from worker.cli import entry; entry()", "demo", "--seconds", "300"]
    demo = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline_s = time.monotonic() + WITHIN_S
        while len(beside := children(demo.pid)) < 3:  # two workers, and the console
            assert time.monotonic() < deadline_s
            assert demo.poll() is None
            time.sleep(0.1)
    finally:
        demo.kill()
        demo.wait(WITHIN_S)
    deadline_s = time.monotonic() + WITHIN_S
    while not all(is_gone(pid) or state(pid) == "Z" for pid in beside):
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def children(pid: int) -> list[int]:
    """Of a process and all of its threads."""
    listed = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for each in listed for child in each.read_text().split()]


def state(pid: int) -> str:
    """The letter that proc(5) gives; X where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"
