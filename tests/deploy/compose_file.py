"""The compose file as the tests see it: merged services, and container paths mapped to the repository."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
WORKERS = ("fraud-worker", "terminal-risk-worker", "maintenance-worker")
OURS = (*WORKERS, "loadgen")
APP = PurePosixPath("/app")  # what the Dockerfile copies lies here

Service = dict[str, Any]


def services() -> dict[str, Service]:
    """Return the services of docker-compose.yml by name."""
    loaded: dict[str, Service] = yaml.safe_load(COMPOSE.read_text())["services"]
    return loaded


def on_host(argument: str) -> str:
    """Return an argument of a container's command as it reads in the repository."""
    path = PurePosixPath(argument)
    return str(ROOT / path.relative_to(APP)) if path.is_relative_to(APP) else argument


def published(service: Service) -> dict[int, int]:
    """Return container port -> host port, for ports written address:host:container."""
    ports = (entry.split(":") for entry in service.get("ports", []))
    return {int(container): int(host) for _, host, container in ports}


def environment(name: str) -> dict[str, str]:
    """Return the environment of one service."""
    return {key: str(value) for key, value in services()[name].get("environment", {}).items()}


def created_topics() -> dict[str, tuple[int, int]]:
    """Return topic -> (partitions, retention in ms), as the one-shot service creates them."""
    script = services()["topics"]["command"][-1]
    rows = re.findall(r"^create (\S+) (\d+) (\d+)(?: \S+)?$", script, re.MULTILINE)
    return {topic: (int(partitions), int(retention_ms)) for topic, partitions, retention_ms in rows}
