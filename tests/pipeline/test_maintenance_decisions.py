"""Rules, the end of an interval and a fixed cadence, decided through a crash as a slow reference decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from benchmarks.workers import REPOSITORY, create_topics, pipeline_file, running, topics_of
from schemas.codec import Codec
from schemas.schema import load_schema
from schemas.table import to_table
from tests.pipeline.streams import PARTITIONS, START_MS, Reader, fill
from tests.unit.test_decision_rules import slow_stream
from worker.config import load_pipeline
from worker.decision_rules import where_rules_hold
from worker.interval import ends
from worker.model_file import load_model_card
from worker.plan import decision_policy

MODEL = REPOSITORY / "models" / "rul" / "1"
FIELDS = [f"s{number:02d}" for number in (2, 3, 4, 7, 8, 9, 11, 12, 13, 14, 15, 17, 20, 21)]
MACHINES, READINGS, POINTS, EVERY_MS = 12, 90, 30, 10_000
HOT = 1408.0  # of s04, about where half of the made-up engine lives are behind


def change(document: dict[str, Any]) -> None:
    """The shipped pipeline with a cadence, one scalar feature, and rules beside the model."""
    document["features"]["readings"] |= {"every": "10s", "capacity": 60}
    document["features"]["t50"] = {"kind": "field", "field": "s04"}
    document["features"]["setting"] = {"kind": "field", "field": "setting_1"}
    document["decision"] = {
        "alert_when": "below",
        "severities": {"warning": 60, "critical": 20},
        "clear_margin": 5,
        "on": "low",
        "needs_complete": True,
        "rules": {
            "hot": {"when": f"t50 > {HOT} and score < 100", "combine": "or", "severity": "critical"},
            "warm": {"when": f"t50 > {HOT - 10}", "combine": "and"},
            "service": {"when": "setting > 0.9", "combine": "override", "severity": "none"},
        },
    }


def made_up() -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Machine, time (ms), the fourteen sensors and setting_1 of readings in the order of the topic.

    Each machine wears along the golden rows of the model, at irregular times; one reading in eight is late.
    """
    random = np.random.default_rng(5)
    with np.load(MODEL / "golden.npz") as golden:
        worn = golden["readings"][:, -1]  # (32, 14) from healthy to worn
    machine = np.repeat(np.arange(MACHINES), READINGS)
    time_ms = np.cumsum(random.integers(5_000, 25_000, (MACHINES, READINGS)), axis=1).reshape(-1)
    at = np.tile(np.linspace(0, len(worn) - 1.01, READINGS), MACHINES)
    part, low = at % 1, at.astype(int)
    sensors = worn[low] * (1 - part)[:, None] + worn[low + 1] * part[:, None]
    sensors = (sensors + random.normal(0, 0.02, sensors.shape) * worn.std(axis=0)).astype(np.float32)
    late = np.where(random.random(len(at)) < 0.125, random.integers(0, 60_000, len(at)), 0)
    order = np.argsort(time_ms + late, kind="stable")
    setting = random.random(len(at)) ** 0.25 * (random.random(len(at)) < 0.2)
    return (
        machine[order],
        time_ms[order],
        sensors[order],
        setting[order].astype(np.float32),
    )


