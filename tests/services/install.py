"""Installing what the tests' services need, where the machine allows it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.services.apicurio import registry_files, registry_folder
from tests.services.browser import NAMES as BROWSERS
from tests.services.kafka_jars import MIN_JAVA, jars, jars_folder, java_major
from tests.services.processes import Unavailable

APT_TIMEOUT_S = 900


def install() -> list[str]:
    """Install Redis, Prometheus, Chromium, Java, Maven, Kafka's jars and a registry, each only when absent.

    Also beside a Docker engine or given addresses: tests that kill a service start one of their own.

    Returns:
        One line for each thing that could not be had; the tests that need it will be skipped.
    """
    troubles: list[str] = []
    for program in ("redis-server", "prometheus", "prometheus-redis-exporter"):
        if shutil.which(program) is None:
            troubles += _apt_install(program)
    if not any(map(shutil.which, BROWSERS)):
        troubles += _apt_install("chromium")
    if java_major() < MIN_JAVA:
        troubles += _apt_install("default-jre-headless")
    if shutil.which("mvn") is None and not (jars_folder().is_dir() and registry_folder().is_dir()):
        troubles += _apt_install("maven")
    for fetch in (jars, registry_files):
        try:
            fetch()
        except Unavailable as error:
            troubles.append(str(error))
    return troubles


def _apt_install(package: str) -> list[str]:
    prefix = _as_root()
    if shutil.which("apt-get") is None or prefix is None:
        return [f"{package} is missing, and installing it needs apt-get as root: apt-get install {package}"]
    print(f"installing {package}", file=sys.stderr, flush=True)
    lists = Path("/var/lib/apt/lists")
    if not any(lists.glob("*_Packages*")):
        _apt(prefix, ["update"])
    # A list from another day may name versions that the mirror has dropped: refresh it once and try again.
    done = _apt(prefix, ["install", package])
    if done.returncode != 0:
        _apt(prefix, ["update"])
        done = _apt(prefix, ["install", package])
    if done.returncode == 0:
        return []
    return [f"{package} could not be installed: {done.stderr.strip().rpartition(chr(10))[2]}"]


def _as_root() -> list[str] | None:
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if (
        sudo
        and subprocess.run([sudo, "-n", "true"], capture_output=True, timeout=30, check=False).returncode == 0
    ):
        return [sudo, "-n"]
    return None


def _apt(prefix: list[str], arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    # Neither systemd nor the older scripts may start the server that a package brings: the tests start
    # their own, and nothing is left running.
    settings = ["DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "SYSTEMD_OFFLINE=1"]
    options = ["-qq", "-y", "--no-install-recommends", "-o", "Acquire::Retries=5"]
    return subprocess.run(
        [*prefix, "env", *settings, "apt-get", *options, *arguments],
        capture_output=True,
        text=True,
        timeout=APT_TIMEOUT_S,
        check=False,
    )
