"""Every panel shows something: a real Prometheus asks workers under load, with all that a file may switch on.

One worker process runs the shipped pipelines. The options that the files leave out are on, as a panel has to
have data once its option is: a latency objective, drift, quality, truth, a shadowed version, a cascade.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.http import http_port
from benchmarks.workers import REPOSITORY, create_topics, pipeline_file, running, topics_of
from tests.conftest import or_missing
from tests.deploy.dashboards import every_panel
from tests.deploy.test_monitoring import RULES
from tests.services import Service
from tests.services.prometheus_server import query, start_prometheus, start_redis_exporter

pytestmark = [pytest.mark.kafka, pytest.mark.redis]
WITHIN_S = 120.0
RATE_INTERVAL = "20s"
# Panels without data on a machine without a GPU, and why.
WITHOUT_GPU = {
    "GPU in use": "asks NVIDIA's exporter, which needs a GPU to start",
    "Memory of a GPU": "asks NVIDIA's exporter, which needs a GPU to start",
    "Temperature and errors of a GPU": "asks NVIDIA's exporter, which needs a GPU to start",
}
PANELS = [panel for panel in every_panel() if panel["title"] not in WITHOUT_GPU]


def _models(folder: Path) -> Path:
    """The shipped models, and a cascade of both fraud models with the reference of the second."""
    root = folder / "models"
    for name in ("fraud", "rul"):
        shutil.copytree(REPOSITORY / "models" / name, root / name)
    card = yaml.safe_load((root / "fraud" / "2" / "model.yaml").read_text())
    cascade = {
        "name": "fraud",
        "version": "10",
        "description": "the trees first",
        "combine": "cascade",
        "members": [{"model": "fraud/1"}, {"model": "fraud/2"}],
        "above": 0.001,
        "output": {"meaning": "probability"},
        "reference": card["reference"],
        "reference_score": card["reference_score"],
    }
    (root / "fraud" / "10").mkdir()
    (root / "fraud" / "10" / "model.yaml").write_text(yaml.safe_dump(cascade, sort_keys=False))
    return root


def _files(folder: Path, prefix: str) -> list[Path]:
    models = str(_models(folder))

    def fraud(document: dict[str, Any]) -> None:
        document["model"] |= {"version": "10", "repository": models}
        document["rollout"] = {"control": f"{prefix}control", "shadow": f"{prefix}shadow"}
        document["batching"]["latency_slo"] = "50ms"
        document["decision"]["severities"] = {"warning": 0.01, "critical": 0.5}
        document["decision"]["cooldown"] = "1s"
        document["http"] = {"port": 0}
        document["tracing"] = {"endpoint": "http://127.0.0.1:9", "sample_ratio": 1}  # nobody listens: failed
        document["outputs"]["watch"] = f"{prefix}watch"
        document["watch"] = {"drift": {"window_events": 1_000}}
        document["truth"] = {
            "topic": f"{prefix}truth",
            "labels": {
                "topic": f"{prefix}labels",
                "schema": "label",
                "event_id": "event_id",
                "label": "fraud",
                "time": "event_time",
            },
            "value": "alert.amount",
            "publish_interval": "1s",
        }

    def maintenance(document: dict[str, Any]) -> None:
        document["model"]["repository"] = models
        document["outputs"]["watch"] = f"{prefix}watch"
        document["watch"] = {"quality": {"s02": {"max": 642.0}}}  # about half of the readings

    return [
        pipeline_file("fraud", folder, prefix, fraud),
        pipeline_file("terminal-risk", folder, prefix),
        pipeline_file("maintenance", folder, prefix, maintenance),
    ]


@pytest.fixture(scope="module")
def prometheus(
    kafka_bootstrap: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A Prometheus that has been asking workers and Redis since the load began."""
    folder = tmp_path_factory.mktemp("panels")
    prefix = f"panels{time.time_ns()}."
    extra = {"control": 1, "shadow": 2, "watch": 1, "truth": 1}
    create_topics(kafka_bootstrap, topics_of(prefix, 2) | {prefix + name: n for name, n in extra.items()})
    env = {
        "PENSTOCK_KAFKA": kafka_bootstrap,
        "PENSTOCK_STORE": redis_url,
        "PENSTOCK_DELIVERY": "at_least_once",
        "PENSTOCK_DEVICE": "cpu",
    }
    files = _files(folder, prefix)
    with ExitStack() as stack:
        (worker,) = stack.enter_context(running([files], folder, env))
        exporter = stack.enter_context(_given("Redis exporter", start_redis_exporter, redis_url))
        address = str(worker.address()).removeprefix("http://")
        scraped = {"penstock": [address], "redis": [exporter.address]}
        server = stack.enter_context(_given("Prometheus", start_prometheus, scraped, [RULES]))
        stack.callback(_end, _load(kafka_bootstrap, prefix))
        stack.enter_context(_asked_over_http(http_port(worker)))
        _penstock("models", "promote", str(files[0]), "1", "--shadow", env=env)
        yield server


