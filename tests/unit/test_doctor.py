"""The doctor says what does not work and what to do, and does not take long or raise."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import redis

from tests.builders import pipeline
from tests.services import Service
from tests.services.processes import free_port
from tests.services.redis_group import RedisGroup
from worker.config import Pipeline, load_pipeline
from worker.doctor import Finding, examine, examine_store, show

ROOT = Path(__file__).resolve().parents[2]
WITHIN_S = 25.0
SECRET = "open-sesame"


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    """The findings by what was examined."""
    return {finding.what: finding for finding in findings}


@pytest.fixture(scope="module")
def nothing_there() -> tuple[list[Finding], float]:
    """The findings for the shipped fraud pipeline where no service runs, and how long they took."""
    port = free_port()
    fraud = load_pipeline(
        ROOT / "pipelines" / "fraud.yaml",
        {
            "PENSTOCK_KAFKA": f"127.0.0.1:{port}",
            "PENSTOCK_STORE": f"redis://:{SECRET}@127.0.0.1:{port}/0",
            "PENSTOCK_REGISTRY": f"http://127.0.0.1:{port}",
            "PENSTOCK_DEVICE": "cpu",
        },
    )
    begun = time.monotonic()
    found = examine(fraud)
    return found, time.monotonic() - begun


def test_what_cannot_be_reached_fails_with_what_to_do(nothing_there: tuple[list[Finding], float]) -> None:
    found = by_name(nothing_there[0])

    for what, setting in (
        ("kafka", "PENSTOCK_KAFKA"),
        ("store", "PENSTOCK_STORE"),
        ("registry", "PENSTOCK_REGISTRY"),
    ):
        assert not found[what].works, what
        assert found[what].found, what
        assert setting in found[what].do


def test_what_works_is_said_too(nothing_there: tuple[list[Finding], float]) -> None:
    found = by_name(nothing_there[0])

    assert found["schema"].works
    assert found["schema"].found.startswith("penstock.Transaction")
    assert found["model"].works
    assert "on cpu" in found["model"].found
    assert not found["model"].do


def test_it_does_not_take_long(nothing_there: tuple[list[Finding], float]) -> None:
    assert nothing_there[1] < WITHIN_S


def test_a_person_reads_a_line_each_and_a_machine_json(nothing_there: tuple[list[Finding], float]) -> None:
    findings = nothing_there[0]

    text = show(findings, as_json=False)
    assert text.count("FAIL") == sum(not f.works for f in findings)
    assert text.count(" -> ") == text.count("FAIL")
    assert [f["what"] for f in json.loads(show(findings, as_json=True))] == [f.what for f in findings]


def test_no_secret_is_shown(nothing_there: tuple[list[Finding], float]) -> None:
    for as_json in (True, False):
        assert SECRET not in show(nothing_there[0], as_json=as_json)


def local(folder: Path, rest: str) -> Pipeline:
    """A pipeline that needs no Redis, on a bus that is not there."""
    (folder / "p").mkdir()
    return pipeline(folder / "p", "  amount: {kind: field, field: amount}", rest=rest)


def test_a_setting_that_kafka_does_not_know_is_a_finding_and_no_crash(tmp_path: Path) -> None:
    found = by_name(
        examine(local(tmp_path, "kafka: {properties: {no.such.setting: 1}}\nstate: {store: 'memory://'}"))
    )

    assert not found["kafka"].works
    assert "no.such.setting" in found["kafka"].found
    assert found["store"].works


@pytest.mark.redis
@pytest.mark.kafka
def test_services_that_are_there_are_found_and_topics_that_are_not_are_named(
    tmp_path: Path, kafka_bootstrap: str, redis_url: str, unique_name: str
) -> None:
    made = pipeline(
        tmp_path,
        "  amount: {kind: field, field: amount}",
        name=unique_name,
        topic=f"{unique_name}.in",
        rest=f"kafka: {{bootstrap: '{kafka_bootstrap}'}}\nstate: {{store: '{redis_url}'}}",
    )

    found = by_name(examine(made))

    assert found["kafka"].works
    assert found["store"].works
    assert found["store"].found.startswith("Redis ")
    missing = found[f"topic {unique_name}.in"]
    assert not missing.works
    assert unique_name in missing.do


def of_store(folder: Path, address: str) -> dict[str, Finding]:
    """What is found of the store at this address."""
    (folder / "store").write_text(address)  # it may hold a password
    made = pipeline(folder, "  amount: {kind: field, field: amount}", rest="state: {store: '${file:store}'}")
    return by_name(examine_store(made))


@pytest.mark.redis
def test_a_redis_that_would_evict_rows_fails_with_what_to_do(tmp_path: Path, own_redis: Service) -> None:
    with redis.Redis.from_url(own_redis.address) as client:
        for policy, works in (("allkeys-lru", False), ("volatile-lru", True), ("noeviction", True)):
            client.config_set("maxmemory", "100mb")
            client.config_set("maxmemory-policy", policy)

            found = of_store(tmp_path, own_redis.address)["store eviction"]

            assert found.works is works, policy
            assert policy in found.found
            assert ("noeviction" in found.do) is not works
        client.config_set("maxmemory", "0")
        client.config_set("maxmemory-policy", "allkeys-lru")
        assert of_store(tmp_path, own_redis.address)["store eviction"].works


@pytest.mark.redis
def test_what_becomes_of_rows_at_a_restart_is_said(tmp_path: Path, own_redis: Service) -> None:
    with redis.Redis.from_url(own_redis.address) as client:
        for setting, value, said in (
            ("save", "", "made again from the topic"),
            ("save", "3600 1", "save 3600 1"),
            ("appendonly", "yes", "append-only file"),
        ):
            client.config_set(setting, value)
            found = of_store(tmp_path, own_redis.address)["store persistence"]
            assert found.works
            assert said in found.found


@pytest.mark.redis
def test_a_user_of_redis_who_may_not_ask_is_told_which_right_is_missing(
    tmp_path: Path, own_redis: Service
) -> None:
    with redis.Redis.from_url(own_redis.address) as client:
        client.execute_command("ACL", "SETUSER", "blind", "on", f">{SECRET}", "~ps:*", "-@all", "+ping")
        client.execute_command("ACL", "SETUSER", "seer", "on", f">{SECRET}", "~ps:*", "-@all", "+info")
    address = own_redis.address.replace("redis://", f"redis://blind:{SECRET}@")

    found = of_store(tmp_path, address)
    assert not found["store"].works
    assert "'info'" in found["store"].found

    found = of_store(tmp_path, address.replace("blind", "seer"))
    assert found["store eviction"].works
    assert "+config|get" in found["store persistence"].found
    assert not found["store scripts"].works
    assert "docs/security.md" in found["store scripts"].do
    assert SECRET not in show(list(found.values()), as_json=True)


@pytest.mark.redis
def test_a_cluster_and_a_sentinel_are_examined_too(
    tmp_path: Path, redis_cluster: str, own_sentinel: RedisGroup
) -> None:
    for address, servers in ((redis_cluster, 3), (own_sentinel.address, 1)):
        found = of_store(tmp_path, address)

        assert len(found) == 5
        assert all(finding.works for finding in found.values()), found
        assert found["store eviction"].found.count("no maxmemory") == servers
