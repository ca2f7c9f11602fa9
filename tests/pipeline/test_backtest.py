"""What a live worker published is what a backtest of the log gives, to the last bit."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks.workers import RunningWorker, create_topics, pipeline_file, running, topics_of
from schemas.codec import Codec
from schemas.schema import load_schema
from schemas.table import to_table
from tests.pipeline.streams import START_MS, Outcomes, Reader
from tests.pipeline.test_rebuild import DAY_MS, DAYS, scores_only
from tests.pipeline.test_rebuild import EVENTS as LOG_EVENTS
from tests.pipeline.test_rebuild import fill as fill_log
from worker.cli import main
from worker.config import load_pipeline
from worker.decode import TIME_MARKER
from worker.exits import Exit
from worker.export import feature_tables
from worker.plan import feature_plan
from worker.replay import Period
from worker.replay_log import from_log

EVENTS, LABELS = 3000, 4000
PARTITIONS = {"transactions": 3, "labels": 2}
SPAN_MS = 6 * 86_400_000  # an owner that is ahead of everything is within its allowed lateness of 7 days
MIDDLE = "2025-10-12T09:00"


def events(
    stream: str,
    count: int,
    columns: dict[str, Any],
    seed: int,
    *,
    span_ms: tuple[int, int] = (0, SPAN_MS),
    late_share: float = 0.1,
) -> tuple[list[bytes], list[bytes]]:
    """Keys and values of some days; a share comes half an hour late."""
    rng = np.random.default_rng(seed)
    key = "customer_id" if stream == "transaction" else "terminal_id"
    time_ms = np.sort(rng.integers(*span_ms, count)) + START_MS
    time_ms -= rng.choice([0, 1_800_000], count, p=[1 - late_share, late_share])
    schema = load_schema(stream)
    ids = {
        "customer_id": [f"C{i}" for i in rng.integers(0, 150, count).tolist()],
        "terminal_id": [f"T{i}" for i in rng.integers(0, 80, count).tolist()],
    }
    table = to_table(schema, {"event_time": time_ms, **ids, **columns})
    return [name.encode() for name in ids[key]], Codec(schema, "single_object").encode(table)


def fill(kafka: str, topic: str, keys: list[bytes], values: list[bytes], marked: int) -> None:
    """Produce records, and for each partition that is to be marked, that it is complete."""
    producer = Producer({"bootstrap.servers": kafka, "partitioner": "murmur2_random", "linger.ms": 5})
    for key, value in zip(keys, values, strict=True):
        producer.produce(topic, value, key)
        producer.poll(0)
    assert producer.flush(60) == 0
    for partition in range(marked):
        producer.produce(topic, None, partition=partition, headers={TIME_MARKER: str(START_MS + SPAN_MS)})
    assert producer.flush(60) == 0


def send(kafka: str, prefix: str) -> None:
    """Make all topics of the shipped pipelines, and fill the inputs."""
    rng = np.random.default_rng(4)
    sent = {
        "transactions": events(
            "transaction",
            EVENTS,
            {
                "transaction_id": [str(i) for i in range(EVENTS)],
                "amount": np.round(rng.gamma(2.0, 40.0, EVENTS), 2),
            },
            1,
        ),
        "labels": events(
            "label",
            LABELS,
            {"event_id": [str(i) for i in range(LABELS)], "fraud": rng.random(LABELS) < 0.1},
            2,
        ),
    }
    create_topics(
        kafka,
        topics_of(prefix, 2) | {prefix + name: count for name, count in PARTITIONS.items()},
    )
    for name, records in sent.items():
        marked = PARTITIONS[name] if name == "labels" else 0
        fill(kafka, prefix + name, *records, marked)


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What a live worker made of the records."""

    file: str  # of the pipeline that scores
    outcomes: Outcomes


