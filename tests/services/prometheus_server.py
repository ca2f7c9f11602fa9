"""One Prometheus of the system's package, and the exporter that tells it about a Redis."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.services.processes import Service, Unavailable, first_that_starts, free_port, new_directory

READY_WITHIN_S = 60.0


def start_prometheus(
    scraped: Mapping[str, Sequence[str]], rule_files: Sequence[Path], *, every: str = "1s"
) -> Service:
    """Start a Prometheus on a free loopback port; `close` it, or use it as a context.

    Args:
        scraped: host:port of what it asks, by job.
        rule_files: evaluated as often as it asks.
        every: a duration, in Prometheus's notation.

    Raises:
        Unavailable: the package is not installed, or it did not come up.
    """
    server = _program("prometheus")
    configuration = {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": [str(path) for path in rule_files],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": list(targets)}]}
            for job, targets in scraped.items()
        ],
    }
    return first_that_starts(lambda: _prometheus(server, configuration))


def start_redis_exporter(redis_url: str) -> Service:
    """Start the exporter of one Redis; its `address` is host:port, as Prometheus wants it.

    Raises:
        Unavailable: the package is not installed, or it did not come up.
    """
    server = _program("prometheus-redis-exporter")
    return first_that_starts(lambda: _redis_exporter(server, redis_url))


def query(address: str, expression: str) -> list[dict[str, Any]]:
    """What an expression gives now: each series with its labels (`metric`) and its [time, value].

    Raises:
        ValueError: Prometheus refused the expression, with its reason.
    """
    asked = urllib.parse.urlencode({"query": expression})
    try:
        with urllib.request.urlopen(f"{address}/api/v1/query?{asked}", timeout=20) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        raise ValueError(f"{expression}: {error.read().decode()}") from error
    return found


def _program(package: str) -> str:
    found = shutil.which(package)
    if found is None:
        raise Unavailable(f"{package} is not installed")
    return found


def _prometheus(server: str, configuration: Mapping[str, Any]) -> Service:
    port, directory = free_port(), new_directory("prometheus")
    file = directory / "prometheus.yml"
    file.write_text(yaml.safe_dump(configuration, sort_keys=False))
    address = f"http://127.0.0.1:{port}"
    return Service(
        name="Prometheus",
        address=address,
        directory=directory,
        command=[
            server,
            f"--config.file={file}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        is_ready=lambda: _answers(f"{address}/-/ready"),
        ready_within_s=READY_WITHIN_S,
    )


def _redis_exporter(server: str, redis_url: str) -> Service:
    port = free_port()
    address = f"127.0.0.1:{port}"
    return Service(
        name="the exporter of Redis",
        address=address,
        directory=new_directory("redis-exporter"),
        command=[server, f"-redis.addr={redis_url}", f"-web.listen-address={address}"],
        is_ready=lambda: _answers(f"http://{address}/health"),
        ready_within_s=READY_WITHIN_S,
    )


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