@contextmanager
def _given(name: str, start: Callable[..., Service], *arguments: Any) -> Iterator[Service]:
    """A service, or the skip that says why there is none."""
    yield from or_missing(name, lambda: start(*arguments))


def _load(kafka: str, prefix: str) -> subprocess.Popen[bytes]:
    topics = [f"--topic={name}={prefix}{name}" for name in ("transactions", "labels", "readings")]
    rates = ["--fraud-rate", "400", "--maintenance-rate", "100", "--mutate", "0.02", "--label-delay", "1s"]
    return subprocess.Popen(
        [sys.executable, "-m", "loadgen", "simulate", "--bootstrap", kafka, *topics, *rates, "--quiet"],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@contextmanager
def _asked_over_http(port: int) -> Iterator[None]:
    """Requests, some each second, whatever is answered."""
    is_over = threading.Event()
    event = {
        "transaction_id": "asked",
        "event_time": "2026-01-01T00:00:00Z",
        "customer_id": "C1",
        "terminal_id": "T1",
        "amount": 5,
    }

    def ask() -> None:
        while not is_over.wait(0.2):
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/score", json.dumps(event).encode(), method="POST"
            )
            with suppress(OSError), urllib.request.urlopen(request, timeout=10) as answer:
                answer.read()

    asking = threading.Thread(target=ask)
    asking.start()
    yield
    is_over.set()
    asking.join(20)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(20)


def _penstock(*arguments: str, env: Mapping[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "worker.cli", *arguments],
        cwd=REPOSITORY,
        env={"PATH": "/usr/bin:/bin", **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _asked(expression: str) -> str:
    """A panel's query with Grafana's variables in their places: all pipelines, and an interval."""
    return expression.replace("$pipeline", ".+").replace("$__rate_interval", RATE_INTERVAL)


def _has_data(server: Service, expression: str) -> bool:
    """Whether it gives at least one number that is one."""
    found = query(server.address, _asked(expression))
    return any(math.isfinite(float(series["value"][1])) for series in found)


def test_no_query_of_any_panel_comes_back_empty(prometheus: Service) -> None:
    wanted = {(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]}
    deadline_s = time.monotonic() + WITHIN_S
    while wanted and time.monotonic() < deadline_s:
        wanted = {(title, asked) for title, asked in wanted if not _has_data(prometheus, asked)}
        time.sleep(1.0)

    assert wanted == set()


def test_a_query_for_what_nobody_says_comes_back_empty(prometheus: Service) -> None:
    """What the test above would say of a panel that asks for a metric with another name."""
    assert not _has_data(prometheus, "sum(rate(penstock_event_total[$__rate_interval]))")


def test_every_rule_is_evaluated_without_an_error(prometheus: Service) -> None:
    with urllib.request.urlopen(f"{prometheus.address}/api/v1/rules", timeout=20) as answer:
        groups = json.load(answer)["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]

    assert len(rules) == sum(len(group["rules"]) for group in yaml.safe_load(RULES.read_text())["groups"])
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []


def test_every_pipeline_has_its_own_line(prometheus: Service) -> None:
    found = query(prometheus.address, "sum by (pipeline) (penstock_events_total)")

    assert {series["metric"]["pipeline"] for series in found} == {"fraud", "terminal-risk", "maintenance"}


def test_panels_without_data_are_there_and_ask_nothing_of_the_worker() -> None:
    silent = [panel for panel in every_panel() if panel["title"] in WITHOUT_GPU]

    assert {panel["title"] for panel in silent} == WITHOUT_GPU.keys()
    assert all(target["expr"].startswith("DCGM_") for panel in silent for target in panel["targets"])
