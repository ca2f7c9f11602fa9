"""Settings of the producer of outputs."""

from __future__ import annotations

from typing import Any

# The file gives one set of properties for both clients; librdkafka warns of those that are not a producer's.
CONSUMER_ONLY = ("auto.", "fetch.", "group.", "heartbeat.", "isolation.", "max.poll.", "queued.", "session.")
_LARGEST_BYTES = 101_000_000  # receive.message.max.bytes of the consumer, and our headers
_QUEUE_KIB = 128 * 1024  # above the largest record, or that would never find room


def producer_config(
    properties: dict[str, str], *, worker_id: str | None, transaction_timeout_ms: int
) -> dict[str, Any]:
    """Settings of the output producer; a worker id makes it transactional."""
    config: dict[str, Any] = {
        "linger.ms": 2,
        "compression.type": "lz4",
        "enable.idempotence": True,
        "partitioner": "murmur2_random",  # as Java clients do, so outputs are co-partitioned with theirs
        "reconnect.backoff.max.ms": 1000,  # default 10 s: that long, a healed network goes unnoticed
        "retry.backoff.ms": 10,
        "retry.backoff.max.ms": 100,  # five rejects of a fast commit cost 167 ms instead of 2.5 s
        # Whatever the consumer can receive must fit as a dead letter: what is too large, the broker says.
        "message.max.bytes": _LARGEST_BYTES,
        "queue.buffering.max.kbytes": _QUEUE_KIB,  # default 1 GiB
        **{name: value for name, value in properties.items() if not name.startswith(CONSUMER_ONLY)},
        # A transaction's commit waits for what was sent in it; without one, we count what is acknowledged.
        "delivery.report.only.error": worker_id is not None,
    }
    if worker_id is not None:
        config["transactional.id"] = worker_id
        config["transaction.timeout.ms"] = transaction_timeout_ms
    return config
