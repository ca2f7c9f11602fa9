"""What a capacity run sets up and takes down again: its topics, one worker process, rows in the store."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic
from prometheus_client.parser import text_string_to_metric_families

from feature_cache.lane import lane_name
from feature_cache.redis_store import RedisStore
from feature_cache.store import StoreRefusedError, StoreUnavailableError
from schemas.spans import Spans
from worker.assemble import store_opener
from worker.capacity_apart import PREFIX, TOKEN_VARIABLE, apart, topics_of
from worker.config import Pipeline
from worker.dlq import client_config
from worker.exits import Exit, StopWorker
from worker.partitioners import partitions

_READY_S = 180.0  # the first start compiles
_LEAVE_S = 15.0
_ADMIN_S = 30.0
_PARTITIONS = 6  # where the pipeline's own topic is not there
_RETENTION_MS = 3_600_000  # should nobody be left to remove the topics
_PER_COMMAND = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the worker has counted so far."""

    at_s: float  # monotonic clock
    cpu_s: float | None  # of the process; None where the system does not say
    memory_bytes: float | None
    events: float
    scores: float
    dead_letters: float
    alerts: float
    batches: float
    stage_s: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """One worker on its own topics, running."""

    pipeline: Pipeline  # as it is loaded, see worker.capacity_apart
    partitions: int
    process: subprocess.Popen[bytes]
    log: Path
    address: str
    token: str

    def figures(self) -> Figures:
        """Ask the worker's /metrics.

        Raises:
            StopWorker: it has ended; with its own exit code and the end of its log.
        """
        self.check()
        found: dict[str, float] = {}
        stage_s: dict[str, float] = {}
        try:
            with urllib.request.urlopen(f"{self.address}/metrics", timeout=10) as answer:
                text = answer.read().decode()
            at_s = time.monotonic()  # before they are parsed, which takes as long as a batch
        except OSError as error:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_LEAVE_S)  # most likely it is about to end, and says why
            self.check()
            raise StopWorker(Exit.BUG, f"the worker under load does not answer: {error}") from error
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "penstock_stage_seconds_sum":
                    stage_s[sample.labels["stage"]] = sample.value
                else:
                    found[sample.name] = found.get(sample.name, 0.0) + sample.value
        return Figures(
            at_s=at_s,
            cpu_s=found.get("process_cpu_seconds_total"),
            memory_bytes=found.get("process_resident_memory_bytes"),
            events=found.get("penstock_events_total", 0.0),
            scores=found.get("penstock_scores_total", 0.0),
            dead_letters=found.get("penstock_dead_letters_total", 0.0),
            alerts=found.get("penstock_alerts_total", 0.0),
            batches=found.get("penstock_batches_total", 0.0),
            stage_s=stage_s,
        )

    def device(self) -> str:
        """Where the model runs; empty without one."""
        with urllib.request.urlopen(f"{self.address}/readyz", timeout=10) as answer:
            return str(json.load(answer)["pipelines"][0]["device"])

    def switch(self, change: str) -> None:
        """`pause` or `resume`."""
        request = urllib.request.Request(f"{self.address}/{change}", method="POST", data=b"")
        request.add_header("Authorization", f"Bearer {self.token}")
        with urllib.request.urlopen(request, timeout=10):
            pass

    def check(self) -> None:
        """Raise StopWorker when the worker has ended."""
        code = self.process.poll()
        if code is not None:
            known = code in list(Exit)
            said = _tail(self.log)
            raise StopWorker(
                Exit(code) if known and code else Exit.BUG,
                f"the worker under load ended with code {code}: {said}",
            )


@contextmanager
def rig(
    pipeline: Pipeline, run: str, partition_count: int, replicas: int, keys: Spans, folder: Path
) -> Iterator[Rig]:
    """Topics, and one worker on them that is ready; all of it is gone afterwards, rows and group too.

    Args:
        pipeline: as its file says.
        run: a name for this run that no other has.
        partition_count: of each topic.
        replicas: of each partition; -1: what the broker does by default.
        keys: of the events that will be sent.
        folder: for the worker's log.

    Raises:
        StopWorker: topics cannot be made, or the worker does not start.
    """
    prefix, token = f"{PREFIX}{run}.", secrets.token_hex(16)
    loaded = apart(pipeline, prefix, token)
    admin = AdminClient(client_config(pipeline))
    try:
        _create(admin, topics_of(loaded), partition_count, replicas)
        log = folder / "worker.log"
        with _worker(pipeline, prefix, token, log) as process:
            yield Rig(
                pipeline=loaded,
                partitions=partition_count,
                process=process,
                log=log,
                address=_ready(process, log),
                token=token,
            )
    finally:
        _remove(admin, loaded)
        remove_rows(loaded, keys, partition_count)


