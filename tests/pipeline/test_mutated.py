"""Damaged records never stop the worker, and none of them disappears."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.workers import create_topics, pipeline_file, running, topics_of
from loadgen.arrivals import arrivals
from loadgen.run import Load, Target
from loadgen.sources import simulated_fraud

EVENTS = 100_000
DAMAGED_SHARE = 0.105  # chance a record: a little over ten thousand


@pytest.mark.kafka
@pytest.mark.redis
def test_ten_thousand_damaged_records_among_a_hundred_thousand_are_all_accounted_for(
    kafka_bootstrap: str, redis_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    create_topics(kafka_bootstrap, topics_of(topic_prefix, 4))
    files = [pipeline_file(name, tmp_path, topic_prefix) for name in ("fraud", "terminal-risk")]
    env = {"PENSTOCK_KAFKA": kafka_bootstrap, "PENSTOCK_STORE": redis_url, "PENSTOCK_DEVICE": "cpu"}
    target = Target(
        bootstrap=kafka_bootstrap,
        topics={"transactions": f"{topic_prefix}transactions", "labels": f"{topic_prefix}labels"},
        outputs={"fraud": f"{topic_prefix}fraud"},
    )

    with running([files], tmp_path, env) as (worker,):
        load = Load(
            target,
            [simulated_fraud(arrivals("constant", 8000.0, seed=1))],
            mutated_share=DAMAGED_SHARE,
            seed=7,
            max_events=EVENTS,
        )
        load.start()
        stream = load.finish(drain_s=120)["streams"]["fraud"]
        assert worker.process.poll() is None, worker.tail()

    damaged = sum(kind["records"] for kind in stream["mutated"].values())
    assert stream["events"] == EVENTS
    assert damaged >= 10_000
    assert stream["unaccounted"] == 0
    assert stream["duplicates"] == 0
    assert stream["scored_and_dead"] == 0
    assert stream["scores"] + stream["dead_letters"] == EVENTS
    assert stream["scores"] >= EVENTS - damaged, "no record that was left whole became a dead letter"
    assert len(stream["dead_letter_reasons"]) >= 8, stream["dead_letter_reasons"]
