"""Whose trace a record belongs to: W3C Trace Context in its Kafka headers, read and passed on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.spans import Spans, spans_of
from worker import trace_kernels as kernels
from worker.records import Headers, pack_headers
from worker.trace_kernels import PARENT_BYTES, TRACEPARENT, TRACESTATE

_PARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_SAMPLED, _KNOWN_FLAGS = 1, 3
# Names and sizes of the headers that are written.
_PARENT_ROOM = 8 + len(TRACEPARENT) + PARENT_BYTES
_STATE_ROOM = 8 + len(TRACESTATE)


class Parent(NamedTuple):
    """The span that sent a record; its trace is sampled."""

    trace_id: int
    span_id: int
    flags: int


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Parents:
    """Of n records, those that came with the context of a sampled trace."""

    data: NDArray[np.uint8]  # that all places are in
    parent: NDArray[np.int64]  # (n,) where its traceparent begins; -1: it has none
    state: NDArray[np.int64]  # (n,) where its tracestate begins
    state_size: NDArray[np.int64]  # (n,) bytes; 0: it has none

    @property
    def rows(self) -> NDArray[np.int64]:
        """Those that have one."""
        return np.flatnonzero(self.parent >= 0)

    def __getitem__(self, row: int) -> Parent:
        """Of one of `rows`."""
        at = int(self.parent[row])
        found = parse(self.data[at : at + PARENT_BYTES].tobytes())
        assert found is not None
        return found

    def headers(self, rows: NDArray[np.int64], span_id: int) -> Spans | None:
        """Packed headers that take the traces of these rows on from another span; None: they have none."""
        parent, state_size = self.parent[rows], self.state_size[rows]
        has_parent = parent >= 0
        if not has_parent.any():
            return None
        sizes = np.where(has_parent, _PARENT_ROOM + np.where(state_size > 0, _STATE_ROOM + state_size, 0), 0)
        ends = np.cumsum(sizes)
        starts, data = ends - sizes, np.empty(int(ends[-1]), np.uint8)
        span = np.frombuffer(b"%016x" % span_id, np.uint8)
        kernels.write(self.data, parent, self.state[rows], state_size, span, starts, data)
        return Spans(data, starts, np.where(has_parent, ends, starts - 1))


def parents_of(headers: Spans, ours: NDArray[np.bool_]) -> Parents | None:
    """The trace contexts in packed headers; None: there are none.

    Args:
        headers: of n records.
        ours: (n,) which of them to look at.
    """
    looked_at = ours & (headers.ends > headers.starts)
    if not looked_at.any():
        return None
    n = len(headers)
    parent, state, state_size = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    ends = np.where(looked_at, headers.ends, headers.starts)
    data = headers.data.view()
    data.flags.writeable = False  # joined buffers can be written to, others not: one form to compile for
    if not kernels.find(data, headers.starts, ends, parent, state, state_size):
        return None
    return Parents(data=data, parent=parent, state=state, state_size=state_size)


def parse(traceparent: bytes) -> Parent | None:
    """What a traceparent says; None: it is none, or its trace is not sampled."""
    match = _PARENT.fullmatch(traceparent)
    if match is None or (match[4] is not None and traceparent.startswith(b"00")):
        return None
    parent = Parent(int(match[1], 16), int(match[2], 16), int(match[3], 16))
    return parent if parent.trace_id and parent.span_id and parent.flags & _SAMPLED else None


def parent_in(headers: Headers) -> Parent | None:
    """The same of one record's headers."""
    said = dict(headers).get(TRACEPARENT.decode())
    return None if said is None else parse(said)


def taken_on(headers: Headers, parent: Parent, span_id: int) -> Headers:
    """These headers, with a traceparent that takes the trace on from another span."""
    name = TRACEPARENT.decode()
    said = b"00-%032x-%016x-%02x" % (parent.trace_id, span_id, parent.flags & _KNOWN_FLAGS)
    return [*(header for header in headers if header[0] != name), (name, said)]


def warm() -> None:
    """Compile what the first record with a trace would wait for."""
    headers = pack_headers([(TRACEPARENT.decode(), b"00-%032x-%016x-01" % (1, 1))])
    found = parents_of(spans_of([headers]), np.ones(1, np.bool_))
    assert found is not None
    found.headers(found.rows, 1)
