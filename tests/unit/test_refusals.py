"""What librdkafka says when Kafka does not let us in, as one line that helps."""

from __future__ import annotations

import io
import json
import sys

import pytest
from confluent_kafka import KafkaError

from worker.logs import configure_logs
from worker.refusals import Refusals
from worker.rights import unauthorized

BAD_PASSWORD = KafkaError(
    KafkaError._AUTHENTICATION,
    "sasl_ssl://b:9094/1: SASL authentication error: Authentication failed: Invalid username or password "
    "(after 308ms in state AUTH_REQ, 2 identical error(s) suppressed)",
)
DOWN = KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down")
CUT = KafkaError(KafkaError._TRANSPORT, "b:9094/1: Disconnected (after 3ms in state UP)")
ALERT = KafkaError(
    KafkaError._TRANSPORT,
    "ssl://b:9094/1: Receive failed: error:0A000412:SSL routines::ssl/tls alert bad certificate",
)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    lines = io.StringIO()
    monkeypatch.setattr(sys, "stderr", lines)
    configure_logs()
    return lines


def test_a_refusal_is_kept_without_the_times_and_says_what_to_mend() -> None:
    refusals = Refusals()

    refusals.note(BAD_PASSWORD)

    assert refusals.is_definite
    assert refusals.reason.endswith(
        "Invalid username or password; check sasl.mechanism and the login in kafka.properties, and that the "
        "broker knows this user"
    )
    assert "308ms" not in refusals.reason


def test_what_follows_from_a_refusal_does_not_hide_it_and_a_broker_that_is_down_is_none() -> None:
    refusals = Refusals()
    refusals.note(DOWN)
    assert (refusals.reason, refusals.is_definite) == ("", False)
    refusals.note(CUT)
    assert (refusals.reason, refusals.is_definite) == ("b:9094/1: Disconnected", False)
    refusals.note(BAD_PASSWORD)
    refusals.note(CUT)
    refusals.note(DOWN)

    assert "Invalid username" in refusals.reason


def test_a_certificate_that_the_broker_refuses_is_told_as_ours() -> None:
    refusals = Refusals()

    refusals.note(ALERT)

    assert refusals.is_definite
    assert "the broker refused our certificate: check ssl.certificate.location" in refusals.reason


def test_the_same_refusal_is_logged_once_however_often_it_is_repeated(log: io.StringIO) -> None:
    refusals = Refusals()
    for after in (300, 305, 311):
        text = f"SASL authentication error: no (after {after}ms in state AUTH_REQ)"
        refusals.note(KafkaError(KafkaError._AUTHENTICATION, text))
    refusals.forget()
    refusals.note(BAD_PASSWORD)

    said = [json.loads(line) for line in log.getvalue().splitlines()]

    assert [line["event"] for line in said] == ["kafka refuses"] * 2


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "on topic 't'"),
        (KafkaError.GROUP_AUTHORIZATION_FAILED, "Read on group 'g'"),
        (KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "Write and Describe on transactional id 'x'"),
        (KafkaError.CLUSTER_AUTHORIZATION_FAILED, "IdempotentWrite on the cluster"),
    ],
)
def test_a_missing_right_names_what_it_is_missing_on(code: int, said: str) -> None:
    told = unauthorized(KafkaError(code), topic="t", group="g", transactional_id="x")

    assert told is not None
    assert said in told


def test_another_error_is_no_missing_right() -> None:
    assert unauthorized(DOWN, topic="t") is None
