"""A capacity run on real Kafka and Redis measures, and leaves everything as it found it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from benchmarks.workers import create_topics, topics_of
from tests.pipeline.streams import PARTITIONS, alone, fill, transactions
from worker.capacity_apart import PREFIX
from worker.cli import main
from worker.exits import Exit

pytestmark = [pytest.mark.kafka, pytest.mark.redis]
SAMPLE = 3_000


class Live:
    """What the pipeline itself has in Kafka and Redis."""

    def __init__(self, kafka: str, url: str, prefix: str) -> None:
        self.kafka, self.url, self.prefix = kafka, url, prefix
        self.group = f"{prefix}fraud"
        self.topics = sorted(t for t in topics_of(prefix, 1) if "labels" not in t)

    def places(self) -> list[TopicPartition]:
        return [TopicPartition(self.prefix + "transactions", p) for p in range(PARTITIONS)]

    def commit(self) -> None:
        """As if a worker had read ten records of each partition."""
        client = self._client()
        offsets = [TopicPartition(place.topic, place.partition, 10) for place in self.places()]
        _patiently(partial(client.commit, offsets=offsets, asynchronous=False))
        client.close()

    def state(self) -> dict[str, Any]:
        """Ends of the topics, committed offsets, and everything in Redis."""
        client = self._client()
        ends = {
            f"{topic}-{p}": _patiently(partial(client.get_watermark_offsets, TopicPartition(topic, p), 20))
            for topic in self.topics
            for p in range(PARTITIONS)
        }
        asked = _patiently(partial(client.committed, self.places(), 20))
        committed = [place.offset for place in asked]
        client.close()
        with redis.Redis.from_url(self.url) as store:
            rows = {key: store.dump(key) for key in store.scan_iter(count=1000)}
        return {"ends": ends, "committed": committed, "rows": rows}

    def left_behind(self) -> list[str]:
        """Topics and groups of capacity runs."""
        admin = AdminClient({"bootstrap.servers": self.kafka})
        groups = [group.group_id for group in admin.list_consumer_groups().result(20).valid]
        return [name for name in [*admin.list_topics(timeout=20).topics, *groups] if name.startswith(PREFIX)]

    def _client(self) -> Consumer:
        return Consumer(
            {"bootstrap.servers": self.kafka, "group.id": self.group, "enable.auto.commit": False}
        )


def _patiently(ask: Callable[[], Any]) -> Any:
    """The answer of a broker that may not know yet that it leads a topic which was just made."""
    deadline_s = time.monotonic() + 60
    while True:
        try:
            return ask()
        except KafkaException:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.2)


@pytest.fixture
def live(kafka_bootstrap: str, redis_url: str, redis_prefix: str, topic_prefix: str) -> Live:
    create_topics(kafka_bootstrap, topics_of(topic_prefix, PARTITIONS))
    found = Live(kafka_bootstrap, redis_url, topic_prefix)
    fill(kafka_bootstrap, f"{topic_prefix}transactions", *transactions(SAMPLE, customers=100))
    found.commit()
    with redis.Redis.from_url(redis_url) as store:
        store.set(
            f"ps:{{{topic_prefix}fraud:{topic_prefix}transactions:0}}:C1".encode(), redis_prefix.encode()
        )
    return found


def test_a_run_says_what_a_worker_can_do_and_leaves_no_trace(
    live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PENSTOCK_KAFKA", live.kafka)
    monkeypatch.setenv("PENSTOCK_STORE", live.url)
    monkeypatch.setenv("PENSTOCK_DEVICE", "cpu")
    file = alone(tmp_path, live.prefix)
    before = live.state()
    asked = ["--seconds", "1", "--traffic", "20000", "--hourly-price", "0.5", "--p99-ms", "60000"]

    code = main(["capacity", str(file), *asked, "--json", "--html", str(tmp_path / "page.html")])

    said = capfd.readouterr()
    assert code == 0, said.err
    report = json.loads(said.out)
    assert report["events"] == {
        "source": f"3,000 events sampled from topic {live.prefix}transactions",
        "keys": 100,
    }
    assert report["partitions"] == PARTITIONS
    assert [step["share"] for step in report["steps"]] == [0.1, 0.25, 0.5, 0.75, 0.9]
    for step in report["steps"]:
        assert step["dead_letters"] == step["duplicates"] == step["foreign"] == step["unreadable"] == 0
        assert step["scores"] + step["unaccounted"] == step["events"]
    first = report["steps"][0]
    assert first["unaccounted"] == 0
    assert 0 < first["latency_ms"]["p50"] <= first["latency_ms"]["p99"] <= first["latency_ms"]["p99.9"]
    assert report["steps"][-1]["events"] > first["events"]

    saturation = report["saturation"]
    assert saturation["events_per_s"] > 0
    assert saturation["dead_letters"] == 0
    # A process cannot have used more than all cores, and the loop not more than all the time; but a stage
    # under way at the first look counts whole at the second, and a busy machine answers a look late.
    assert 0 < saturation["cores"]["worker"] <= saturation["cores"]["of"] + 0.5
    assert 0 < sum(saturation["stage_share"].values()) < 1 + 0.5 / saturation["seconds"]
    assert report["one_core_per_s"] == pytest.approx(1e6 / saturation["cpu_us_per_event"])
    need = report["need"]
    assert need["busiest_events_per_s"] <= 0.7 * report["member_limit_per_s"] * (1 + 1e-9)
    assert need["per_million"] == pytest.approx(need["members"] * 0.5 / (20_000 * 3600) * 1e6)
    # A hundred customers with at most 512 transactions in each of two groups.
    assert 100 < report["store"]["value_bytes_per_key"] < report["store"]["bytes_per_key"] < 40_000
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 2 + len(report["steps"])
    assert re.findall(r"https?:", page) == []

    assert live.state() == before
    assert live.left_behind() == []


@pytest.mark.parametrize(
    ("variable", "value", "code", "why"),
    [
        ("PENSTOCK_STORE", "redis://127.0.0.1:1/0", Exit.STORE, "Redis"),
        ("PENSTOCK_DEVICE", "cuda:99", Exit.MODEL, "cuda:99"),
    ],
)
def test_what_keeps_a_worker_from_starting_is_said_in_one_line_and_nothing_is_left(
    variable: str,
    value: str,
    code: Exit,
    why: str,
    live: Live,
    tmp_path: Path,
) -> None:
    env = {"PENSTOCK_KAFKA": live.kafka, "PENSTOCK_STORE": live.url, variable: value}
    file = alone(tmp_path, live.prefix)
    before = live.state()

    # In a process of its own, for its Kafka clients too must say nothing there.
    ended = subprocess.run(
        [sys.executable, "-m", "worker.cli", "capacity", str(file), "--seconds", "1"],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert ended.returncode == code, ended.stderr
    assert ended.stdout == ""
    assert why in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr
    assert live.state() == before
    assert live.left_behind() == []
