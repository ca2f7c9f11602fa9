"""Traces of batches: what the loop tells of each, until its commit is acknowledged.

A batch that is traced has one span, which ends when its commit is acknowledged, or it is given up. Nothing
here waits, and nothing here decides what becomes of a record (docs/tracing.md).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from worker.batch import Batch, Rejected
from worker.trace_batch import Done, Stage, Trace
from worker.trace_context import parent_in, parents_of, taken_on

if TYPE_CHECKING:
    from worker.publish import Ready  # which needs a line, and that this

MOST_UNDER_WAY = 1000  # batches that wait for their commit
_OF_POLLS = ("decode", "features")  # stages of records that are in no batch yet
_NO_SPANS = ("poll", "commit", "write")  # stages of no batch: they wait, or are of several


@dataclass(frozen=True, slots=True, kw_only=True)
class Exporter:
    """Where spans go; neither call waits for a collector for long."""

    offer: Callable[[Done], None]
    close: Callable[[], None]


class Tracing:
    """The traces of one pipeline's batches; the thread of the loop has it for itself."""

    def __init__(
        self,
        exporter: Exporter,
        *,
        attributes: Mapping[str, Any],
        sample_ratio: float,
        on_dropped: Callable[[int], None] = lambda _: None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Begin with nothing.

        Args:
            exporter: takes what is done.
            attributes: of every batch.
            sample_ratio: share of the batches that are traced though none of their records is.
            on_dropped: told how many spans are given up because too many batches wait.
            now_ns: since the epoch.
        """
        self._exporter = exporter
        self._attributes = attributes
        self._sample_ratio = sample_ratio
        self._on_dropped = on_dropped
        self.now_ns = now_ns
        self._chance = random.Random()
        self._open = self._begin()  # of the records that are in no batch yet
        self._at_hand: Trace | None = None  # of the batch that is judged, or published
        self._judged: list[Trace] = []
        self._published: list[Trace] = []
        self._committing: list[Trace] = []
        self._commit_begun_ns = 0

    def _begin(self) -> Trace:
        return Trace(trace_id=self._chance.getrandbits(128) or 1, span_id=self._chance.getrandbits(64) or 1)

    def note(self, stage: str, begun_ns: int) -> None:
        """A stage has just ended."""
        trace = self._open if stage in _OF_POLLS else self._at_hand
        if trace is not None and stage not in _NO_SPANS:
            trace.note(Stage(stage, begun_ns, self.now_ns()))

    def dead_letters(self, rejected: list[Rejected]) -> list[Rejected]:
        """The same, as they are sent: a record's trace goes on from the span of its batch."""
        sent = []
        for reject in rejected:
            trace = self._at_hand if reject.stage == "score" else self._open
            parent = parent_in(reject.record.headers)
            if trace is None or parent is None:
                sent.append(reject)
                continue
            if trace is self._open:  # the others are linked as events of their batch
                trace.link(parent)
            trace.dead_letters += 1
            headers = taken_on(reject.record.headers, parent, trace.span_id)
            sent.append(replace(reject, record=replace(reject.record, headers=headers)))
        return sent

    def taken(self, batch: Batch, reason: str) -> Batch:
        """A batch leaves for the model: the same, with its trace where it has one."""
        trace, self._open = self._open, self._begin()
        self._at_hand = None
        # What is muted has its outcome already, and was traced with that.
        fresh = ~batch.features.is_muted
        parents = parents_of(batch.events.records.headers, fresh)
        if parents is not None:
            trace.link_all(parents)
        elif not trace.links and not (fresh.any() and self._chance.random() < self._sample_ratio):
            return batch
        trace.attributes = {
            **self._attributes,
            "messaging.batch.message_count": len(batch),
            "penstock.batch.reason": reason,
            "penstock.partitions": tuple(sorted(batch.events.next_offsets)),
        }
        self._at_hand = trace
        self._judged.append(trace)
        self._give_up_the_oldest()
        return replace(batch, trace=trace)

    def publishing(self, batch: Batch) -> None:
        """A judged batch is about to be published."""
        trace = self._at_hand = batch.trace
        if trace is None or trace not in self._judged:
            return
        self._judged.remove(trace)
        self._published.append(trace)
        if versions := _versions(batch.version):
            trace.attributes = {**trace.attributes, "penstock.model.version": versions}

    def each(self, held: Iterable[Ready]) -> Iterator[Ready]:
        """Judged batches one after the other, each while it is the one that is published."""
        for made in held:
            self.publishing(made.batch)
            yield made

    def commit_begun(self) -> None:
        """What is published is being committed."""
        self._commit_begun_ns = self.now_ns()
        for trace in self._published:
            trace.parents = None  # and the batch's buffers with it
        self._committing += self._published
        self._published = []

    def commit_ended(self, *, is_done: bool) -> None:
        """It counts, or has to be committed again."""
        committing, self._committing = self._committing, []
        if not is_done:
            self._published = committing + self._published
            return
        if not committing:
            return
        now_ns = self.now_ns()
        for trace in committing:
            trace.note(Stage("commit", self._commit_begun_ns, now_ns))
            self._exporter.offer(_done(trace, now_ns, None))

    def given_up(self) -> None:
        """Nothing since the last commit counts: its records are read again, and then have other spans."""
        now_ns = self.now_ns()
        for trace in (*self._committing, *self._published, *self._judged):
            self._exporter.offer(_done(trace, now_ns, "not committed"))
        self._committing, self._published, self._judged = [], [], []
        self._open, self._at_hand = self._begin(), None

    def _give_up_the_oldest(self) -> None:
        waiting = len(self._committing) + len(self._published) + len(self._judged)
        for traces in (self._committing, self._published, self._judged):
            while traces and waiting > MOST_UNDER_WAY:
                self._on_dropped(1 + len(traces.pop(0).stages))
                waiting -= 1

    def close(self) -> None:
        """Send what is left, if a collector takes it."""
        self.given_up()
        self._exporter.close()


def _versions(version: Any) -> str:
    """Of a batch: text for all events, or (n,) pyarrow strings."""
    if isinstance(version, str):
        return version
    return ", ".join(sorted(filter(None, pc.unique(version).to_pylist())))


def _done(trace: Trace, now_ns: int, error: str | None) -> Done:
    begun_ns = min((stage.begun_ns for stage in trace.stages), default=now_ns)
    left_out = {
        "penstock.links_left_out": trace.links_left_out,
        "penstock.stages_left_out": trace.stages_left_out,
    }
    return Done(
        trace_id=trace.trace_id,
        span_id=trace.span_id,
        begun_ns=begun_ns,
        ended_ns=max(now_ns, begun_ns),  # the clock may have been set back
        stages=tuple(trace.stages),
        links=tuple(trace.links),
        links_left_out=trace.links_left_out,
        attributes={
            **trace.attributes,
            "penstock.dead_letters": trace.dead_letters,
            **{name: count for name, count in left_out.items() if count},
        },
        error=error,
    )
