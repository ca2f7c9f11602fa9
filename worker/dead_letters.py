"""A dead letter: the record as it was, and headers that say where it came from and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.spans import spans_of
from worker.batch import Rejected
from worker.commits import Sent
from worker.decode import TIME_MARKER
from worker.privacy import Privacy, key_headers
from worker.records import Headers, Record, pack_headers

_OURS = "penstock."  # every header that we add starts so


def dead_letters(
    topic: str, rejected: Sequence[Rejected], pipeline: str, privacy: Privacy | None, commit: str
) -> Sent:
    """These records with their own bytes, key and headers, and why; see `headers`."""
    said = [pack_headers(headers(reject, pipeline, privacy, commit)) for reject in rejected]
    values = [reject.record.value for reject in rejected]
    keys = [reject.record.key for reject in rejected]
    return Sent(topic, spans_of(values), spans_of(keys), spans_of(said))


def headers(reject: Rejected, pipeline: str, privacy: Privacy | None, commit: str) -> Headers:
    """The record's own headers, and ours after them.

    Args:
        commit: what no other worker and no later try says, so that each knows its own dead letters again.
    """
    record = reject.record
    theirs = [header for header in record.headers if is_theirs(header[0])]
    said = {
        "reason": reject.reason,
        "detail": reject.detail,
        "stage": reject.stage,
        "pipeline": pipeline,
        "source.topic": record.topic,
        "source.partition": record.partition,
        "source.offset": record.offset,
        "source.timestamp_ms": record.timestamp_ms,
        "attempt": _attempts(record) + 1,
        "commit": commit,
        **key_headers(record.key, privacy),
    }
    return [*theirs, *((f"{_OURS}{name}", str(value).encode()) for name, value in said.items())]


def is_theirs(name: str) -> bool:
    """Whether a header is the producer's own; the others a dead letter was given, and sent in again with."""
    return name == TIME_MARKER or not name.startswith(_OURS)


def _attempts(record: Record) -> int:
    """How often this record was a dead letter before, if it was sent in again."""
    said = dict(record.headers).get(f"{_OURS}attempt", b"0")
    return int(said) if said and said.isdigit() and len(said) < 10 else 0
