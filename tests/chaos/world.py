"""What is run under faults: a model that every feature moves, the pipeline file around it, and the topics."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from confluent_kafka.admin import AdminClient, NewTopic

from tests.builders import DOUBLE, model_folder, onnx_bytes

PARTITIONS = 6  # lanes
WINDOWS = ("2s", "10s", "30s")
AGGREGATES = ("count", "sum", "mean", "min", "max", "std", "last", "since_last", "distinct")
LENGTH = 8
CAPACITY = 48  # the busiest keys have more events in 34 s: their scores are incomplete, in every run alike
HOT_ROWS = 6_000  # fewer than there are keys: rows leave memory and are loaded again
SESSION_TIMEOUT_S = 6.0  # the least that a broker allows by default
TRANSACTION_TIMEOUT_S = 4.0
THRESHOLDS = {"warning": 51.0, "critical": 60.0}

NAMES = ("amount", *(f"spent.{aggregate}_{window}" for window in WINDOWS for aggregate in AGGREGATES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Topics:
    """Where one group reads and writes."""

    group: str
    events: str
    scores: str
    alerts: str
    dead_letters: str

    @property
    def outputs(self) -> dict[str, str]:
        """Topic by kind of outcome."""
        return {"scores": self.scores, "alerts": self.alerts, "dead_letters": self.dead_letters}

    @property
    def partitions(self) -> dict[str, int]:
        """Number of partitions by topic of an outcome."""
        return {self.scores: PARTITIONS, self.alerts: 2, self.dead_letters: 1}


def topics(prefix: str, group: str) -> Topics:
    """The topics of a group: the events are shared, the outputs its own."""
    return Topics(
        group=f"{prefix}{group}",
        events=f"{prefix}events",
        scores=f"{prefix}{group}.scores",
        alerts=f"{prefix}{group}.alerts",
        dead_letters=f"{prefix}{group}.dead-letters",
    )


def create(bootstrap: str, partitions: Mapping[str, int], copies: int) -> None:
    """Create topics (name to partitions)."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    new = [NewTopic(name, count, copies) for name, count in partitions.items()]
    for future in admin.create_topics(new, operation_timeout=30.0).values():
        future.result(60)
    deadline_s = time.monotonic() + 30.0
    while not _have_leaders(admin, partitions):
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"topics {sorted(partitions)} have no leaders after 30 s")
        time.sleep(0.1)


def _have_leaders(admin: AdminClient, partitions: Mapping[str, int]) -> bool:
    known = admin.list_topics(timeout=30.0).topics
    return all(
        name in known and sum(p.leader >= 0 for p in known[name].partitions.values()) == count
        for name, count in partitions.items()
    )


