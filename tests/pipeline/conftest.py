"""Fixtures that several files of this folder share."""

from __future__ import annotations

import pytest

from tests.pipeline.streams import STREAM_EVENTS, STREAM_SEED, Outcomes, transactions, undisturbed


@pytest.fixture(scope="session")
def expected(kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """What a worker that nothing disturbs makes of the records of a Stream."""
    env = {
        "PENSTOCK_KAFKA": kafka_bootstrap,
        "PENSTOCK_STORE": "memory://",
        "PENSTOCK_DELIVERY": "exactly_once",
        "PENSTOCK_DEVICE": "cpu",
    }
    folder = tmp_path_factory.mktemp("calm")
    return undisturbed(kafka_bootstrap, env, folder, transactions(STREAM_EVENTS, seed=STREAM_SEED))
