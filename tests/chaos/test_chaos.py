"""A few minutes of faults from a seed: one outcome for every record, every one as if nothing had happened."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from tests.chaos.arena import Services, services
from tests.chaos.faults import KINDS
from tests.chaos.report import table
from tests.chaos.rounds import Result, Settings, run_round
from tests.conftest import or_missing

SEED = 2026
RATE = 800.0
SECONDS = float(os.environ.get("PENSTOCK_CHAOS_SECONDS", "80"))  # of faults, in both modes together


@pytest.fixture(scope="module")
def running() -> Iterator[Services]:
    """Three brokers, a Redis and the network between them and the workers."""
    yield from or_missing("Kafka cluster and Redis", services)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def assert_held(result: Result) -> None:
    said = "\n".join(
        [
            table([result]),
            f"exits {dict(result.exits)}, at the end {result.last_exits}",
            *result.verdict.examples,
        ]
    )
    assert result.holds, said
    assert result.verdict.alerts > 0, "alerts were compared too"
    assert result.verdict.dead_letters > 0, "and dead letters"


@pytest.mark.alone
@pytest.mark.kafka
@pytest.mark.redis
def test_no_fault_loses_doubles_or_changes_an_outcome(running: Services) -> None:
    settings = Settings(
        seconds=SECONDS * 3 / 4,
        seed=SEED,
        each_once=True,
        workers=2,
        events_per_s=RATE,
        prefill=8_000,
    )

    result = run_round(running, "eo", settings, say)

    assert_held(result)
    injected = {fault.kind for fault in result.faults}
    assert set(KINDS) - injected == set(), f"not injected: {result.not_injected}"


@pytest.mark.alone
@pytest.mark.kafka
@pytest.mark.redis
def test_at_least_once_loses_and_changes_nothing_and_repeats_are_the_same(running: Services) -> None:
    kinds = ("kill", "pause", "flush", "broker-kill", "redis-cut", "broker-cut", "storm")
    settings = Settings(
        seconds=SECONDS / 4,
        seed=SEED,
        mode="at_least_once",
        kinds=kinds,
        workers=2,
        events_per_s=RATE,
        prefill=8_000,
    )

    result = run_round(running, "alo", settings, say)

    assert_held(result)
