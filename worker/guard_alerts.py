"""What a broken guard says on the watch topic."""

from __future__ import annotations

from typing import Any

from worker.comparison import Trip


def guard_alert(
    trip: Trip, *, pipeline: str, worker: str, model: str, version: str, event_us: int, now_us: int
) -> dict[str, Any]:
    """A record for watch_alert.avsc.

    Args:
        version: the challenger that broke it.
        event_us: newest event time that decided it.
    """
    return {
        "alert_id": "/".join([pipeline, worker, version, "GUARD", trip.guard]),
        "pipeline": pipeline,
        "worker": worker,
        "model": model,
        "model_version": version,
        "kind": "GUARD",
        "subject": trip.guard,
        "key": None,
        "lifecycle": "RAISED",
        "event_time": event_us,
        "scored_at": now_us,
        "observed": trip.found,
        "usual": None,
        "limit": trip.allowed,
        "events": trip.events,
        "reason": f"version {version} broke the {trip}, after {trip.events:,} events",
    }
