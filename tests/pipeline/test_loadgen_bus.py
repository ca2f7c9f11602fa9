"""Load goes through a bus and back: produced on the embedded cluster, scored by a stand-in, accounted for."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from loadgen.arrivals import arrivals
from loadgen.bus import FETCH_WAIT_MS, embedded_bus
from loadgen.lead import Lead
from loadgen.mutate import KINDS
from loadgen.produce import TIME_MARKER, Outbox
from loadgen.run import Load, Target
from loadgen.sources import simulated_fraud, simulated_maintenance
from loadgen.transactions import World
from loadgen.turbofan import Fleet
from schemas.codec import Codec
from schemas.schema import load_schema

ROOT = Path(__file__).resolve().parents[2]
TOPICS = {
    "transactions": 3,
    "labels": 2,
    "readings": 2,
    **{
        f"{name}.{kind}": 2
        for name in ("fraud", "maintenance")
        for kind in ("scores", "alerts", "dead-letters")
    },
}
WORLD = World(customers=300, terminals=400, radius=20.0, seed=1)


@pytest.fixture(scope="module")
def bus() -> Iterator[str]:
    with embedded_bus(TOPICS) as bootstrap:
        yield bootstrap


def read_all(
    bootstrap: str, topic: str, partitions: int, count: int, timeout_s: float = 20.0
) -> list[Message]:
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "nobody", "fetch.wait.max.ms": FETCH_WAIT_MS}
    )
    consumer.assign([TopicPartition(topic, p, 0) for p in range(partitions)])
    found: list[Message] = []
    deadline = time.monotonic() + timeout_s
    while len(found) < count and time.monotonic() < deadline:
        found += consumer.consume(count - len(found), 0.2)
    consumer.close()
    assert [message.error() for message in found if message.error()] == []
    return found


class StandIn:
    """Scores what it can decode and dead-letters the rest: the outside of a worker without its inside."""

    def __init__(
        self, bootstrap: str, topic: str, prefix: str, *, lose_every: int = 0, repeat_every: int = 0
    ) -> None:
        schema = load_schema("transaction" if topic == "transactions" else "sensor_reading")
        self._id = "transaction_id" if topic == "transactions" else "reading_id"
        self._decode, self._score = (
            Codec(schema, "single_object"),
            Codec(load_schema("score"), "single_object"),
        )
        self._topic, self._prefix = topic, prefix
        self._lose, self._repeat = lose_every, repeat_every
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 1})
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": "x", "fetch.wait.max.ms": FETCH_WAIT_MS}
        )
        partitions = [TopicPartition(topic, p) for p in range(TOPICS[topic])]
        for partition in partitions:
            partition.offset = self._consumer.get_watermark_offsets(partition, timeout=10)[1]
        self._consumer.assign(partitions)
        self._seen = 0
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.is_set():
            messages = self._consumer.consume(1, 0.02)
            messages += self._consumer.consume(2000, 0.0) if messages else []
            if messages:
                self._answer(messages)
            self._producer.poll(0)
        self._producer.flush(10)
        self._consumer.close()

    def _answer(self, messages: list[Message]) -> None:
        decoded = self._decode.decode([message.value() for message in messages])
        for reject in decoded.rejects:
            source = messages[reject.row]
            headers = [
                ("penstock.reason", reject.reason),
                ("penstock.source.topic", source.topic()),
                ("penstock.source.partition", str(source.partition())),
                ("penstock.source.offset", str(source.offset())),
            ]
            self._producer.produce(
                f"{self._prefix}.dead-letters", source.value(), source.key(), headers=headers
            )
        n = len(decoded.rows)
        sources = [messages[row] for row in decoded.rows]
        columns: dict[str, Any] = {field.name: pa.nulls(n, field.type) for field in self._score.reader.arrow}
        for name in ("key", "source_topic", "model", "model_version", "policy_version"):
            columns[name] = pa.array(["x"] * n)
        for name in ("late", "incomplete", "degraded", "masked"):
            columns[name] = pa.array([False] * n)
        for name, symbol in (("degradation", "NONE"), ("time_order", "IN_ORDER")):
            columns[name] = pa.array([symbol] * n)
        for name in ("event_time", "scored_at"):
            columns[name] = pa.array([0] * n, pa.int64()).cast(self._score.reader.arrow.field(name).type)
        columns["event_id"] = decoded.table[self._id]
        columns["source_partition"] = pa.array([m.partition() for m in sources], pa.int32())
        columns["source_offset"] = pa.array([m.offset() for m in sources], pa.int64())
        columns["score"] = pa.array(np.full(n, 0.5, np.float32))
        table = pa.RecordBatch.from_pydict(columns, schema=self._score.reader.arrow)
        for value in self._score.encode(table):
            self._seen += 1
            if self._lose and self._seen % self._lose == 0:
                continue
            for _ in range(2 if self._repeat and self._seen % self._repeat == 0 else 1):
                self._producer.produce(f"{self._prefix}.scores", value)


@contextmanager
def scoring(*stand_ins: StandIn) -> Iterator[None]:
    threads = [threading.Thread(target=stand_in.run) for stand_in in stand_ins]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for stand_in in stand_ins:
            stand_in.stop.set()
        for thread in threads:
            thread.join(20)


def test_topics_have_the_asked_number_of_partitions(bus: str) -> None:
    found = Producer({"bootstrap.servers": bus}).list_topics(timeout=10).topics

    assert {name: len(found[name].partitions) for name in TOPICS} == TOPICS


def test_a_run_through_a_working_system_leaves_nothing_unaccounted(bus: str) -> None:
    sources = [
        simulated_fraud(arrivals("poisson", 1000, seed=1), world=WORLD, label_delay_s=86_400),
        simulated_maintenance(arrivals("constant", 400), fleet=Fleet(machines=50)),
    ]
    load = Load(Target(bootstrap=bus, fetch_wait_ms=FETCH_WAIT_MS), sources)

    with scoring(StandIn(bus, "transactions", "fraud"), StandIn(bus, "readings", "maintenance")):
        load.start(3.0)
        found = load.finish(20.0)

    assert found["unaccounted"] == 0
    fraud, maintenance = found["streams"]["fraud"], found["streams"]["maintenance"]
    assert 2500 < fraud["events"] < 3500
    assert 1150 < maintenance["events"] < 1250
    assert fraud["scores"] == fraud["events"]
    assert fraud["duplicates"] == fraud["foreign"] == 0
    assert 0 < fraud["latency_ms"]["p50"] < 1000
    assert found["records_sent"] > fraud["events"] + maintenance["events"]  # labels of the first day are out


def test_lost_and_repeated_scores_are_counted(bus: str) -> None:
    source = simulated_fraud(arrivals("constant", 2000), world=WORLD, labels=False)
    load = Load(Target(bootstrap=bus, fetch_wait_ms=FETCH_WAIT_MS), [source], max_events=1000)

    with scoring(StandIn(bus, "transactions", "fraud", lose_every=100, repeat_every=70)):
        load.start()
        found = load.finish(3.0)

    assert found["unaccounted"] == 10
    assert found["streams"]["fraud"]["duplicates"] == 13  # 14 repeats, of which one is lost


def test_damaged_records_are_accounted_for_by_their_offsets(bus: str) -> None:
    source = simulated_fraud(arrivals("constant", 4000), world=WORLD, labels=False)
    load = Load(
        Target(bootstrap=bus, fetch_wait_ms=FETCH_WAIT_MS),
        [source],
        mutated_share=0.2,
        max_events=4000,
        seed=5,
    )

    with scoring(StandIn(bus, "transactions", "fraud")):
        load.start()
        found = load.finish(20.0)

    fraud = found["streams"]["fraud"]
    assert (fraud["events"], fraud["unaccounted"], fraud["duplicates"], fraud["foreign"]) == (4000, 0, 0, 0)
    assert set(fraud["mutated"]) == set(KINDS)
    assert fraud["mutated"]["truncated"]["scores"] == 0
    assert fraud["mutated"]["not_a_number"]["dead_letters"] == 0  # the stand-in does not look at amounts
    assert sum(kind["records"] for kind in fraud["mutated"].values()) == pytest.approx(800, abs=120)


def test_time_markers_reach_every_partition_of_the_label_topic() -> None:
    with embedded_bus({**TOPICS, "labels": 3}) as own:
        source = simulated_fraud(arrivals("constant", 3000), world=WORLD, label_delay_s=43_200)
        load = Load(Target(bootstrap=own), [source], collect=False, max_events=1500)
        load.start()
        sent = load.finish()["records_sent"]
        labels = read_all(own, "labels", 3, 10**6, timeout_s=3.0)

    decode = Codec(load_schema("label"), "single_object")
    reached_ms = dict.fromkeys(range(3), -1)
    for message in labels:
        partition = message.partition()
        assert partition is not None
        if message.value() is None:
            headers: dict[str, Any] = dict(message.headers() or [])
            assert int(headers[TIME_MARKER]) > reached_ms[partition]
            reached_ms[partition] = int(headers[TIME_MARKER])
        else:
            (row,) = decode.decode([message.value()]).table.to_pylist()
            assert row["event_time"].timestamp() * 1000 > reached_ms[partition]
            assert message.key() == row["terminal_id"].encode()
    assert len(set(reached_ms.values())) == 1
    assert sum(message.value() is not None for message in labels) == sent - 1500


def test_sending_goes_on_while_nobody_scores(bus: str) -> None:
    source = simulated_fraud(arrivals("constant", 1000), world=WORLD, labels=False)
    load = Load(Target(bootstrap=bus, fetch_wait_ms=FETCH_WAIT_MS), [source])

    load.start(2.0)
    found = load.finish(0.2)

    assert found["streams"]["fraud"]["events"] == pytest.approx(2000, abs=5)
    assert found["unaccounted"] == found["streams"]["fraud"]["events"]


def test_a_replay_waits_for_the_group_that_it_must_not_outrun(bus: str) -> None:
    outbox = Outbox(bus)
    lead = Lead(bus, group="slow", topic="readings", outbox=outbox, max_lead_ms=1000)
    consumer = Consumer({"bootstrap.servers": bus, "group.id": "slow", "enable.auto.commit": False})

    assert lead.is_open(0, 0.0)
    outbox.send(["readings"] * 20, [str(i).encode() for i in range(20)], [b"x"] * 20)
    assert lead.is_open(1000, 1.0)
    outbox.send(["readings"] * 20, [str(i).encode() for i in range(20)], [b"x"] * 20)
    assert not lead.is_open(2001, 2.0)
    ends = [TopicPartition("readings", p) for p in range(2)]
    for end in ends:
        end.offset = consumer.get_watermark_offsets(end, timeout=10)[1]
    consumer.commit(offsets=ends, asynchronous=False)
    assert not lead.is_open(2001, 2.05)  # the group is asked ten times a second at most
    assert lead.is_open(2001, 2.2)
    consumer.close()
    lead.close()


def wait_until(is_true: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if is_true():
            return True
        time.sleep(0.02)
    return False


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not Path(f"/proc/{pid}/stat").exists() or Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


@pytest.mark.parametrize("how", ["stdin", "sigterm"])
def test_the_bus_ends_when_asked(how: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "loadgen.bus", "--topic=a:3"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline().startswith(b"127.0.0.1:")
        if how == "stdin":
            process.stdin.close()
        else:
            process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_the_bus_does_not_outlive_a_parent_that_was_killed() -> None:
    program = (
        "import subprocess, sys, time\n"
        "command, pipe = [sys.executable, '-m', 'loadgen.bus'], subprocess.PIPE\n"
        "p = subprocess.Popen(command, stdin=pipe, stdout=pipe)\n"
        "p.stdout.readline()\n"
        "print(p.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout is not None
        bus_pid = int(parent.stdout.readline())
        parent.kill()
    assert wait_until(lambda: not is_running(bus_pid), 10)


def test_the_command_line_sends_reports_and_draws(bus: str, tmp_path: Path) -> None:
    report, picture = tmp_path / "run.json", tmp_path / "run.png"
    arguments = ["simulate", "--bootstrap", bus, "--embedded", "--fraud-rate=800", "--maintenance-rate=0"]
    arguments += ["--events=800", "--no-labels", "--customers=300", "--arrival=spike", "--spike-at=0.2"]

    with scoring(StandIn(bus, "transactions", "fraud")):
        done = subprocess.run(
            [sys.executable, "-m", "loadgen", *arguments, "--report", str(report)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    drawn = subprocess.run(
        [sys.executable, "-m", "loadgen", "report", str(report), "--picture", str(picture)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["streams"]["fraud"]["scores"] == 800
    assert json.loads(report.read_text())["streams"]["fraud"]["per_second"]["events"]
    assert drawn.returncode == 0, drawn.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
