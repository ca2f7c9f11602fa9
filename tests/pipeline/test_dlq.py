"""Dead letters are listed, shown and sent in again, on a real broker."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from benchmarks.workers import create_topics, running, topics_of
from schemas.codec import Codec
from schemas.schema import load_schema
from tests.pipeline.streams import Reader, alone, fill, transactions
from worker.cli import main
from worker.config import load_pipeline
from worker.dlq_replay import Choice, replay
from worker.exits import Exit

PARTITIONS = 3
OLD = {  # what producers wrote before there was a channel
    **load_schema("transaction").json,
    "fields": [f for f in load_schema("transaction").json["fields"] if f["name"] != "channel"],
}


class Place:
    """A pipeline of its own on the broker, and the commands on it."""

    def __init__(self, kafka: str, prefix: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.kafka, self.file = kafka, file
        self.input, self.dead = f"{prefix}transactions", f"{prefix}fraud.dead-letters"
        self._capsys = capsys
        self._next_source = 1000

    def dlq(self, command: str, *more: str) -> str:
        """What the command printed; it must succeed."""
        self._capsys.readouterr()
        code = main(["dlq", command, str(self.file), *more])
        said = self._capsys.readouterr()
        assert code == Exit.OK, said.err
        return said.out

    def listed(self, *more: str) -> list[dict[str, Any]]:
        """The list as data."""
        return [json.loads(line) for line in self.dlq("list", "--json", *more).splitlines()]

    def die(
        self, reason: str, keys: Sequence[bytes | None], *, attempt: int = 1, stage: str = "decode"
    ) -> None:
        """Put dead letters on the topic as the worker would; their value is their key, twice."""
        producer = Producer({"bootstrap.servers": self.kafka, "enable.idempotence": True})
        for key in keys:
            said = {
                "reason": reason, "detail": "found this", "stage": stage, "pipeline": "fraud",
                "source.topic": self.input, "source.partition": 1, "source.offset": self._next_source,
                "source.timestamp_ms": 1_700_000_000_000, "attempt": attempt,
            }  # fmt: skip
            headers = [("trace", b"\xff\0"), *((f"penstock.{k}", str(v).encode()) for k, v in said.items())]
            producer.produce(self.dead, (key or b"-") * 2, key, headers=headers)
            producer.poll(0)
            self._next_source += 1
        assert producer.flush(30) == 0

    def sent_in(self) -> list[Any]:
        """Everything committed on the input topic."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.kafka,
                "group.id": f"{self.input}-look",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
            }
        )
        consumer.assign([TopicPartition(self.input, p, 0) for p in range(PARTITIONS)])
        found, left, deadline_s = [], set(range(PARTITIONS)), time.monotonic() + 30
        while left:
            assert time.monotonic() < deadline_s
            for message in consumer.consume(1000, 0.2):
                if message.error() is None:
                    found.append(message)
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
        consumer.close()
        return found


@pytest.fixture
def place(
    kafka_bootstrap: str,
    topic_prefix: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Place]:
    """A pipeline without any record yet."""
    monkeypatch.setenv("PENSTOCK_KAFKA", kafka_bootstrap)
    create_topics(kafka_bootstrap, topics_of(topic_prefix, PARTITIONS))
    yield Place(kafka_bootstrap, topic_prefix, alone(tmp_path, topic_prefix), capsys)
    structlog.reset_defaults()  # the commands log to the stderr of this test, which ends here


@pytest.mark.kafka
def test_the_list_says_of_each_dead_letter_where_why_and_when(place: Place) -> None:
    before_ms = int(time.time() * 1000)
    place.die("bad_magic", [b"a", b"b", None])
    place.die("key_mismatch", [b"c"], stage="validate", attempt=2)

    everything, one = place.listed(), place.listed("--reason", "key_mismatch")
    text = place.dlq("list")

    assert len(everything) == 4
    assert one[0] == {
        **one[0], "reason": "key_mismatch", "stage": "validate", "attempt": 2, "detail": "found this",
        "source_topic": place.input, "source_partition": 1, "source_offset": 1003, "replayed": False,
    }  # fmt: skip
    assert one[0]["dead_at_ms"] >= before_ms
    assert text.splitlines()[0].split() == [
        "place", "source", "reason", "stage", "when", "attempt", "replayed", "detail",
    ]  # fmt: skip
    assert len(text.splitlines()) == 5
    assert len(place.listed("--limit", "2")) == 2
    assert len(place.listed("--since", "1h")) == 4
    assert place.listed("--since", "2100-01-01") == []


@pytest.mark.kafka
def test_a_replay_sends_bytes_key_and_headers_as_they_came_and_counts_the_attempt(place: Place) -> None:
    place.die("bad_magic", [b"C1", None])

    place.dlq("replay", "--all")

    bare, keyed = sorted(place.sent_in(), key=lambda message: message.value())
    assert (bare.value(), bare.key()) == (b"--", None)
    assert (keyed.value(), keyed.key()) == (b"C1C1", b"C1")
    assert keyed.headers() == [("trace", b"\xff\0"), ("penstock.attempt", b"1")]
    assert bare.partition() == 1, "without a key it goes back where it was"


