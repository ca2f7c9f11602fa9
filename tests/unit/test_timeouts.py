"""A transaction is aborted before the lanes of its worker move."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import pipeline
from worker.timeouts import session_timeout_ms, transaction_timeout_ms
from worker.yaml_lines import ConfigError

FEATURES = "  amount: {kind: field, field: amount}"


@pytest.mark.parametrize(
    ("rest", "session_ms", "transaction_ms"),
    [
        ("", 15_000, 10_000),
        ("kafka: {properties: {session.timeout.ms: 6000}}", 6_000, 4_000),
        ("kafka: {properties: {session.timeout.ms: 45000}}", 45_000, 10_000),
        ("kafka: {protocol: consumer}", 45_000, 10_000),
        ("delivery: {transaction_timeout: 14s}", 15_000, 14_000),
    ],
)
def test_a_transaction_ends_before_the_session(
    tmp_path: Path, rest: str, session_ms: int, transaction_ms: int
) -> None:
    made = pipeline(tmp_path, FEATURES, rest=rest)

    assert session_timeout_ms(made.kafka) == session_ms
    assert transaction_timeout_ms(made) == transaction_ms


def test_a_transaction_that_may_outlive_the_session_is_refused(tmp_path: Path) -> None:
    rest = "kafka: {properties: {session.timeout.ms: 6000}}\ndelivery: {transaction_timeout: 6s}"

    with pytest.raises(
        ConfigError, match=r'transaction_timeout: found "?6s"?, expected less than the session'
    ):
        pipeline(tmp_path, FEATURES, rest=rest)