@contextmanager
def _worker(pipeline: Pipeline, prefix: str, token: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (
        log.open("wb") as sink,
        subprocess.Popen(
            [sys.executable, "-m", "worker.capacity_apart", str(pipeline.path), prefix],
            env={**os.environ, "PYTHONPATH": _path(), TOKEN_VARIABLE: token},
            stdin=subprocess.PIPE,
            stdout=sink,
            stderr=sink,
            start_new_session=True,  # Ctrl-C is for us, and we end it in good order
        ) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_LEAVE_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _path() -> str:
    """So that a process of ours finds the same packages as we did, wherever it is started."""
    root = str(Path(__file__).resolve().parents[1])
    return os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])


def _ready(process: subprocess.Popen[bytes], log: Path) -> str:
    """Where its admin pages are, once it reads its lanes."""
    deadline_s = time.monotonic() + _READY_S
    while time.monotonic() < deadline_s and process.poll() is None:
        said = re.search(r'"address": ?"([^"]+)"', log.read_text(errors="replace"))
        if said is not None:
            with suppress(OSError), urllib.request.urlopen(f"{said[1]}/readyz", timeout=2):
                return said[1]
        time.sleep(0.1)
    code = process.poll()
    ended = Exit(code) if code is not None and code in list(Exit) and code else Exit.BUG
    raise StopWorker(
        ended,
        f"the worker under load was not ready ({f'exit code {code}' if code is not None else 'in time'}): "
        f"{_tail(log)}",
    )


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    why = [found[1] for line in lines if (found := re.search(r'"why": ?"((?:[^"\\]|\\.)*)"', line))]
    return why[-1] if why else " / ".join(lines[-3:])


def _create(admin: AdminClient, topics: list[str], partition_count: int, replicas: int) -> None:
    new = [
        NewTopic(
            topic,
            partition_count,
            replicas,
            config={"retention.ms": str(_RETENTION_MS), "cleanup.policy": "delete"},
        )
        for topic in topics
    ]
    try:
        for future in admin.create_topics(new).values():
            future.result(_ADMIN_S)
    except KafkaException as error:
        raise StopWorker(
            Exit.KAFKA,
            f"topics {PREFIX}… cannot be created: {error.args[0].str()}; a capacity run needs the "
            f"right to create and delete them",
        ) from error
    deadline_s = time.monotonic() + _ADMIN_S
    while True:  # a topic just made may have no leader yet
        known = admin.list_topics(timeout=_ADMIN_S).topics
        led = [[p.leader >= 0 for p in known[t].partitions.values()] for t in topics if t in known]
        if len(led) == len(topics) and all(one == [True] * partition_count for one in led):
            return
        if time.monotonic() > deadline_s:
            raise StopWorker(Exit.KAFKA, f"topics {PREFIX}… have no leaders after {_ADMIN_S:g} s")
        time.sleep(0.05)


def _remove(admin: AdminClient, loaded: Pipeline) -> None:
    """Topics and group; one that is not there is none the worse."""
    for future in admin.delete_topics(topics_of(loaded)).values():
        with suppress(KafkaException):
            future.result(_ADMIN_S)
    for future in admin.delete_consumer_groups([loaded.kafka.group]).values():
        with suppress(KafkaException):
            future.result(_ADMIN_S)


def row_names(loaded: Pipeline, keys: Spans, partition_count: int) -> list[list[bytes]]:
    """What a run may have stored, by lane: its marker, and the row of each key that goes there."""
    lane_of = partitions(keys, partition_count, loaded.source.partitioner)
    texts = keys.to_list()
    names: list[list[bytes]] = []
    for lane in range(partition_count):
        place = f"ps:{{{lane_name(loaded.kafka.group, loaded.source.topic, lane)}}}".encode()
        names.append([place, *(place + b":" + texts[i] for i in (lane_of == lane).nonzero()[0].tolist())])
    return names


def remove_rows(loaded: Pipeline, keys: Spans, partition_count: int) -> None:
    """Remove by name what a run stored: to look for it would mean to go through everybody's keys."""
    store = store_opener()(str(loaded.state.store))
    if not isinstance(store, RedisStore):
        return
    with suppress(StoreUnavailableError, StoreRefusedError):
        for names in row_names(loaded, keys, partition_count):
            for start in range(0, len(names), _PER_COMMAND):
                store.ask(names[0], b"UNLINK", *names[start : start + _PER_COMMAND])
    store.close()


def live_topic(pipeline: Pipeline) -> tuple[int, int]:
    """Partitions and replicas of the topic that the pipeline reads; else a few, and the broker's default."""
    admin = AdminClient(client_config(pipeline))
    known = admin.list_topics(pipeline.source.topic, timeout=_ADMIN_S).topics[pipeline.source.topic]
    if known.error is not None or not known.partitions:
        return _PARTITIONS, -1
    return len(known.partitions), len(known.partitions[0].replicas)


def brokers(pipeline: Pipeline) -> list[tuple[str, int]]:
    """Host and port of every broker."""
    admin = AdminClient(client_config(pipeline))
    return [(b.host, b.port) for b in admin.list_topics(timeout=_ADMIN_S).brokers.values()]
