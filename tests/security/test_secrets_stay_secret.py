"""Secrets given to a worker are in none of the places that people look at, whatever goes wrong."""

from __future__ import annotations

import os
import re
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.workers import RunningWorker, create_topics, start_worker, topics_of
from tests.pipeline.streams import alone, fill, transactions
from tests.services.processes import free_port
from worker.cli import main
from worker.exits import Exit

SECRETS = {
    "kafka": "kafka-pw-Q7sxW1-only-here",
    "store": "redis-pw-Zk83Lr-only-here",
    "registry": "registry-pw-P0vTn5-only-here",
    "token": "admin-token-Ue61Hd-only-here",
    "hash": "hash-key-Mb29Yc-only-here",
    "keystore": "keystore-pw-Jf47Sx-only-here",
}
ENDS_WITHIN_S = 120.0


def with_secrets(folder: Path, prefix: str, **changed: Any) -> tuple[Path, dict[str, str]]:
    """A pipeline file that has every kind of secret, half from files and half from the environment."""
    for name in ("kafka", "registry", "hash", "store"):
        (folder / name).write_text(f"{SECRETS[name]}\n")
    file = alone(folder, prefix)
    document = yaml.safe_load(file.read_text())
    document["kafka"]["properties"] |= {
        # Given though PLAINTEXT ignores them: what the client is told, its messages could repeat.
        "sasl.username": "penstock",
        "sasl.password": "${file:kafka}",
        "ssl.key.password": "${PENSTOCK_TEST_KEYSTORE}",
    }
    document["state"]["store"] = "${PENSTOCK_TEST_STORE}"
    document["registry"] = {"username": "penstock", "password": "${file:registry}"}
    document["privacy"] = {"hash_key": "${file:hash}"}
    document["admin"]["token"] = "${PENSTOCK_TEST_TOKEN}"
    for section, values in changed.items():
        document[section] |= values
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    env = {
        "PENSTOCK_DEVICE": "cpu",
        "PENSTOCK_TEST_KEYSTORE": SECRETS["keystore"],
        "PENSTOCK_TEST_STORE": f"redis://penstock:{SECRETS['store']}@127.0.0.1:{free_port()}/0",
        "PENSTOCK_TEST_TOKEN": SECRETS["token"],
    }
    return file, env


def command_lines(pid: int) -> str:
    """What `ps` shows of a process and its children."""
    shown = ""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            if int(stat.parent.name) == pid or parent == pid:
                shown += (stat.parent / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue  # gone meanwhile
    return shown


def assert_none_in(text: str, where: str) -> None:
    found = [name for name, secret in SECRETS.items() if secret in text]
    assert not found, f"{where} shows {found}"


def pages(worker: RunningWorker) -> str:
    """All that the admin port says, to whoever asks whatever."""
    address = re.search(r'"address": ?"([^"]+)"', worker.log.read_text())
    assert address is not None
    said = ""
    for method, path in (
        ("GET", "/metrics"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/"),
        ("POST", "/loglevel?level=debug"),
        ("POST", "/nothing"),
        ("PUT", "/metrics"),
    ):
        request = urllib.request.Request(address[1] + path, method=method)
        request.add_header("Authorization", "Bearer wrong")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                said += str(answer.headers) + answer.read().decode()
        except urllib.error.HTTPError as error:
            said += str(error.headers) + error.read().decode()
    return said


@pytest.fixture
def started() -> Iterator[list[RunningWorker]]:
    """Workers to end with the test."""
    workers: list[RunningWorker] = []
    yield workers
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.kill()
            worker.process.wait(10)


@pytest.mark.kafka
def test_a_running_worker_shows_its_secrets_nowhere(
    kafka_bootstrap: str, topic_prefix: str, tmp_path: Path, started: list[RunningWorker]
) -> None:
    create_topics(kafka_bootstrap, topics_of(topic_prefix, 1))
    file, env = with_secrets(tmp_path, topic_prefix)
    env |= {"PENSTOCK_KAFKA": kafka_bootstrap, "PENSTOCK_TEST_STORE": "memory://"}
    worker = start_worker([file], tmp_path / "worker.log", env)
    started.append(worker)
    worker.wait_until_ready()
    fill(kafka_bootstrap, f"{topic_prefix}transactions", *transactions(50))

    assert_none_in(command_lines(worker.process.pid), "ps")
    assert_none_in(pages(worker), "the admin port")
    assert worker.stop() == Exit.OK
    assert_none_in(worker.log.read_text(), "the log")


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("what", "changed"),
    [
        ("a broker that is away", {"kafka": {"bootstrap": "127.0.0.1:1"}}),
        ("a setting that librdkafka refuses", {"kafka": {"properties": {
            "sasl.password": "${file:kafka}", "no.such": "1"}}}),
        ("a mechanism without its library", {"kafka": {"properties": {
            "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "GSSAPI",
            "sasl.password": "${file:kafka}"}}}),
        ("a key file that is none", {"kafka": {"properties": {
            "security.protocol": "SSL", "ssl.key.location": "/dev/null",
            "ssl.key.password": "${file:kafka}"}}}),
        ("a registry that is away", {"outputs": {"wire": "confluent",
            "registry": "http://u:${file:registry}@127.0.0.1:1"}}),
        ("a store that is no address", {"state": {"store": "redis://u:${file:store}@host:no-port/x"}}),
        ("a secret where a number belongs", {"admin": {"port": "${file:hash}"}}),
        ("a secret where a mapping belongs", {"decision": {"severities": "${file:hash}"}}),
        ("a secret where a path belongs", {"model": {"repository": "${file:hash}"}}),
    ],
)  # fmt: skip
def test_a_worker_that_fails_shows_its_secrets_nowhere(
    kafka_bootstrap: str,
    topic_prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    what: str,
    changed: dict[str, Any],
) -> None:
    create_topics(kafka_bootstrap, topics_of(topic_prefix, 1))
    file, env = with_secrets(tmp_path, topic_prefix, **changed)
    env |= {"PENSTOCK_KAFKA": kafka_bootstrap, "PENSTOCK_ADMIN_PORT": "0"}
    if what.startswith("a registry"):
        env["PENSTOCK_TEST_STORE"] = "memory://"
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    too_long = threading.Timer(ENDS_WITHIN_S, os.kill, (os.getpid(), signal.SIGTERM))
    too_long.start()
    try:
        code = main(["run", str(file)])
    finally:
        too_long.cancel()
    text = "".join(capfd.readouterr())

    assert code not in (Exit.OK, Exit.BUG), text
    assert_none_in(text, "the log")
