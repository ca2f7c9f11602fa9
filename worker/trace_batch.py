"""What is known of the trace of one batch, from its first records to its commit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.spans import Spans
from worker.trace_context import Parent, Parents

MOST_LINKS = 64
MOST_STAGES = 64


class Stage(NamedTuple):
    """Some time of a batch that is a span of its own."""

    name: str
    begun_ns: int  # since the epoch
    ended_ns: int


@dataclass(slots=True, eq=False, kw_only=True)
class Trace:
    """The trace of one batch as far as it has come; the thread of the loop alone changes it."""

    trace_id: int
    span_id: int
    stages: list[Stage] = field(default_factory=list)
    stages_left_out: int = 0
    links: list[Parent] = field(default_factory=list)
    links_left_out: int = 0
    dead_letters: int = 0
    attributes: Mapping[str, Any] = field(default_factory=dict)
    parents: Parents | None = None  # of its events; until they are published

    def note(self, stage: Stage) -> None:
        """A stage has ended."""
        if len(self.stages) < MOST_STAGES:
            self.stages.append(stage)
        else:
            self.stages_left_out += 1

    def link(self, parent: Parent) -> None:
        """A record came from this span."""
        if len(self.links) < MOST_LINKS:
            self.links.append(parent)
        else:
            self.links_left_out += 1

    def link_all(self, parents: Parents) -> None:
        """So did these; where they are too many, some are chosen from all over the batch."""
        rows = parents.rows
        count = min(len(rows), MOST_LINKS - len(self.links))
        chosen = rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)] if count else rows[:0]
        self.links += [parents[row] for row in chosen.tolist()]
        self.links_left_out += len(rows) - count
        self.parents = parents

    def headers(self, rows: NDArray[np.int64]) -> Spans | None:
        """Packed headers for what is made of these events: their own traces go on from this span."""
        return None if self.parents is None else self.parents.headers(rows, self.span_id)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Done:
    """A batch whose spans can be made."""

    trace_id: int
    span_id: int
    begun_ns: int
    ended_ns: int
    stages: tuple[Stage, ...]
    links: tuple[Parent, ...]
    links_left_out: int
    attributes: Mapping[str, Any]
    error: str | None  # why its outputs do not count

    @property
    def spans(self) -> int:
        """How many it becomes."""
        return 1 + len(self.stages)
