"""What a dead letter's headers say: where the record came from, what is wrong with it, how often."""

from __future__ import annotations

from typing import Any

from worker.batch import Rejected
from worker.decode import TIME_MARKER
from worker.privacy import Privacy, key_headers

_OURS = "penstock."  # every header that we add starts so


def headers(reject: Rejected, pipeline: str, privacy: Privacy | None) -> list[tuple[str, bytes]]:
    """The record's own headers, and ours after them."""
    message = reject.message
    theirs = [header for header in message.headers() or () if is_theirs(header[0])]
    said = {
        "reason": reject.reason,
        "detail": reject.detail,
        "stage": reject.stage,
        "pipeline": pipeline,
        "source.topic": message.topic(),
        "source.partition": reject.partition,
        "source.offset": reject.offset,
        "source.timestamp_ms": message.timestamp()[1],
        "attempt": _attempts(message) + 1,
        **key_headers(message.key(), privacy),
    }
    return [*theirs, *((f"{_OURS}{name}", str(value).encode()) for name, value in said.items())]


def is_theirs(name: str) -> bool:
    """Whether a header is the producer's own; the others a dead letter was given, and sent in again with."""
    return name == TIME_MARKER or not name.startswith(_OURS)


def _attempts(message: Any) -> int:
    """How often this record was a dead letter before, if it was sent in again."""
    said = dict(message.headers() or ()).get(f"{_OURS}attempt", b"0")
    return int(said) if said and said.isdigit() and len(said) < 10 else 0