@pytest.mark.kafka
def test_a_replay_sends_each_dead_letter_once_however_it_is_chosen(place: Place) -> None:
    place.die("bad_magic", [b"a", b"b", b"c"])
    place.die("key_mismatch", [b"d", b"e"], stage="validate")
    one = place.listed("--reason", "bad_magic")[1]
    at = f"{one['partition']}-{one['offset']}"

    assert "would send 5" in place.dlq("replay", "--all", "--dry-run")
    assert place.sent_in() == []
    assert "sent 1" in place.dlq("replay", "--offset", at)
    assert "sent 0" in place.dlq("replay", "--offset", at)
    assert "sent 2" in place.dlq("replay", "--reason", "key_mismatch")
    assert "sent 2" in place.dlq("replay", "--all")
    assert "sent 0" in place.dlq("replay", "--all")
    assert sorted(m.value() for m in place.sent_in()) == [b"aa", b"bb", b"cc", b"dd", b"ee"]
    assert all(letter["replayed"] for letter in place.listed())

    place.die("bad_magic", [b"f"])
    assert "sent 1" in place.dlq("replay", "--all")
    assert "sent 1" in place.dlq("replay", "--offset", at, "--again")


@pytest.mark.kafka
def test_what_was_tried_too_often_is_left_until_more_attempts_are_allowed(place: Place) -> None:
    place.die("bad_magic", [b"a"], attempt=5)
    place.die("bad_magic", [b"b"], attempt=4)

    first = place.dlq("replay", "--all")
    second = place.dlq("replay", "--all", "--max-attempts", "6")

    assert "sent 1" in first
    assert "left 1 that were tried too often" in first
    assert "sent 1" in second


@pytest.mark.kafka
def test_what_is_part_of_the_state_already_is_sent_in_only_when_it_is_named(place: Place) -> None:
    place.die("model_failed", [b"a"], stage="score")

    everything = place.dlq("replay", "--all")
    named = place.dlq("replay", "--reason", "model_failed")

    assert "sent 0" in everything
    assert "1 model_failed" in everything
    assert "sent 1" in named


@pytest.mark.kafka
@pytest.mark.parametrize("seed", range(2))
def test_a_replay_that_is_killed_again_and_again_sends_each_once(place: Place, seed: int) -> None:
    place.die("bad_magic", [b"%d" % i for i in range(5000)])
    words = [sys.executable, "-m", "worker.cli", "dlq", "replay", str(place.file), "--all"]
    rng = random.Random(seed)

    for _ in range(4):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(rng.uniform(1.0, 3.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
    place.dlq("replay", "--all")

    assert sorted(m.value() for m in place.sent_in()) == sorted(b"%d" % i * 2 for i in range(5000))


@pytest.mark.kafka
@pytest.mark.redis
def test_a_dead_letter_that_was_mended_is_scored_and_one_that_was_not_comes_back(
    place: Place, redis_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    env = {"PENSTOCK_KAFKA": place.kafka, "PENSTOCK_STORE": redis_url, "PENSTOCK_DEVICE": "cpu"}
    (tmp_path / "old.avsc").write_text(json.dumps(OLD))
    keys, values = transactions(100, seed=6)
    table = Codec(load_schema("transaction"), "single_object").decode(values[:20]).table
    old = Codec(load_schema(str(tmp_path / "old.avsc")), "single_object")
    values[:20] = old.encode(table.select([f["name"] for f in OLD["fields"]]))
    values[20:25] = [b"junk"] * 5
    reader = Reader(place.kafka, topic_prefix)
    fill(place.kafka, place.input, keys, values)

    with running([[place.file]], tmp_path, env):
        first = reader.read_all(100)
        assert len(first.scores) == 75
    letters = place.listed("--reason", "unknown_schema")
    shown = place.dlq("show", str(letters[0]["partition"]), str(letters[0]["offset"]))
    place.file = alone(tmp_path, topic_prefix, source={"writer_schemas": ["old.avsc"]})
    mended = place.dlq(
        "show", "--source", "-".join(str(letters[0][f"source_{k}"]) for k in ("topic", "partition", "offset"))
    )
    with running([[place.file]], tmp_path, env):
        replayed = place.dlq("replay", "--all")
        found = reader.read_all(125)
    reader.close()
    again = [letter for letter in place.listed() if letter["attempt"] == 2]

    assert len(letters) == 20
    assert "names none of the file's schemas" in shown
    assert "the bytes are a good record" in mended
    assert "sent 25" in replayed
    assert len(found.scores) == 75 + 20
    assert found.doubled == []
    assert [letter["reason"] for letter in again] == ["bad_magic"] * 5


@pytest.mark.kafka
def test_a_replay_does_not_send_in_what_comes_of_itself(place: Place) -> None:
    """While it runs, a worker makes dead letters of the same records again, further up the same topic."""
    place.die("bad_magic", [b"%d" % i for i in range(1500)])
    pipeline = load_pipeline(place.file)
    comes = iter(range(10))

    def die_again(_read: int, _all: int) -> None:
        if next(comes, None) is not None:
            place.die("bad_magic", [b"again"], attempt=2)

    tally = replay(pipeline, Choice(), on_records=die_again)

    assert tally.sent.total() == 1500
    assert len(place.sent_in()) == 1500


@pytest.mark.kafka
def test_what_a_replay_has_sent_can_be_read_while_it_looks_for_the_next(place: Place) -> None:
    """The worker reads committed records only: an open transaction would hold up its live input too."""
    place.die("bad_magic", [b"key"])
    place.die("key_mismatch", [b"key"] * 3000)
    pipeline = load_pipeline(place.file)
    seen: list[int] = []

    def look(_read: int, _all: int) -> None:
        time.sleep(0.6)
        seen.append(len(place.sent_in()))

    replay(pipeline, Choice(reasons=frozenset({"bad_magic"})), on_records=look)

    assert len(seen) >= 3
    assert seen[2:] == [1] * (len(seen) - 2)
