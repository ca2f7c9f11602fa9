"""Pipelines of their own names on real services, and worker processes that run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

REPOSITORY = Path(__file__).resolve().parents[1]
_READY_S = 180.0  # the first start compiles
_TRIES = 3
_KNOWN_S = 30.0


def create_topics(bootstrap: str, topics: Mapping[str, int]) -> None:
    """Create topics (name to partitions) on a real broker; raises when one cannot be created."""
    new = [NewTopic(name, count, 1) for name, count in topics.items()]
    for left in reversed(range(_TRIES)):
        # A client of its own each time: on a busy machine one was once not answered for half a minute.
        admin = AdminClient({"bootstrap.servers": bootstrap})
        made = admin.create_topics(new)
        try:
            for name, future in made.items():
                _wait_until_made(name, future, is_again=left < _TRIES - 1)
            _wait_until_known(admin, topics)
        except TimeoutError:
            if not left:
                raise
        else:
            return


def _wait_until_known(admin: AdminClient, topics: Mapping[str, int]) -> None:
    """A topic that was just made may be unknown for a moment, or without leaders."""
    deadline_s = time.monotonic() + _KNOWN_S
    while True:
        known = admin.list_topics(timeout=10).topics
        led = {name: [p.leader >= 0 for p in found.partitions.values()] for name, found in known.items()}
        if all(led.get(name) == [True] * count for name, count in topics.items()):
            return
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"not every one of {sorted(topics)} has a leader after {_KNOWN_S:g} s")
        time.sleep(0.05)


def _wait_until_made(name: str, made: Any, *, is_again: bool) -> None:
    try:
        made.result(30)
    except KafkaException as error:
        if not (is_again and error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS):
            raise RuntimeError(f"topic {name!r} could not be created: {error}") from error


def pipeline_file(
    name: str, folder: Path, prefix: str, change: Callable[[dict[str, Any]], None] = lambda _: None
) -> Path:
    """A copy of a shipped pipeline file whose topics and group start with prefix.

    Args:
        change: edits the parsed file before it is written.
    """
    document: dict[str, Any] = yaml.safe_load((REPOSITORY / "pipelines" / f"{name}.yaml").read_text())
    document["kafka"]["group"] = f"{prefix}{name}"
    document["source"]["topic"] = prefix + document["source"]["topic"]
    for output in ("scores", "alerts", "dead_letters"):
        if document["outputs"].get(output):
            document["outputs"][output] = prefix + document["outputs"][output]
    if "model" in document:
        document["model"]["repository"] = str(REPOSITORY / "models")
    change(document)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def topics_of(prefix: str, partitions: int) -> dict[str, int]:
    """Every topic of the shipped pipelines under a prefix."""
    inputs = ("transactions", "labels", "readings")
    outputs = (f"{p}.{o}" for p in ("fraud", "maintenance") for o in ("scores", "alerts", "dead-letters"))
    return {prefix + name: partitions for name in (*inputs, *outputs, "terminal-risk.dead-letters")}


class RunningWorker:
    """A worker process and its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    def address(self) -> str | None:
        """Where its admin pages are; None as long as it has not said so."""
        said = re.search(r'"address": ?"([^"]+)"', self.log.read_text())
        return said[1] if said else None

    def wait_until_ready(self) -> None:
        """Wait for /readyz; RuntimeError with the log's end when the worker ends or takes too long."""
        deadline_s = time.monotonic() + _READY_S
        while time.monotonic() < deadline_s and self.process.poll() is None:
            if (address := self.address()) is not None and _is_ready(address):
                return
            time.sleep(0.1)
        raise RuntimeError(f"worker not ready (exit code {self.process.poll()}):\n{self.tail()}")

    def wait_until_applied(self, events: int, timeout_s: float = 300.0) -> None:
        """Wait until that many events have gone into state; RuntimeError when they do not in time."""
        deadline_s, applied = time.monotonic() + timeout_s, 0.0
        while time.monotonic() < deadline_s:
            counts = re.findall(r"^penstock_events_total\S* (\S+)", self.metrics(), re.MULTILINE)
            applied = sum(map(float, counts))
            if applied >= events:
                return
            time.sleep(0.2)
        raise RuntimeError(f"{applied:g} of {events} events applied:\n{self.tail()}")

    def metrics(self) -> str:
        """What /metrics says now."""
        with urllib.request.urlopen(f"{self.address()}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    def tail(self, lines: int = 15) -> str:
        """The end of the log."""
        return "\n".join(self.log.read_text().splitlines()[-lines:])

    def memory_mb(self) -> float:
        """Peak resident memory so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
        return int(found[1]) / 1024 if found else 0.0

    def cpu_s(self) -> float:
        """CPU seconds so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self, timeout_s: float = 15.0) -> int:
        """SIGTERM, and the exit code; killed when it does not leave in time."""
        self.process.terminate()
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def start_worker(files: Sequence[Path], log: Path, env: Mapping[str, str], *options: str) -> RunningWorker:
    """Start `penstock run` on these files; the caller stops it."""
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.cli", "run", *map(str, files), *options],
            cwd=REPOSITORY,
            env={**os.environ, "PENSTOCK_ADMIN_PORT": "0", **env},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
        )
    return RunningWorker(process, log)


@contextmanager
def running(
    groups: Sequence[Sequence[Path]], folder: Path, env: Mapping[str, str]
) -> Iterator[list[RunningWorker]]:
    """One worker process a group of files, ready when the block begins, stopped when it ends."""
    with ExitStack() as stack:
        workers = []
        for number, files in enumerate(groups):
            worker = start_worker(files, folder / f"worker-{number}.log", env)
            stack.callback(_stop_quietly, worker)
            workers.append(worker)
        for worker in workers:
            worker.wait_until_ready()
        yield workers


def _stop_quietly(worker: RunningWorker) -> None:
    if worker.process.poll() is None:
        worker.stop(timeout_s=60.0)  # how soon it leaves is not asked here, and the machine may be busy


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
