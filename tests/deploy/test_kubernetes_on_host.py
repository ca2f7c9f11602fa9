"""The containers of the manifests, run on this machine as they say: read-only, without capabilities."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer

from benchmarks.workers import create_topics
from tests.deploy.compose_file import ROOT
from tests.deploy.kubernetes_files import (
    LOGINS,
    Object,
    build,
    container,
    environment,
    lay_out,
    needs_kustomize,
    pods,
)
from tests.services import Service
from tests.services.processes import free_port

pytestmark = [pytest.mark.kafka, pytest.mark.redis, needs_kustomize]
PARTITIONS = 4
WITHIN_S = 240.0  # the first start compiles everything, since it finds an empty cache
PROGRAM = "import sys; from worker.cli import entry; sys.argv[0] = 'penstock'; entry()"
# Everything read-only but the emptyDirs, in a mount namespace of its own; then no capabilities.
SEALED = """
set -eu
mount --make-rprivate /
for folder in "$1" "$2"; do mount -t tmpfs -o mode=1777 none "$folder"; done
shift 2
mount -o remount,bind,ro /
if touch "$HOME/probe" 2>/dev/null; then echo "the root is not read-only" >&2; exit 99; fi
exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""


def _may_seal() -> bool:
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("setpriv") is None:
        return False
    tried = ["unshare", "-m", "sh", "-c", "mount --make-rprivate / && mount -o remount,bind,ro /"]
    return subprocess.run(tried, capture_output=True, timeout=30, check=False).returncode == 0


class Pod:
    """One container's process: its environment and folders as the manifest says, at places of this test."""

    def __init__(self, template: Object, objects: list[Object], folder: Path, given: dict[str, str]) -> None:
        of = container(template)
        places = {mount["mountPath"]: folder / mount["name"] for mount in of["volumeMounts"]}
        for place in places.values():
            place.mkdir(parents=True)
        lay_out(template, objects, folder / "pipeline")
        self.port = free_port()
        self.log = folder / "log"

        def here(text: str) -> str:
            at = next((path for path in places if text == path or text.startswith(f"{path}/")), None)
            return text if at is None else f"{places[at]}{text.removeprefix(at)}"

        said = {name: here(value) for name, value in environment(template, objects).items()}
        outside = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        self._env = {
            **outside,
            **said,
            **given,
            "PENSTOCK_ADMIN_PORT": str(self.port),
            "HOME": str(folder),
            "TMPDIR": str(places["/tmp"]),
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        program, *arguments = map(here, of["command"])
        assert program == "penstock"
        self._command = [sys.executable, "-c", PROGRAM, *arguments]
        if _may_seal():
            writable = [str(places.get("/cache", places["/tmp"])), str(places["/tmp"])]
            self._command = ["unshare", "-m", "sh", "-c", SEALED, "sealed", *writable, *self._command]
        self._probes = {kind: of[f"{kind}Probe"]["httpGet"]["path"] for kind in ("readiness", "liveness")}
        self._grace_s = template["spec"]["terminationGracePeriodSeconds"]

    @contextlib.contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """Its process; killed at the end if it is still there."""
        with self.log.open("wb") as sink:
            process = subprocess.Popen(
                self._command, cwd=self.log.parent, env=self._env, stdout=sink, stderr=sink
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait(30)

    def probe(self, kind: str) -> bool:
        """What the kubelet would find."""
        return self.get(self._probes[kind])[0] == 200

    def get(self, path: str) -> tuple[int, str]:
        """Status and body; 0 when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def backlog_s(self) -> float | None:
        """The age that it serves; None while it is not known."""
        ages = re.findall(r"^penstock_backlog_seconds{.*} (\S+)$", self.get("/metrics")[1], re.MULTILINE)
        return max(map(float, ages)) if ages else None

    def until(self, holds: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
        """Wait until something holds, while the process lives."""
        deadline_s = time.monotonic() + WITHIN_S
        while not holds():
            assert process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline_s, self.log.read_text()[-3000:]
            time.sleep(0.2)

    def leave(self, process: subprocess.Popen[bytes]) -> int:
        """SIGTERM, and its exit code within the grace period."""
        process.send_signal(signal.SIGTERM)
        return process.wait(self._grace_s)


def test_who_waits_wakes_a_worker_which_scores_and_leaves_and_then_nothing_waits(
    own_broker: Service, own_redis: Service, tmp_path: Path
) -> None:
    topics = {"logins": PARTITIONS, "logins.scores": PARTITIONS, "logins.alerts": 1, "logins.dead-letters": 1}
    kafka = own_broker.address
    create_topics(kafka, topics)
    objects = build(LOGINS)
    given = {"PENSTOCK_KAFKA": kafka, "PENSTOCK_STORE": own_redis.address}
    lag = Pod(pods(objects)["logins-lag"], objects, tmp_path / "lag", given)
    worker = Pod(pods(objects)["logins-worker"], objects, tmp_path / "worker", given)

    with lag.running() as lag_process:
        lag.until(lambda: lag.probe("readiness") and lag.backlog_s() == 0.0, lag_process)
        sent = subprocess.run(
            [sys.executable, str(LOGINS / "produce.py")],
            env={**os.environ, "PENSTOCK_KAFKA": kafka},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        lag.until(lambda: (lag.backlog_s() or 0.0) > 0.0, lag_process)  # KEDA starts a worker
        with worker.running() as worker_process:
            worker.until(lambda: worker.probe("readiness"), worker_process)
            assert worker.probe("liveness")
            scores = _scores(kafka, 300)
            lag.until(lambda: lag.backlog_s() == 0.0, lag_process)  # KEDA ends it
            worker_code = worker.leave(worker_process)
        # Its outputs came in transactions, and nobody is left in the group: still nothing waits.
        lag.until(lambda: lag.probe("liveness") and lag.backlog_s() == 0.0, lag_process)
        lag_code = lag.leave(lag_process)

    assert sent == "sent 300 logins\n"
    assert scores == 300
    assert (worker_code, lag_code) == (0, 0)


def _scores(kafka: str, count: int) -> int:
    """Wait for so many scores as their readers see them."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka,
            "group.id": "counts",
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 50,
        }
    )
    consumer.subscribe(["logins.scores"])
    seen, deadline_s = 0, time.monotonic() + WITHIN_S
    while seen < count and time.monotonic() < deadline_s:
        seen += sum(message.error() is None for message in consumer.consume(count, 0.5))
    consumer.close()
    return seen
