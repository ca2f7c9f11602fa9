"""A version is changed while workers run: by one decision, with no score missing, and back when it is bad."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from confluent_kafka import Consumer, TopicPartition
from onnx import helper, numpy_helper
from prometheus_client import CollectorRegistry

from benchmarks.workers import REPOSITORY, create_topics, topics_of
from schemas.codec import Codec
from schemas.schema import load_schema
from tests.pipeline.streams import PARTITIONS, Reader, alone, fill, transactions
from worker import rollout_commands
from worker.assemble import assemble, store_opener
from worker.cli import main
from worker.config import load_pipeline
from worker.exits import Exit
from worker.pack import pack
from worker.run import Worker

pytestmark = pytest.mark.kafka
WITHIN_S = 60.0
PART = 500
Say = Callable[..., Any]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """1 and 2 as shipped, 3 is 2, `blind` takes features for one another, `broken` misses its golden rows."""
    root = tmp_path / "models"
    shutil.copytree(REPOSITORY / "models" / "fraud", root / "fraud")
    for name in ("3", "blind", "broken"):
        folder = root / "fraud" / name
        shutil.copytree(root / "fraud" / "2", folder)
        card = yaml.safe_load((folder / "model.yaml").read_text())
        (folder / "model.yaml").write_text(yaml.safe_dump({**card, "version": name}, sort_keys=False))
    _blind(root / "fraud" / "blind")
    with np.load(root / "fraud" / "broken" / "golden.npz") as golden:
        wrong = {**golden, "expected": golden["expected"] + 0.5}
    np.savez(root / "fraud" / "broken" / "golden.npz", **wrong)
    return root


def _blind(folder: Path) -> None:
    """Let a version see every feature in another one's place; it proves itself by rows of its own."""
    model = onnx.load(folder / "model.onnx")
    entry = model.graph.input[0].name
    order = np.roll(np.arange(15), 7)
    model.graph.initializer.append(numpy_helper.from_array(order, "order"))
    for node in model.graph.node:
        for at, name in enumerate(node.input):
            if name == entry:
                node.input[at] = "mixed"
    model.graph.node.insert(0, helper.make_node("Gather", [entry, "order"], ["mixed"], axis=1))
    onnx.save(model, folder / "model.onnx")
    with np.load(folder / "golden.npz") as golden:
        rows = {name: golden[name] for name in golden if name not in ("expected", "rtol", "atol")}
    pack(folder, rows)


class Traffic:
    """Transactions that keep coming, a part at a time."""

    def __init__(self, kafka: str, topic: str) -> None:
        self._kafka, self._topic = kafka, topic
        self.sent = 0

    def send(self, parts: int = 1) -> None:
        """So many more parts."""
        for _ in range(parts):
            keys, values = transactions(PART, seed=1000 + self.sent)
            fill(self._kafka, self._topic, keys, values)
            self.sent += PART


@pytest.fixture
def file(kafka_bootstrap: str, topic_prefix: str, tmp_path: Path, models: Path) -> Path:
    shadow = f"{topic_prefix}fraud.shadow"
    watch = f"{topic_prefix}fraud.watch"
    create_topics(kafka_bootstrap, {**topics_of(topic_prefix, PARTITIONS), shadow: PARTITIONS, watch: 1})
    made = alone(
        tmp_path,
        topic_prefix,
        kafka={"bootstrap": kafka_bootstrap},
        state={"store": "memory://"},
        model={"repository": str(models)},
        outputs={"watch": watch},
        rollout={
            "control": f"{topic_prefix}control",
            "shadow": shadow,
            "guards": {"min_events": 1000, "alert_ratio": 1.5},
        },
    )
    document = yaml.safe_load(made.read_text())
    made.write_text(yaml.safe_dump({**document, "name": topic_prefix.rstrip(".")}, sort_keys=False))
    return made