def grids(
    machine: NDArray[np.int64], time_ms: NDArray[np.int64], sensors: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(n, 30, 14) the last reading at each point as of each event, and whether some point has none."""
    out = np.empty((len(machine), POINTS, len(FIELDS)), np.float32)
    is_short = np.zeros(len(machine), np.bool_)
    for i in range(len(machine)):
        mine = np.flatnonzero((machine[: i + 1] == machine[i]) & (time_ms[: i + 1] <= time_ms[i]))
        mine = mine[np.argsort(time_ms[mine], kind="stable")]
        mine = np.append(mine[mine != i], i)
        points = time_ms[i] - EVERY_MS * np.arange(POINTS)[::-1]
        last = np.searchsorted(time_ms[mine], points, side="right") - 1
        is_short[i] = last[0] < 0
        out[i] = sensors[mine[np.maximum(last, 0)]]
    return out, is_short


@pytest.mark.kafka
@pytest.mark.redis
def test_alerts_by_rules_and_an_interval_are_the_references_through_a_crash(
    kafka_bootstrap: str, redis_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    env = {
        "PENSTOCK_KAFKA": kafka_bootstrap,
        "PENSTOCK_STORE": redis_url,
        "PENSTOCK_DEVICE": "cpu",
        "PENSTOCK_WRITE_INTERVAL": "50ms",
    }
    create_topics(kafka_bootstrap, topics_of(topic_prefix, PARTITIONS))
    file = pipeline_file("maintenance", tmp_path, topic_prefix, change)
    machine, time_ms, sensors, setting = made_up()
    keys = [f"M{m}".encode() for m in machine.tolist()]
    schema = load_schema("sensor_reading")
    columns: dict[str, Any] = {f"s{k:02d}": np.zeros(len(keys), np.float32) for k in range(1, 22)}
    columns |= {name: np.zeros(len(keys), np.float32) for name in ("setting_2", "setting_3")}
    columns |= dict(zip(FIELDS, np.ascontiguousarray(sensors.T), strict=True))
    table = to_table(
        schema,
        {
            "reading_id": [f"r{i}" for i in range(len(keys))],
            "event_time": time_ms + START_MS,
            "machine_id": [key.decode() for key in keys],
            "cycle": np.ones(len(keys), np.int32),
            "setting_1": setting,
            **columns,
        },
    )
    values = Codec(schema, "single_object").encode(table)
    reader = Reader(kafka_bootstrap, topic_prefix, "maintenance")

    half = len(keys) // 2
    fill(kafka_bootstrap, f"{topic_prefix}readings", keys[:half], values[:half])
    with running([[file]], tmp_path, env) as (worker,):
        before, alerts_before = reader.scores_and_alerts(half)
        fill(kafka_bootstrap, f"{topic_prefix}readings", keys[half:-100], values[half:-100])
        worker.process.kill()
        worker.process.wait(10)
    with running([[file]], tmp_path, env):
        fill(kafka_bootstrap, f"{topic_prefix}readings", keys[-100:], values[-100:])
        after, alerts_after = reader.scores_and_alerts(len(keys) - half)
    reader.close()

    windows, is_short = grids(machine, time_ms, sensors)
    session = ort.InferenceSession(MODEL / "model.onnx", providers=["CPUExecutionProvider"])
    scores = session.run(None, {"readings": windows})[0].reshape(-1)
    interval, policy = load_model_card(MODEL).interval, decision_policy(load_pipeline(file, env))
    assert interval is not None
    assert policy is not None
    low, high = ends(interval, scores)
    held = where_rules_hold(
        policy.rules, np.stack([sensors[:, FIELDS.index("s04")], setting], axis=1).astype(np.float64), scores
    )
    events = [
        (float("nan") if short else float(value), int(t), int(m))
        for short, value, t, m in zip(is_short, low, time_ms, machine, strict=True)
    ]
    decided = slow_stream(events, held.tolist(), policy)
    expected = {f"r{i}": said for i, said in enumerate(decided) if said[0] != "NONE"}

    published = {score["event_id"]: score for score in (*before, *after)}
    assert len(published) == len(before) + len(after) == len(keys)
    for i in range(len(keys)):
        found = published[f"r{i}"]
        assert found["score"] == pytest.approx(float(scores[i]), abs=1e-4)
        assert (found["low"], found["high"]) == pytest.approx((float(low[i]), float(high[i])), abs=1e-4)
        assert found["incomplete"] == is_short[i]
    levels = {"warning": 1, "critical": 2}
    assert {
        alert["event_id"]: (alert["lifecycle"], levels[alert["severity"]], alert["rules"])
        for alert in (*alerts_before, *alerts_after)
    } == expected
    assert {rule for *_, rules in expected.values() for rule in rules} == {"hot", "warm", "service"}
    assert {lifecycle for lifecycle, *_ in expected.values()} == {"RAISED", "UPDATED", "CLEARED"}
