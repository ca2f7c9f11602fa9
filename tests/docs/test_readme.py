"""The README is run: what it tells a reader to type works, on the embedded bus and on real services."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import redis
import yaml
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.docs.pages import ROOT, blocks, rows, section
from worker.exits import Exit

README = ROOT / "README.md"
EXAMPLE = ROOT / "examples" / "logins"
TOPICS = {"logins": 2, "logins.scores": 2, "logins.alerts": 1, "logins.dead-letters": 1}
LOGINS = 300
ATTACKED = "CRITICAL a-0"


def commands() -> list[str]:
    """Every line that the README tells a reader to type, without comments."""
    lines = [line for block in blocks(README, "sh") for line in block.text.splitlines()]
    return [stripped for line in lines if (stripped := re.sub(r"\s+#.*$", "", line).strip())]


def command(beginning: str) -> str:
    """The one command of the README that begins like this."""
    found = [line for line in commands() if line.startswith(beginning)]
    assert len(found) == 1, f"{len(found)} commands begin with {beginning!r}"
    return found[0]


@pytest.fixture
def env() -> dict[str, str]:
    """A shell as a reader has it: the environment activated, nothing of Penstock set, a port of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    here = Path(sys.executable).parent
    return {**kept, "PATH": f"{here}{os.pathsep}{kept['PATH']}", "PENSTOCK_ADMIN_PORT": str(free_port())}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def type_in(line: str, env: dict[str, str], timeout_s: float = 30.0) -> str:
    """Run a command to its end in the clone and return what it printed; it must succeed."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", line],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def left_running(line: str, env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a terminal of its own until the block ends; its output goes to the log."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {line}"],
            cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdin is not None:
            process.stdin.close()


def wait_for(log: Path, pattern: str, times: int = 1, timeout_s: float = 40.0) -> list[str]:
    """Wait until a pattern has come so often in a log."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        found = re.findall(pattern, log.read_text() if log.exists() else "")
        if len(found) >= times:
            return found
        assert time.monotonic() < deadline_s, (
            f"no {pattern!r} after {timeout_s} s:\n{log.read_text()[-2000:]}"
        )
        time.sleep(0.05)


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {line.split()[1] for line in commands() if line.startswith("make ")}

    assert named == {"demo", "test"}
    assert named | set(re.findall(r"`make ([a-z-]+)`", README.read_text())) <= targets


def test_compose_commands_name_services_that_exist() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    text = README.read_text()

    assert "docker compose up --build" in commands()
    assert set(re.findall(r"--scale ([\w-]+)=", text)) <= set(services)
    assert "http://localhost:3000" in text
    assert any(port.endswith(":3000:3000") for port in services["grafana"]["ports"])


def test_every_command_is_one_that_a_test_runs() -> None:
    run_here = (
        "make demo", "make test", "docker compose up --build",
        "python examples/pack_model.py", "penstock validate examples/", "python -m loadgen.bus",
        "export PENSTOCK_KAFKA=", "export PENSTOCK_STORE=", "penstock run examples/",
        "python examples/logins/produce.py", "python examples/logins/subscribe.py",
        "echo 'not avro' | kcat", "kcat -C", "PENSTOCK_ADMIN_PORT=8081 penstock run examples/",
        "penstock run pipelines/fraud.yaml pipelines/terminal-risk.yaml",
        "penstock doctor", "penstock healthcheck", "curl -s localhost:8080/metrics",
    )  # fmt: skip

    assert [line for line in commands() if not line.startswith(run_here)] == []


def test_shown_files_are_the_files() -> None:
    for block in blocks(README, "python"):
        names = [path.name for path in EXAMPLE.glob("*.py") if path.read_text() == block.text]
        assert len(names) == 1, f"README.md:{block.line}: no file of the example says this"
    pipeline, card = (
        (EXAMPLE / "logins.yaml").read_text(),
        (EXAMPLE / "models" / "login-risk" / "1" / "model.yaml").read_text(),
    )
    for block in blocks(README, "yaml"):
        assert block.text in pipeline or block.text in card, f"README.md:{block.line}: no file says this"