class Running:
    """Workers in threads, each with its own consumer group member."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []

    def start(self, worker_id: str) -> Worker:
        """One more, ready."""
        env = {"PENSTOCK_DEVICE": "cpu", "PENSTOCK_ADMIN_PORT": "0"}
        document = yaml.safe_load(self._file.read_text())
        document["delivery"]["worker_id"] = worker_id
        file = self._file.with_name(f"{worker_id}.yaml")
        file.write_text(yaml.safe_dump(document, sort_keys=False))
        worker = Worker(assemble(load_pipeline(file, env), store_opener(), CollectorRegistry()))

        def run() -> None:
            try:
                worker.run(self._stop)
            except BaseException as error:
                self._errors.append(error)

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()
        give_up_s = time.monotonic() + WITHIN_S
        while not worker.is_ready and time.monotonic() < give_up_s:
            time.sleep(0.05)
        assert worker.is_ready
        return worker

    def stop(self) -> None:
        """All of them, in order."""
        self._stop.set()
        for thread in self._threads:
            thread.join(WITHIN_S)
        assert not self._errors, self._errors


@pytest.fixture
def running(file: Path) -> Iterator[Running]:
    made = Running(file)
    yield made
    made.stop()


@pytest.fixture
def say(file: Path, monkeypatch: pytest.MonkeyPatch) -> Say:
    """`penstock models ...` with --json: what it answers; its exit code is this."""

    def said(command: str, *words: str, code: int = Exit.OK) -> Any:
        printed: dict[Any, list[str]] = {None: [], sys.stderr: []}
        # In this process: one of its own takes seconds to start, and the workers' threads print as well.
        monkeypatch.setattr(
            rollout_commands, "print", lambda text, file=None: printed[file].append(text), raising=False
        )
        assert main(["models", command, str(file), *words, "--json"]) == code, printed
        return json.loads(printed[None][-1])

    return said


def versions_of(kafka: str, topic: str, count: int) -> dict[tuple[int, int], tuple[str, str, float]]:
    """By source place: version, key and score of what can be read of a topic of scores, `count` of them."""
    codec = Codec(load_schema("score"), "single_object")
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "versions", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    found: dict[tuple[int, int], tuple[str, str, float]] = {}
    give_up_s = time.monotonic() + WITHIN_S
    while len(found) < count and time.monotonic() < give_up_s:
        values = [m.value() for m in consumer.consume(1000, 0.2) if m.error() is None]
        for row in codec.decode(values).table.to_pylist() if values else ():
            place = row["source_partition"], row["source_offset"]
            assert place not in found
            found[place] = row["model_version"], row["key"], row["score"]
    consumer.close()
    return found


def watch_alerts(kafka: str, topic: str) -> list[dict[str, Any]]:
    """The first of the watch topic, once it is there."""
    codec = Codec(load_schema("watch_alert"), "single_object")
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "watch", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: list[dict[str, Any]] = []
    give_up_s = time.monotonic() + WITHIN_S
    while not found and time.monotonic() < give_up_s:
        values = [m.value() for m in consumer.consume(100, 0.2) if m.error() is None]
        found += codec.decode(values).table.to_pylist() if values else []
    consumer.close()
    return found


def test_versions_are_promoted_and_taken_back_on_every_worker_and_no_score_is_missing(
    kafka_bootstrap: str, topic_prefix: str, running: Running, say: Say
) -> None:
    traffic = Traffic(kafka_bootstrap, f"{topic_prefix}transactions")
    reader = Reader(kafka_bootstrap, topic_prefix)
    workers = [running.start("one"), running.start("two")]
    traffic.send()
    reader.read_all(traffic.sent)

    promoted = say("promote", "1", "--why", "as good, and smaller")
    assert [w["champion"] for w in promoted["workers"]] == ["1", "1"]
    assert promoted["waiting_for"] == []
    assert promoted["taken_back"] is None
    traffic.send()
    reader.read_all(traffic.sent)
    refused = say("promote", "broken", code=Exit.MODEL)
    assert "differ" in refused["taken_back"]["why"]
    assert [worker.line.router.card.version for worker in workers if worker.line.router] == ["1", "1"]
    back = say("rollback")
    assert back["change"]["routing"]["champion"] == "2"
    assert [w["champion"] for w in back["workers"]] == ["2", "2"]
    traffic.send()
    reader.read_all(traffic.sent)

    found = versions_of(kafka_bootstrap, f"{topic_prefix}fraud.scores", traffic.sent)
    assert len(found) == traffic.sent
    assert {version for version, _, _ in found.values()} == {"1", "2"}
    told = say("history")
    assert [change["action"] for change in told] == ["promote", "promote", "rollback", "rollback"]
    assert told[2]["why"].startswith("refused:")
    assert told[0]["why"] == "as good, and smaller"
    assert say("list")["versions"] == ["blind", "broken", "1", "2", "3"]
    reader.close()


def test_in_a_canary_a_key_stays_with_its_version_and_one_that_is_no_worse_stays(
    kafka_bootstrap: str, topic_prefix: str, running: Running, say: Say
) -> None:
    traffic = Traffic(kafka_bootstrap, f"{topic_prefix}transactions")
    worker = running.start("one")
    say("promote", "3", "--canary", "30")

    traffic.send(12)
    found = versions_of(kafka_bootstrap, f"{topic_prefix}fraud.scores", traffic.sent)

    of_key: dict[str, set[str]] = {}
    for version, key, _ in found.values():
        of_key.setdefault(key, set()).add(version)
    assert len(found) == traffic.sent
    assert all(len(versions) == 1 for versions in of_key.values())
    share = sum(versions == {"3"} for versions in of_key.values()) / len(of_key)
    assert 0.15 < share < 0.45
    assert worker.line.router is not None
    comparison = worker.line.router.serving.comparison
    assert comparison is not None
    agreement = comparison.agreement()
    assert agreement.events > 1000
    assert agreement.rank_correlation == pytest.approx(1.0)
    assert agreement.flipped_share == 0
    assert [change["action"] for change in say("history")] == ["canary"]


def test_a_canary_that_is_blind_is_taken_back_by_its_guard(
    kafka_bootstrap: str, topic_prefix: str, running: Running, say: Say
) -> None:
    traffic = Traffic(kafka_bootstrap, f"{topic_prefix}transactions")
    worker = running.start("one")
    say("promote", "blind", "--canary", "50")

    give_up_s = time.monotonic() + WITHIN_S
    while len(say("history")) < 2 and time.monotonic() < give_up_s:
        traffic.send(4)
    found = versions_of(kafka_bootstrap, f"{topic_prefix}fraud.scores", traffic.sent)

    canary, back = say("history")
    assert (canary["action"], back["action"]) == ("canary", "rollback")
    assert back["by"] == "guard of one"
    assert "guard" in back["why"]
    assert "allowed" in back["why"]
    assert back["routing"]["challenger"] is None
    assert len(found) == traffic.sent
    give_up_s = time.monotonic() + WITHIN_S
    while worker.line.router and worker.line.router.serving.challenger and time.monotonic() < give_up_s:
        time.sleep(0.05)
    assert worker.line.router is not None
    assert worker.line.router.serving.challenger is None
    (alert,) = watch_alerts(kafka_bootstrap, f"{topic_prefix}fraud.watch")
    assert (alert["kind"], alert["model_version"], alert["worker"]) == ("GUARD", "blind", "one")
    assert alert["subject"] in back["why"]
    assert alert["events"] >= 1000


def test_a_shadow_is_written_beside_and_a_worker_that_starts_later_knows_the_decision(
    kafka_bootstrap: str, topic_prefix: str, running: Running, say: Say
) -> None:
    say("promote", "1", "--wait", "0")
    say("promote", "3", "--shadow", "--wait", "0")
    worker = running.start("late")
    assert worker.line.router is not None
    assert worker.line.router.card.version == "1"
    traffic = Traffic(kafka_bootstrap, f"{topic_prefix}transactions")
    traffic.send(2)

    served = versions_of(kafka_bootstrap, f"{topic_prefix}fraud.scores", traffic.sent)
    shadowed = versions_of(kafka_bootstrap, f"{topic_prefix}fraud.shadow", traffic.sent)

    assert {version for version, _, _ in served.values()} == {"1"}
    assert {version for version, _, _ in shadowed.values()} == {"3"}
    assert served.keys() == shadowed.keys()
