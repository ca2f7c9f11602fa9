"""`penstock topics create`, `send` and `tail` against a real broker."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)

from schemas.codec import Codec
from schemas.schema import load_schema
from schemas.spans import spans_of
from worker.cli import main
from worker.config import Pipeline, load_pipeline
from worker.exits import Exit
from worker.partitioners import partitions
from worker.topics import wanted_topics

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "logins"
PARTITIONS = 4
pytestmark = pytest.mark.kafka


class Place:
    """A copy of the example under topic names of its own, and the commands on it."""

    def __init__(self, file: Path, kafka: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.file, self.kafka = file, kafka
        self.pipeline: Pipeline = load_pipeline(file)
        self.admin = AdminClient({"bootstrap.servers": kafka})
        self._capsys = capsys

    def run(self, *words: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a command."""
        self._capsys.readouterr()
        code = main(words)
        said = self._capsys.readouterr()
        return code, said.out, said.err

    def create(self, *words: str) -> tuple[int, list[dict[str, Any]]]:
        """Exit code and what was said of each topic."""
        code, out, _ = self.run("topics", "create", str(self.file), *words, "--json")
        return code, json.loads(out)

    def there(self) -> dict[str, int]:
        """Partitions of those topics of the pipeline that exist."""
        names = {topic.name for topic in wanted_topics(self.pipeline)}
        return {
            k: len(t.partitions) for k, t in self.admin.list_topics(timeout=10).topics.items() if k in names
        }

    def config(self, topic: str) -> dict[str, str]:
        """Settings of a topic, as the broker tells them."""
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        entries = self.admin.describe_configs([resource])[resource].result(10)
        return {name: entry.value for name, entry in entries.items()}

    def alter(self, topic: str, name: str, value: str) -> None:
        """Change a setting as somebody else would."""
        entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
        self.admin.incremental_alter_configs([resource])[resource].result(10)
        give_up_s = time.monotonic() + 20
        while self.config(topic)[name] != value:  # brokers tell each other a little later
            assert time.monotonic() < give_up_s
            time.sleep(0.05)

    def records(self, topic: str, count: int) -> list[Any]:
        """The first so many messages of a topic, in the order of their partitions and offsets."""
        consumer = Consumer({"bootstrap.servers": self.kafka, "group.id": "contract-commands"})
        try:
            consumer.assign([TopicPartition(topic, p, 0) for p in range(self.there()[topic])])
            found: list[Any] = []
            give_up_s = time.monotonic() + 20
            while len(found) < count and time.monotonic() < give_up_s:
                found += [m for m in consumer.consume(100, 0.2) if m.error() is None]
        finally:
            consumer.close()
        return sorted(found, key=lambda m: (m.partition(), m.offset()))

    def publish(self, kind: str, rows: list[dict[str, Any]]) -> None:
        """Put scores or alerts on their topic as a worker would."""
        topic = self.pipeline.outputs.scores if kind == "score" else self.pipeline.outputs.alerts
        producer = Producer({"bootstrap.servers": self.kafka, "partitioner": "murmur2_random"})
        values = Codec(load_schema(kind), "single_object").encode_rows(rows)
        for row, value in zip(rows, values, strict=True):
            producer.produce(topic, value, row["key"].encode())
        assert producer.flush(20) == 0


@pytest.fixture
def place(
    tmp_path: Path, kafka_bootstrap: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Place]:  # fmt: skip
    """The example with no topic yet; what is made of them goes afterwards."""
    text = (EXAMPLE / "logins.yaml").read_text()
    for topic in ("logins.scores", "logins.alerts", "logins.dead-letters"):
        text = text.replace(f": {topic}\n", f": {topic_prefix}{topic}\n")
    text = text.replace("topic: logins\n", f"topic: {topic_prefix}logins\n")
    text = text.replace("repository: models ", f"repository: {EXAMPLE / 'models'} ")
    (tmp_path / "login.avsc").write_text((EXAMPLE / "login.avsc").read_text())
    file = tmp_path / "logins.yaml"
    file.write_text(text)
    monkeypatch.setenv("PENSTOCK_KAFKA", kafka_bootstrap)
    made = Place(file, kafka_bootstrap, capsys)
    yield made
    for future in made.admin.delete_topics(list(made.there())).values() if made.there() else ():
        with suppress(KafkaException):
            future.result(20)


def score(key: str, value: float, event_id: str = "e") -> dict[str, Any]:
    """A row of score.avsc."""
    return {
        "event_id": event_id, "key": key, "source_topic": "logins", "source_partition": 0, "source_offset": 0,
        "event_time": 1_769_860_800_000_000, "scored_at": 1_769_860_800_000_000, "score": value,
        "model": "login-risk", "model_version": "1", "policy_version": "1", "late": False,
        "incomplete": False, "degraded": False, "lookup_age_ms": None,
    }  # fmt: skip