def delete(bootstrap: str, names: list[str]) -> None:
    """Delete topics; their disk space is free some time later."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.delete_topics(names, operation_timeout=30.0).values():
        future.result(60)


def build_model(folder: Path) -> None:
    """A linear model of every window and the whole sequence, in double precision.

    One event too many or too few in any window, or in the sequence, moves the score by far more than the
    difference that the checker allows.
    """
    rng = np.random.default_rng(7)
    scale = np.array([0.02] + [_SCALE[aggregate] for _ in WINDOWS for aggregate in AGGREGATES])
    weights = {
        "of_scalars": (rng.uniform(0.5, 1.5, len(NAMES)) * scale).reshape(-1, 1),
        "of_sequence": (rng.uniform(0.5, 1.5, LENGTH) * 0.01).reshape(-1, 1),
    }
    onnx = onnx_bytes(
        nodes=[
            ("MatMul", ["scalars", "of_scalars"], ["a"]),
            ("Flatten", ["recent"], ["flat"]),
            ("MatMul", ["flat", "of_sequence"], ["b"]),
            ("Add", ["a", "b"], ["score"]),
        ],
        inputs=[("scalars", DOUBLE, ["n", len(NAMES)]), ("recent", DOUBLE, ["n", LENGTH, 1])],
        outputs=[("score", DOUBLE, ["n", 1])],
        weights=weights,
    )
    scalars, recent = rng.random((4, len(NAMES))), rng.random((4, LENGTH, 1))
    expected = scalars @ weights["of_scalars"] + recent[:, :, 0] @ weights["of_sequence"]
    model_folder(
        folder,
        onnx,
        inputs=f"  - {{tensor: scalars, dtype: float64, shape: [n, {len(NAMES)}], "
        f"features: [{', '.join(NAMES)}]}}\n"
        f"  - {{tensor: recent, dtype: float64, shape: [n, {LENGTH}, 1], sequence: recent}}",
        output="{tensor: score, meaning: remaining_life}",
        golden={"scalars": scalars, "recent": recent, "expected": expected[:, 0].astype(np.float32)},
    )


# So that each aggregate moves the score by about one.
_SCALE = {
    "count": 0.1,
    "sum": 0.0015,
    "mean": 0.02,
    "min": 0.04,
    "max": 0.01,
    "std": 0.02,
    "last": 0.02,
    "since_last": 0.5,
    "distinct": 0.1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """What of a pipeline file the promise must not depend on."""

    protocol: str = "classic"
    static_membership: bool = False
    commit_interval: str = "100ms"
    write_interval: str = "1s"
    max_rows: int = 1024
    hot_rows: int = HOT_ROWS
    console_topic: str | None = None  # where workers say how they are

    @property
    def sections(self) -> dict[str, dict[str, Any]]:
        """As sections of the file."""
        return {
            "kafka": {
                "protocol": self.protocol,
                "static_membership": self.static_membership,
                "properties": _properties(self.protocol),
            },
            "delivery": {"commit_interval": self.commit_interval},
            "state": {"write_interval": self.write_interval, "hot_rows": self.hot_rows},
            "batching": {"max_rows": self.max_rows},
            "console": {"topic": self.console_topic},
        }


def variation(seed: int) -> Variation:
    """One of many, chosen by the seed."""
    rng = np.random.default_rng((seed, 0xFACE))
    return Variation(
        protocol=str(rng.choice(["classic", "classic", "consumer"])),
        static_membership=bool(rng.random() < 0.25),
        commit_interval=str(rng.choice(["30ms", "100ms", "100ms", "400ms"])),
        write_interval=str(rng.choice(["50ms", "1s", "1s", "4s"])),
        max_rows=int(rng.choice([256, 1024, 1024])),
        hot_rows=int(rng.choice([4_000, HOT_ROWS, 40_000])),
    )


def _properties(protocol: str) -> dict[str, Any]:
    # With KIP-848 the session timeout is the broker's setting; it is the same.
    classic = {"session.timeout.ms": int(SESSION_TIMEOUT_S * 1000), "heartbeat.interval.ms": 1000}
    return {"reconnect.backoff.max.ms": 1000} | (classic if protocol == "classic" else {})


def write_pipeline(path: Path, named: Topics, mode: str, sections: Mapping[str, Mapping[str, Any]]) -> Path:
    """The pipeline file; what differs from worker to worker comes from the environment."""
    document: dict[str, Any] = {
        "name": "chaos",
        "kafka": {
            "bootstrap": "${CHAOS_KAFKA}",
            "group": named.group,
            "properties": _properties("classic"),
        },
        "source": {
            "topic": named.events,
            "schema": "transaction.avsc",
            "key": "customer_id",
            "event_id": "transaction_id",
            "event_time": "event_time",
        },
        "features": {
            "amount": {"kind": "field", "field": "amount"},
            "spent": {
                "kind": "window",
                "over": "amount",
                "windows": list(WINDOWS),
                "aggregates": list(AGGREGATES),
                "capacity": CAPACITY,
                "allowed_lateness": "4s",
            },
            "recent": {"kind": "sequence", "fields": ["amount"], "length": LENGTH},
        },
        "model": {"name": "tiny", "version": "1", "repository": str(path.parent), "device": "cpu"},
        "decision": {"severities": THRESHOLDS, "cooldown": "10s"},
        "outputs": named.outputs,
        "delivery": {
            "mode": mode,
            "commit_interval": "100ms",
            "transaction_timeout": f"{TRANSACTION_TIMEOUT_S:g}s",
            "worker_id": "${CHAOS_WORKER}",
        },
        "state": {"store": "${CHAOS_STORE}", "hot_rows": HOT_ROWS, "write_interval": "1s"},
        # Floods of damaged records are one of the faults: here they must not stop anybody.
        "dead_letters": {"stop_share": 1.0},
        "admin": {"port": "${CHAOS_ADMIN:-0}"},
    }
    for name, section in sections.items():
        document[name] = {**document.get(name, {}), **section}
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path
