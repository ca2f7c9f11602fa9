"""The compose file's own commands, run on this machine against a real Kafka and a real Redis."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from confluent_kafka.cimpl import NewTopic

from tests.deploy.compose_file import ROOT, WORKERS, created_topics, environment, on_host, services
from tests.services import Service
from tests.services.processes import free_port

READY_WITHIN_S = 120.0
STOPS_WITHIN_S = 15.0
PROGRAMS = {"python": [sys.executable], "penstock": [sys.executable, "-m", "worker.cli"]}


@pytest.mark.kafka
@pytest.mark.redis
def test_the_workers_score_what_the_load_generator_sends_and_leave_in_good_order(
    own_broker: Service, own_redis: Service, tmp_path: Path
) -> None:
    admin = AdminClient({"bootstrap.servers": own_broker.address})
    new = [
        NewTopic(topic, num_partitions=partitions, replication_factor=1)
        for topic, (partitions, _) in created_topics().items()
    ]
    for future in admin.create_topics(new).values():
        future.result(30)
    addresses = {"PENSTOCK_KAFKA": own_broker.address, "PENSTOCK_STORE": own_redis.address}
    ports = {name: free_port() for name in WORKERS}

    with contextlib.ExitStack() as stack:
        workers = {
            name: stack.enter_context(
                _running(name, {**addresses, "PENSTOCK_ADMIN_PORT": str(ports[name])}, tmp_path)
            )
            for name in WORKERS
        }
        for name, worker in workers.items():
            _wait_until_ready(name, worker, ports[name], tmp_path)
            healthy = services()[name]["healthcheck"]["test"][1:]
            assert _run(healthy, {"PENSTOCK_ADMIN_PORT": str(ports[name])}).returncode == 0
        command = services()["loadgen"]["command"]
        report = tmp_path / "report.json"
        done = _run([*command, "--seconds", "3", "--report", str(report), "--quiet"], addresses)
        for worker in workers.values():
            worker.send_signal(signal.SIGTERM)
        codes = {name: worker.wait(STOPS_WITHIN_S) for name, worker in workers.items()}

    assert done.returncode == 0, done.stderr
    assert json.loads(report.read_text())["unaccounted"] == 0
    assert codes == dict.fromkeys(WORKERS, 0)
    assert _records(admin, "fraud.scores") > 0
    assert _records(admin, "maintenance.scores") > 0


@contextlib.contextmanager
def _running(name: str, overrides: dict[str, str], logs: Path) -> Iterator[subprocess.Popen[bytes]]:
    program, *arguments = map(on_host, services()[name]["command"])
    with (logs / f"{name}.log").open("wb") as log:
        worker = subprocess.Popen(
            [*PROGRAMS[program], *arguments],
            cwd=ROOT,
            env={**os.environ, **environment(name), **overrides},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield worker
        finally:
            worker.kill()
            worker.wait(STOPS_WITHIN_S)


def _wait_until_ready(name: str, worker: subprocess.Popen[bytes], port: int, logs: Path) -> None:
    deadline_s = time.monotonic() + READY_WITHIN_S
    while True:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5),
        ):
            return
        said = (logs / f"{name}.log").read_text()[-2000:]
        assert worker.poll() is None, f"{name} ended with {worker.returncode}: {said}"
        assert time.monotonic() < deadline_s, f"{name} was not ready in {READY_WITHIN_S} s: {said}"
        time.sleep(0.2)


def _run(command: list[str], overrides: dict[str, str]) -> subprocess.CompletedProcess[str]:
    program, *arguments = command
    return subprocess.run(
        [*PROGRAMS[program], *arguments],
        cwd=ROOT,
        env={**os.environ, **overrides},
        capture_output=True,
        text=True,
        timeout=READY_WITHIN_S,
        check=False,
    )


def _records(admin: AdminClient, topic: str) -> int:
    partitions = [TopicPartition(topic, partition) for partition in range(created_topics()[topic][0])]
    ends = admin.list_offsets({partition: OffsetSpec.latest() for partition in partitions})
    return sum(future.result(30).offset for future in ends.values())