def test_topics_are_made_as_they_have_to_be_and_never_changed(place: Place) -> None:
    code, found = place.create("--partitions", str(PARTITIONS), "--dry-run")
    assert (code, {each["state"] for each in found}, place.there()) == (Exit.OK, {"missing"}, {})

    code, found = place.create("--partitions", str(PARTITIONS), "--replication", "1")
    assert (code, {each["state"] for each in found}) == (Exit.OK, {"created"})
    for topic in wanted_topics(place.pipeline):
        config = place.config(topic.name)
        assert place.there()[topic.name] == (topic.partitions or PARTITIONS)
        assert {name: config[name] for name in topic.config} == dict(topic.config)

    code, found = place.create()  # and the input says how many the others have
    assert (code, {each["state"] for each in found}) == (Exit.OK, {"exists"})

    source = place.pipeline.source.topic
    place.alter(source, "retention.ms", "3600000")
    code, found = place.create()
    differences = {each["topic"]: each["differences"] for each in found if each["differences"]}
    assert code == Exit.UNHEALTHY
    assert [(d["what"], d["found"], d["wanted"]) for d in differences[source]] == [
        ("retention.ms", "1h", "7d")
    ]
    assert place.config(source)["retention.ms"] == "3600000"


def test_more_copies_than_brokers_are_refused_with_what_to_do(place: Place) -> None:
    code, _, err = place.run("topics", "create", str(place.file), "--replication", "9")

    assert code == Exit.KAFKA
    assert "--replication" in err
    assert place.there() == {}


def test_events_are_sent_where_the_worker_expects_them(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    file, topic = str(place.file), place.pipeline.source.topic
    code, _, err = place.run("send", file, "account=a-0", "failed=true", "new_device=false", "distance_km=1")
    assert code == Exit.KAFKA
    assert f"penstock topics create {file}" in err

    place.create("--partitions", str(PARTITIONS))
    one = place.run("send", file, "account=a-0", "failed=true", "new_device=false", "distance_km=7800")
    assert one[0] == Exit.OK
    assert f"sent to {topic} partition" in one[1]
    lines = [
        {"account": f"a-{n}", "login_id": f"l-{n}", "failed": False, "new_device": False, "distance_km": n}
        for n in range(20)
    ]
    text = "\n".join(map(json.dumps, lines))
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert place.run("send", file, "--dry-run")[1] == f"20 events are fit for {topic}; nothing was sent\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    code, out, _ = place.run("send", file, "--json")
    assert (code, len(out.splitlines())) == (Exit.OK, 20)

    found = place.records(topic, 21)
    keys = [message.key() for message in found]
    schema = load_schema("login.avsc", place.file.parent)
    rows = Codec(schema, "single_object").decode([m.value() for m in found]).table.to_pylist()
    assert [row["account"].encode() for row in rows] == keys
    assert {row["login_id"] for row in rows} >= {line["login_id"] for line in lines}
    there = partitions(spans_of(keys), PARTITIONS, "murmur2").tolist()
    assert [message.partition() for message in found] == there


def test_a_wrong_line_is_named_and_stops_unless_told_to_go_on(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.create("--partitions", "1")
    good = json.dumps({"account": "a", "failed": False, "new_device": False, "distance_km": 1})
    text = f"{good}\n\n{{\n{good}\n"

    for more, sent in (((), 1), (("--keep-going",), 2)):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        code, out, err = place.run("send", str(place.file), "--json", *more)
        assert code == Exit.CONFIG
        assert "stdin:3: found no JSON" in err
        assert len(out.splitlines()) == sent


def test_a_topic_is_shown_from_where_and_for_whom_it_is_asked(place: Place) -> None:
    file = str(place.file)
    code, _, err = place.run("tail", "scores", file)
    assert (code, "topics create" in err) == (Exit.KAFKA, True)
    place.create("--partitions", str(PARTITIONS))
    place.publish("score", [score(f"a-{n % 3}", n / 10, f"e-{n}") for n in range(9)])

    code, out, err = place.run("tail", "scores", file, "--from", "beginning", "--count", "9", "--json")
    assert (code, err) == (Exit.OK, "")
    assert {json.loads(line)["event_id"] for line in out.splitlines()} == {f"e-{n}" for n in range(9)}
    words = ("--key", "a-1", "--from", "10m", "--count", "2")
    code, out, _ = place.run("tail", "scores", file, *words)
    assert code == Exit.OK
    assert [line.split()[1:4] for line in out.splitlines()] == [["0.1", "a-1", "e-1"], ["0.4", "a-1", "e-4"]]


def test_a_live_view_ends_in_good_order(place: Place) -> None:
    """At Ctrl-C, and when whoever reads it has gone, also while nothing comes."""
    place.create("--partitions", "1")
    # A job in the background ignores SIGINT, and its children inherit that: ask for the usual handling.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from worker.cli import entry; entry()"
    )
    tail = [sys.executable, "-c", program, "tail", "scores", str(place.file), "--json"]
    begun = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    stopped = subprocess.Popen(tail, **begun)  # type: ignore[call-overload]
    left = subprocess.Popen(tail, **begun)  # type: ignore[call-overload]
    try:
        for process in (stopped, left):
            # It shows what comes from its start on, which is some seconds away.
            line, give_up_s = "", time.monotonic() + 60
            while not line and time.monotonic() < give_up_s:
                place.publish("score", [score("a", 0.5)])
                line = _line_within(process, 0.5)
            assert json.loads(line)["key"] == "a"
        stopped.send_signal(signal.SIGINT)
        left.stdout.close()
        for process in (stopped, left):
            assert process.wait(20) == Exit.OK
            assert process.stderr.read() == ""
    finally:
        for process in (stopped, left):
            process.kill()
            process.wait()


def _line_within(process: Any, wait_s: float) -> str:
    import select

    ready = select.poll()  # unlike select() it takes descriptors of 1024 and more
    ready.register(process.stdout, select.POLLIN)
    return str(process.stdout.readline()) if ready.poll(wait_s * 1000) else ""
