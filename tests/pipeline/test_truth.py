"""Figures of the truth are exact, whatever dies on the way: members, and all that Redis knows."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from benchmarks.workers import create_topics, running, start_worker, topics_of
from schemas.codec import Codec
from schemas.schema import load_schema
from schemas.table import to_table
from tests.pipeline.streams import PARTITIONS, SOON_MISSED, START_MS, Reader, alone, fill, transactions
from tests.services import Service
from worker.accuracy import auc, average_precision
from worker.assemble import store_opener
from worker.cli import main
from worker.config import load_pipeline
from worker.exits import StopWorker
from worker.truth_assemble import open_truths
from worker.truth_topic import figures_codec, read_figures

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.alone]
EVENTS, PARTS = 4_500, 3
TIMEOUT_S = 150.0
SEED = 11


def labels() -> tuple[list[bytes], list[bytes], dict[str, bool]]:
    """Keys and values of labels, and what is true in the end: of 70 % of the events, some of it corrected."""
    rng = np.random.default_rng(SEED)
    labelled = rng.permutation(EVENTS)[: EVENTS * 7 // 10].tolist()
    first = dict(zip(labelled, (rng.random(len(labelled)) < 0.3).tolist(), strict=True))
    again = rng.permutation(labelled)[: EVENTS // 10].tolist()
    rows = [*((i, truth, 1) for i, truth in first.items()), *((i, not first[i], 2) for i in again)]
    rows = [rows[i] for i in rng.permutation(len(rows)).tolist()]  # a correction may come first
    terminals = [f"T{i % 50}" for i, _, _ in rows]
    columns = {
        "event_id": [f"{SEED}-{i}" for i, _, _ in rows],
        "event_time": np.array([START_MS + day * 86_400_000 for _, _, day in rows]),
        "customer_id": "C",
        "terminal_id": terminals,
        "fraud": [truth for _, truth, _ in rows],
    }
    schema = load_schema("label")
    values = Codec(schema, "single_object").encode(to_table(schema, columns))
    last = {f"{SEED}-{i}": truth for i, truth, day in sorted(rows, key=lambda row: row[2])}
    return [terminal.encode() for terminal in terminals], values, last


def label_source(topic: str) -> dict[str, Any]:
    """Where labels come from, as a pipeline file says it."""
    fields = {"event_id": "event_id", "label": "fraud", "time": "event_time"}
    return {"topic": topic, "schema": "label", **fields}


def amounts(values: list[bytes]) -> dict[str, float]:
    """What each transaction is worth, as the feature of an alert has it: a float32."""
    rows = Codec(load_schema("transaction"), "single_object").decode(values).table.to_pylist()
    return {row["transaction_id"]: row["amount"] for row in rows}


def expected_figures(reader: Reader, amounts: dict[str, float], truth: dict[str, bool]) -> dict[str, Any]:
    """The figures, computed from what the topics say."""
    found = reader.outcomes
    known = [(found.scores[p], truth[i], i) for p, i in found.ids.items() if i in truth]
    alerts = {found.ids[p]: severity for p, (severity, _) in found.alerts.items()}
    right = [i for i in alerts if truth.get(i)]
    figures: dict[str, Any] = {
        "scored": len(found.ids),
        "labelled": len(known),
        "positives": sum(t for _, t, _ in known),
        "alerts": len(alerts),
        "alerts_labelled": sum(i in truth for i in alerts),
        "alerts_right": len(right),
        "thresholds": {},
    }
    for severity, threshold in (("warning", 0.2), ("critical", 0.6)):
        hit = [(t, i) for s, t, i in known if s >= np.float32(threshold)]
        # Only events that raised an alert are known to be worth something.
        saved = sum(amounts[i] for t, i in hit if t and i in alerts)
        figures["thresholds"][severity] = (len(hit), sum(t for t, _ in hit), round(saved, 2))
    return figures


def as_expected(row: dict[str, Any]) -> dict[str, Any]:
    """A row of figures in the form of `expected_figures`."""
    names = ("scored", "labelled", "positives", "alerts", "alerts_labelled", "alerts_right")
    thresholds = {
        at["severity"]: (at["flagged"], at["right"], round(at["value_saved"], 2)) for at in row["thresholds"]
    }
    return {**{name: row[name] for name in names}, "thresholds": thresholds}


def published(file: Path, env: dict[str, str], expected: dict[str, Any], since: datetime) -> dict[str, Any]:
    """Rows by segment, as soon as those of all are the expected ones, and were made since then."""
    pipeline = load_pipeline(file, env)
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        read = read_figures(pipeline, figures_codec(pipeline, writes=False)).values()
        rows = {row["segment"]: row for row in read}
        made = {row["computed_at"] for row in rows.values()}  # more than one: not all of them are written yet
        if "all" in rows and len(made) == 1 and made.pop() > since and as_expected(rows["all"]) == expected:
            return rows
        assert time.monotonic() < deadline_s, f"{rows.get('all')}\n{expected}"
        time.sleep(0.5)


def test_figures_are_exact_though_a_member_dies_and_redis_loses_everything(
    kafka_bootstrap: str,
    own_redis: Service,
    topic_prefix: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = {
        "PENSTOCK_KAFKA": kafka_bootstrap,
        "PENSTOCK_STORE": own_redis.address,
        "PENSTOCK_DELIVERY": "exactly_once",
        "PENSTOCK_DEVICE": "cpu",
    }
    create_topics(kafka_bootstrap, {**topics_of(topic_prefix, PARTITIONS), f"{topic_prefix}fraud.truth": 3})
    truth = {
        "topic": f"{topic_prefix}fraud.truth",
        "labels": label_source(f"{topic_prefix}labels"),
        "window": "60d",
        "value": "alert.amount",
        "publish_interval": "500ms",
        "segment": "label.fraud",
        "segments": ["true"],
    }
    file = alone(tmp_path, topic_prefix, truth=truth, kafka=SOON_MISSED)
    events = transactions(EVENTS, seed=SEED)
    *label_records, last = labels()

    def send(part: int) -> None:
        """Part of the events, and labels that have nothing to do with them."""
        for topic, (keys, values) in {"transactions": events, "labels": label_records}.items():
            here = slice(len(keys) * part // PARTS, len(keys) * (part + 1) // PARTS)
            fill(kafka_bootstrap, f"{topic_prefix}{topic}", keys[here], values[here])

    reader = Reader(kafka_bootstrap, topic_prefix)
    with (
        running([[file], [file]], tmp_path, env) as (first, second),
        redis.Redis.from_url(own_redis.address) as client,
    ):
        send(0)
        reader.read_all(EVENTS // PARTS, TIMEOUT_S)
        send(1)
        first.process.kill()
        reader.read_all(EVENTS * 2 // PARTS, TIMEOUT_S)
        client.flushall()
        send(2)
        reader.read_all(EVENTS, TIMEOUT_S)
        expected = expected_figures(reader, amounts(events[1]), last)
        published(file, env, expected, datetime.fromtimestamp(0, UTC))
        since = datetime.now(UTC)
        client.flushall()  # now nothing comes any more that would show it
        rows = published(file, env, expected, since)
        assert second.process.poll() is None, second.tail()
        metrics = second.metrics()
        reader.close()

    assert expected["labelled"] == EVENTS * 7 // 10
    assert set(rows) == {"all", "true", "other", "unknown"}
    assert rows["true"]["labelled"] == rows["true"]["positives"] == expected["positives"]
    assert rows["unknown"]["scored"] == EVENTS - expected["labelled"]
    known = [(reader.outcomes.scores[p], last[i]) for p, i in reader.outcomes.ids.items() if i in last]
    score, label = np.array([s for s, _ in known]), np.array([t for _, t in known], np.int64)
    low, high = (rows["all"][f"average_precision_{end}"] for end in ("low", "high"))
    assert low <= average_precision(label, score) <= high
    assert rows["all"]["auc"] == pytest.approx(auc(label, score), abs=0.01)
    assert f'penstock_truth_scored{{pipeline="fraud",segment="all",version="2"}} {EVENTS}.0' in metrics
    assert int(float(re.findall(r"^penstock_truth_read_again_total\S* (\S+)", metrics, re.M)[0])) >= 1
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert main(["truth", str(file), "--json"]) == 0
    assert {json.loads(line)["segment"] for line in capsys.readouterr().out.splitlines()} == set(rows)
    assert main(["truth", str(file)]) == 0
    assert "critical" in capsys.readouterr().out


def test_the_join_can_run_in_a_process_that_does_not_score(
    kafka_bootstrap: str, redis_url: str, redis_prefix: str, topic_prefix: str, tmp_path: Path
) -> None:
    assert redis_prefix in topic_prefix  # what is left in Redis is removed by the fixture
    env = {"PENSTOCK_KAFKA": kafka_bootstrap, "PENSTOCK_STORE": redis_url, "PENSTOCK_DEVICE": "cpu"}
    create_topics(kafka_bootstrap, {**topics_of(topic_prefix, 2), f"{topic_prefix}fraud.truth": 1})
    truth = {
        "topic": f"{topic_prefix}fraud.truth",
        "labels": label_source(f"{topic_prefix}labels"),
        "window": "60d",
        "publish_interval": "500ms",
        "beside": False,
    }
    file = alone(tmp_path, topic_prefix, truth=truth)
    reader = Reader(kafka_bootstrap, topic_prefix)
    fill(kafka_bootstrap, f"{topic_prefix}transactions", *transactions(EVENTS, seed=SEED))
    keys, values, last = labels()
    with running([[file]], tmp_path, env) as (scoring,):
        reader.read_all(EVENTS, TIMEOUT_S)
        fill(kafka_bootstrap, f"{topic_prefix}labels", keys, values)
        assert "penstock_truth_scored{" not in scoring.metrics()
    expected = expected_figures(reader, dict.fromkeys(last, 0.0), last)
    reader.close()

    joining = start_worker([file], tmp_path / "joining.log", env, "--only-truth")
    try:
        rows = published(file, env, expected, datetime.fromtimestamp(0, UTC))
        assert 'penstock_truth_labelled{pipeline="fraud",segment="all",version="2"}' in joining.metrics()
        assert joining.stop() == 0, joining.tail()
    finally:
        joining.process.kill()

    assert set(rows) == {"all"}


def test_a_label_topic_that_does_not_exist_stops_the_start_and_is_named(
    kafka_bootstrap: str, topic_prefix: str, tmp_path: Path
) -> None:
    source = label_source(f"{topic_prefix}nothing")
    file = alone(tmp_path, topic_prefix, truth={"topic": f"{topic_prefix}truth", "labels": source})
    env = {"PENSTOCK_KAFKA": kafka_bootstrap, "PENSTOCK_STORE": "memory://"}

    with pytest.raises(StopWorker, match=f"topic '{topic_prefix}nothing' does not exist"):
        open_truths([load_pipeline(file, env)], store_opener(), only_truth=False)
