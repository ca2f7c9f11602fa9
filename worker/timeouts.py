"""How long the group waits for a silent worker, and the broker for the end of its transaction."""

from __future__ import annotations

from worker.pipeline_types import Kafka, Pipeline

SESSION_MS = 15_000  # the client's own is 45 s: the lanes of a worker that died would wait as long
_BROKERS_SESSION_MS = 45_000  # with KIP-848 it is the broker's, this unless it was changed
_TRANSACTION_MS = 10_000


def session_timeout_ms(kafka: Kafka) -> int:
    """After how long without a word a member's lanes move, as far as the pipeline file says."""
    if kafka.protocol != "classic":
        return _BROKERS_SESSION_MS
    said = str(kafka.properties.get("session.timeout.ms", SESSION_MS))
    return int(said) if said.isdecimal() else SESSION_MS  # what is no number, the client refuses


def transaction_timeout_ms(pipeline: Pipeline) -> int:
    """After how long the broker aborts an open transaction: well before the lanes of its worker move."""
    chosen_ms = pipeline.delivery.transaction_timeout_ms
    return chosen_ms or min(_TRANSACTION_MS, session_timeout_ms(pipeline.kafka) * 2 // 3)