def test_a_packed_model_folder_is_complete(env: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "models" / "login-risk" / "1"
    shutil.copytree(EXAMPLE / "models" / "login-risk" / "1", folder)
    committed = (folder / "model.yaml").read_text()
    (folder / "golden.npz").unlink()
    (folder / "model.yaml").write_text(re.sub(r"(?m)^sha256:.*\n", "", committed))

    line = command("python examples/pack_model.py").split()
    type_in(" ".join([*line[:-1], str(folder)]), env)

    assert (folder / "model.yaml").read_text() == committed
    with (
        np.load(folder / "golden.npz") as made,
        np.load(EXAMPLE / "models" / "login-risk" / "1" / "golden.npz") as kept,
    ):
        assert sorted(made) == sorted(kept) == ["atol", "expected", "features", "rtol"]
        np.testing.assert_allclose(made["expected"], kept["expected"], rtol=1e-4, atol=1e-5)


def test_the_demo_ends_with_nothing_unaccounted_for(env: dict[str, str]) -> None:
    out = type_in("penstock demo --seconds 4 --fraud-rate 500 --sensor-rate 200", env, 90)

    summary = json.loads(out.splitlines()[-1])
    assert summary["unaccounted"] == 0
    assert summary["pipelines"].keys() == {"fraud", "maintenance"}


def test_ten_minutes_without_any_service(env: dict[str, str], tmp_path: Path) -> None:
    """The whole walk: validate, bus, worker, produce, subscribe, a bad record, health, metrics."""
    assert "account.mean_1h" in type_in(command("penstock validate"), env)

    bus_log, worker_log, seen = tmp_path / "bus", tmp_path / "worker", tmp_path / "seen"
    with left_running(command("python -m loadgen.bus"), env, bus_log):
        address = wait_for(bus_log, r"127\.0\.0\.1:\d+")[0]
        exports = dict(re.findall(r"(PENSTOCK_\w+)=(\S+)", command("export PENSTOCK_STORE=")))
        assert re.fullmatch(r"export PENSTOCK_KAFKA=127\.0\.0\.1:\d+", command("export PENSTOCK_KAFKA="))
        env |= {**exports, "PENSTOCK_KAFKA": address}
        with left_running(command("penstock run examples/"), env, worker_log) as worker:
            wait_for(worker_log, "lane taken", 2)
            assert type_in(command("python examples/logins/produce.py"), env) == f"sent {LOGINS} logins\n"
            with left_running(command("python examples/logins/subscribe.py"), env, seen):
                wait_for(seen, rf"{ATTACKED} [\d.]+: distance_km is 7800; usually 7.9")
                wait_for(seen, r"(?m)^\d+-\d+ a-\d+ [\d.]+$", LOGINS)
            _dead_letters(env, address)
            assert '"ok": true' in type_in(command("penstock healthcheck"), env)
            curl = command("curl").replace("8080", env["PENSTOCK_ADMIN_PORT"])
            metrics = type_in(curl, env)
            assert f'penstock_scores_total{{pipeline="logins"}} {LOGINS}.0' in metrics
            assert "FAIL" not in type_in(command("penstock doctor"), env)
            worker.terminate()
            assert worker.wait(15) == Exit.OK


def _dead_letters(env: dict[str, str], address: str) -> None:
    """What is not Avro comes back untouched, with the headers that the page lists."""
    if shutil.which("kcat"):
        type_in(command("echo 'not avro' | kcat"), env)
        shown = ""
        deadline_s = time.monotonic() + 20
        while "penstock.reason=bad_magic" not in shown:
            assert time.monotonic() < deadline_s, f"no dead letter: {shown}"
            shown = type_in(command("kcat -C"), env)
        assert shown.startswith("a-1: not avro")
    else:
        from confluent_kafka import Producer

        producer = Producer({"bootstrap.servers": address, "partitioner": "murmur2_random"})
        producer.produce("logins", b"not avro", b"a-1")
        assert producer.flush(10) == 0
    reader = Consumer({"bootstrap.servers": address, "group.id": "docs", "fetch.wait.max.ms": 5})
    reader.assign([TopicPartition("logins.dead-letters", 0, 0)])
    found = reader.consume(1, 20)
    reader.close()
    listed = [row[0].strip("`") for row in rows(section(ROOT / "docs" / "dead-letters.md", "Headers"))]
    assert [name for name, _ in found[0].headers()] == listed


@contextmanager
def plain_names(
    kafka: str, redis_url: str, topics: dict[str, int], groups: tuple[str, ...]
) -> Iterator[None]:
    """Topics under the names of the README, and no state from them afterwards; they must not exist before."""
    admin = AdminClient({"bootstrap.servers": kafka})
    for made in admin.create_topics([NewTopic(name, count, 1) for name, count in topics.items()]).values():
        made.result(30)
    try:
        yield
    finally:
        for gone in admin.delete_topics(list(topics)).values():
            gone.result(30)
        with redis.Redis.from_url(redis_url) as client:
            for group in groups:
                for key in client.scan_iter(match=f"ps:{{{group}:*", count=1000):
                    client.delete(key)


@pytest.mark.kafka
@pytest.mark.redis
def test_ten_minutes_with_kafka_and_redis_and_a_second_member(
    env: dict[str, str], tmp_path: Path, kafka_bootstrap: str, redis_url: str
) -> None:
    env |= {"PENSTOCK_KAFKA": kafka_bootstrap, "PENSTOCK_STORE": redis_url, "PENSTOCK_PROTOCOL": "consumer"}
    first_log, second_log, seen = tmp_path / "first", tmp_path / "second", tmp_path / "seen"
    again = command("PENSTOCK_ADMIN_PORT=8081").replace("8081", str(free_port()))
    with (
        plain_names(kafka_bootstrap, redis_url, TOPICS, ("penstock-logins",)),
        left_running(command("penstock run examples/"), env, first_log) as first,
        left_running(f"env {again}", env, second_log),
    ):
        wait_for(first_log, "lane taken")
        wait_for(second_log, "lane taken")
        type_in(command("python examples/logins/produce.py"), env)
        first.terminate()
        assert first.wait(15) == Exit.OK
        type_in(command("python examples/logins/produce.py"), env)
        with left_running(command("python examples/logins/subscribe.py"), env, seen):
            wait_for(seen, ATTACKED)
            scores = wait_for(seen, r"(?m)^(\d+-\d+) a-\d+ [\d.]+$", 2 * LOGINS)
    assert len(scores) == len(set(scores)) == 2 * LOGINS


@pytest.mark.kafka
@pytest.mark.redis
def test_several_pipelines_run_in_one_process(
    env: dict[str, str], tmp_path: Path, kafka_bootstrap: str, redis_url: str
) -> None:
    names = ["transactions", "labels", "fraud.scores", "fraud.alerts", "fraud.dead-letters"]
    topics = dict.fromkeys([*names, "terminal-risk.dead-letters"], 1)
    env |= {"PENSTOCK_KAFKA": kafka_bootstrap, "PENSTOCK_STORE": redis_url, "PENSTOCK_DEVICE": "cpu"}
    log = tmp_path / "log"
    with (
        plain_names(kafka_bootstrap, redis_url, topics, ("penstock-fraud", "penstock-terminal-risk")),
        left_running(command("penstock run pipelines/"), env, log) as worker,
    ):
        wait_for(log, "lane taken", 2)
        worker.terminate()
        assert worker.wait(15) == Exit.OK
