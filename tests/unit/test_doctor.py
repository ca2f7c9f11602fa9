"""The doctor says what does not work and what to do, and does not take long or raise."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.builders import pipeline
from tests.services.processes import free_port
from worker.config import Pipeline, load_pipeline
from worker.doctor import Finding, examine, show

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