@pytest.fixture(scope="module")
def live(kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A worker that runs both pipelines, until every event has its score."""

    def fraud(document: dict[str, Any]) -> None:
        # Every event alerts, as alerts carry features; a lookup waits, so that the run has no lag to show.
        document["decision"] = {"alert_when": "above", "severities": {"every": -1.0}, "cooldown": "0s"}
        document["features"]["terminal"] |= {"when_behind": "wait", "wait_at_most": "30s"}

    prefix, folder = f"b{uuid.uuid4().hex[:12]}.", tmp_path_factory.mktemp("live")
    env = {"PENSTOCK_KAFKA": kafka_bootstrap, "PENSTOCK_STORE": "memory://", "PENSTOCK_DEVICE": "cpu"}
    send(kafka_bootstrap, prefix)
    files = [pipeline_file("fraud", folder, prefix, fraud), pipeline_file("terminal-risk", folder, prefix)]
    reader = Reader(kafka_bootstrap, prefix)
    with running([files], folder, env):
        outcomes = reader.read_all(EVENTS, timeout_s=120)
    reader.close()
    assert len(outcomes.scores) == EVENTS
    assert not any(incomplete or degraded for _, incomplete, degraded in outcomes.flags.values())
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        yield Live(file=str(files[0]), outcomes=outcomes)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """What a command prints as JSON; it must succeed."""
    assert main([*words, "--json"]) == Exit.OK
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


@pytest.mark.kafka
def test_a_backtest_of_what_a_live_worker_scored_shows_no_difference(
    live: Live, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--label", "terminal-risk.fraud", "--out", str(tmp_path))
    report = said(capsys, "backtest", live.file, *options)
    published, alerts = report["published"], len(live.outcomes.alerts)

    assert EVENTS / 2 < alerts < EVENTS  # late events begin before the last alert, and are of its cool-down
    assert published["models"] == ["fraud/2"]
    assert published["scores"]["compared"] == EVENTS
    assert published["scores"]["differ"] == 0
    assert published["scores"]["published_only"] == published["scores"]["here_only"] == 0
    assert published["alerts"]["same"] == published["alerts"]["published"] == alerts
    assert published["features"]["compared"] == alerts
    assert published["features"]["differ"] == 0
    assert report["quality"]["events"] == EVENTS  # the first labels have the ids of the transactions
    assert "<svg" in (tmp_path / "report.html").read_text()


@pytest.mark.kafka
def test_a_backtest_of_a_part_with_another_model_or_threshold_differs_in_that_alone(
    live: Live, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def published(*options: str) -> dict[str, Any]:
        found = said(capsys, "backtest", live.file, "--out", str(tmp_path), *options)["published"]
        assert isinstance(found, dict)
        assert found["features"]["differ"] == found["scores"]["published_only"] == 0
        return found

    part = published("--from", MIDDLE)
    assert 0 < part["scores"]["compared"] < EVENTS
    assert part["scores"]["differ"] == 0
    assert part["alerts"]["same"] == part["alerts"]["published"] > 0
    lane = published("--partitions", "1", "--model", "fraud/1")
    assert lane["scores"]["compared"] == sum(partition == 1 for partition, _ in live.outcomes.scores)
    assert lane["scores"]["differ"] > 0
    spread = published("--processes", "2")
    assert (spread["scores"]["compared"], spread["scores"]["differ"]) == (EVENTS, 0)
    assert spread["alerts"]["same"] == len(live.outcomes.alerts)
    strict = published("--threshold", "0.999", "--batch-rows", "100")
    assert strict["scores"]["differ"] == 0
    assert strict["alerts"]["vanish"] + strict["alerts"]["same"] == len(live.outcomes.alerts)
    assert strict["alerts"]["vanish"] > 0


@pytest.mark.kafka
def test_nothing_served_is_skewed_and_an_event_is_explained_by_the_score_it_got(
    live: Live, capsys: pytest.CaptureFixture[str]
) -> None:
    skew = said(capsys, "features", "skew", live.file)
    assert (skew["compared"], skew["differ"], skew["missing"]) == (len(live.outcomes.alerts), 0, 0)

    place = max(live.outcomes.scores)
    explained = said(capsys, "explain", live.file, *map(str, place))
    assert explained["is_same"] is True
    assert explained["event_id"] == live.outcomes.ids[place]
    assert np.float32(explained["score"]) == np.float32(live.outcomes.scores[place])
    assert main(["explain", live.file, "0", "999999"]) == Exit.USAGE


def wait_until_written(worker: RunningWorker) -> None:
    """Wait until lookups see something of what terminal-risk has applied."""
    written = re.compile(r'^penstock_state_writes_total\{pipeline="terminal-risk",result="ok"\} (\S+)', re.M)
    deadline_s = time.monotonic() + 60
    while sum(map(float, written.findall(worker.metrics()))) < 2:  # each of its two lanes
        assert time.monotonic() < deadline_s, worker.tail()
        time.sleep(0.1)


@pytest.mark.kafka
def test_an_event_is_explained_by_its_score_also_when_its_lookup_was_behind(
    kafka_bootstrap: str,
    topic_prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fraud(document: dict[str, Any]) -> None:
        document["decision"] = {"alert_when": "above", "severities": {"every": -1.0}, "cooldown": "0s"}
        document["features"]["terminal"] |= {"when_behind": "use", "max_age": "1d"}

    count, half = 300, SPAN_MS // 2
    rng = np.random.default_rng(6)
    columns = {"event_id": [str(i) for i in range(count)], "fraud": rng.random(count) < 0.3}
    paid = events(
        "transaction",
        count,
        {"transaction_id": [str(i) for i in range(count)], "amount": rng.gamma(2.0, 40.0, count)},
        1,
        span_ms=(half - DAY_MS // 2, half + DAY_MS + DAY_MS // 2),  # beyond what max_age allows
    )
    create_topics(kafka_bootstrap, topics_of(topic_prefix, 2))
    files = [pipeline_file("fraud", tmp_path, topic_prefix, fraud)]
    files.append(pipeline_file("terminal-risk", tmp_path, topic_prefix))
    env = {"PENSTOCK_KAFKA": kafka_bootstrap, "PENSTOCK_STORE": "memory://", "PENSTOCK_DEVICE": "cpu"}
    labels, inputs = f"{topic_prefix}labels", f"{topic_prefix}transactions"
    fill(kafka_bootstrap, labels, *events("label", count, columns, 2, span_ms=(0, half)), 0)
    reader = Reader(kafka_bootstrap, topic_prefix)
    with running([files], tmp_path, env) as (worker,):
        wait_until_written(worker)
        fill(kafka_bootstrap, inputs, *paid, 0)
        scores = reader.scores(count)
    reader.close()
    # What nobody knew when the events were scored.
    later = events("label", count, columns, 3, span_ms=(half, 2 * half), late_share=0)
    fill(kafka_bootstrap, labels, *later, 0)
    for name, value in env.items():
        monkeypatch.setenv(name, value)

    behind = [score for score in scores if score["lookup_age_ms"] and not score["degraded"]]
    stale = [score for score in scores if score["degradation"] == "STALE_LOOKUP"]
    for score in [*behind[:: len(behind) // 3], *stale[:1]]:
        place = str(score["source_partition"]), str(score["source_offset"])
        assert said(capsys, "explain", str(files[0]), *place)["is_same"] is True
    report = said(capsys, "backtest", str(files[0]), "--out", str(tmp_path / "out"))["published"]
    assert report["scores"]["differ"] > 0
    assert report["features"]["differ"] == report["features"]["behind"] > 0
    assert said(capsys, "features", "skew", str(files[0]))["share"] == 0


@pytest.mark.kafka
@pytest.mark.parametrize("is_live", [True, False])
def test_from_the_log_a_replay_begins_one_longest_window_back_and_its_windows_are_exact(
    kafka_bootstrap: str, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_live: bool
) -> None:
    monkeypatch.setenv("PENSTOCK_KAFKA", kafka_bootstrap)
    begin_ms = time.time_ns() // 1_000_000 - (DAYS + 1) * DAY_MS
    inputs = f"{topic_prefix}transactions"
    topic = NewTopic(inputs, 1, 1, config={"retention.ms": "-1"})  # else old records go at once
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    admin.create_topics([topic])[inputs].result(30)
    fill_log(kafka_bootstrap, inputs, slice(0, LOG_EVENTS), begin_ms, is_live=is_live)
    pipeline = load_pipeline(scores_only(tmp_path, topic_prefix))
    period = Period(from_us=(begin_ms + 80 * DAY_MS) * 1000, to_us=(begin_ms + 90 * DAY_MS) * 1000)

    def features(since: Period) -> pa.Table:
        table = pa.Table.from_batches(
            list(feature_tables(pipeline, from_log(pipeline, since), Period(to_us=period.to_us)))
        )
        return table.filter(pc.greater_equal(table["event_time"].cast(pa.int64()), period.from_us))

    feed = from_log(pipeline, period)(pipeline, feature_plan(pipeline))
    found, expected = features(period), features(Period())

    per_day = LOG_EVENTS / DAYS
    # Thirty days before the eightieth; looking for each of two places costs two thousand events.
    assert 40 * per_day - (0 if is_live else 4000) < feed.lanes[0].begin < 50 * per_day
    assert 9 * per_day < found.num_rows < 11 * per_day
    assert not any(found["incomplete"].to_pylist())
    assert found.equals(expected)
