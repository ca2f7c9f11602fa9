"""The admin server answers what Prometheus and whoever restarts workers ask."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge

from worker.admin import STUCK_S, Health, serve_admin

ANSWER_S = 5.0


@dataclass(slots=True)
class Admin:
    """A running server, and what the loops say to it."""

    url: str = ""
    health: list[Health] = field(default_factory=list)

    def get(self, path: str) -> tuple[int, str]:
        """Status and body."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=ANSWER_S) as answer:
                return int(answer.status), answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def judged(self, path: str) -> tuple[int, Any]:
        """Status and parsed body."""
        status, body = self.get(path)
        return status, json.loads(body)


def loop(*, age_s: float = 0.1, ready: bool = True, name: str = "p") -> Health:
    """What one loop says."""
    return Health(pipeline=name, loop_age_s=age_s, is_ready=ready, device="cpu")


@pytest.fixture
def admin() -> Iterator[Admin]:
    """A server on any free port."""
    said = Admin()
    registry = CollectorRegistry()
    Gauge("some_gauge", "For tests.", registry=registry).set(42)
    server = serve_admin("127.0.0.1", 0, lambda: said.health, registry)
    said.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield said
    server.shutdown()
    server.server_close()


def test_metrics_are_served_in_the_text_format(admin: Admin) -> None:
    status, body = admin.get("/metrics?x=1")

    assert status == 200
    assert "some_gauge 42.0" in body


@pytest.mark.parametrize(
    ("health", "healthz", "readyz"),
    [
        ([loop()], 200, 200),
        ([loop(ready=False)], 200, 503),
        ([loop(age_s=STUCK_S)], 503, 503),
        ([loop(age_s=STUCK_S - 0.1)], 200, 200),
        ([loop(age_s=STUCK_S + 1, ready=False)], 503, 503),
        ([loop(name="a"), loop(name="b", age_s=3600)], 503, 503),
        ([loop(name="a"), loop(name="b", ready=False)], 200, 503),
    ],
)
def test_health_follows_the_slowest_loop(
    admin: Admin, health: list[Health], healthz: int, readyz: int
) -> None:
    admin.health = health

    assert admin.judged("/healthz")[0] == healthz
    assert admin.judged("/readyz")[0] == readyz


def test_the_answer_says_which_pipeline_and_where_its_model_runs(admin: Admin) -> None:
    admin.health = [loop(name="fraud", age_s=99)]

    _, said = admin.judged("/healthz")

    assert said == {
        "ok": False,
        "pipelines": [
            {
                "pipeline": "fraud",
                "alive": False,
                "ready": True,
                "paused": False,
                "loop_age_s": 99,
                "device": "cpu",
            }
        ],
    }


def test_another_path_says_what_is_here(admin: Admin) -> None:
    status, body = admin.get("/")

    assert status == 404
    assert "/healthz" in body


def test_an_address_in_use_is_an_error_at_the_start(admin: Admin) -> None:
    port = int(admin.url.rpartition(":")[2])
    check: Callable[[], list[Health]] = list

    with pytest.raises(OSError, match="in use"):
        serve_admin("127.0.0.1", port, check)
