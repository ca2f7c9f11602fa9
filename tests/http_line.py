"""A pipeline's line with lanes of its own, which tests drive by hand, and a desk that answers beside it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from benchmarks.workers import topics_of
from feature_cache.lane import Offsets
from feature_cache.layout import FOREVER_US
from feature_cache.store import MemoryStore
from loadgen.bus import start_cluster
from tests.pipeline.streams import alone
from worker.asks import EventsAsk
from worker.assemble import assemble
from worker.batch import Batch
from worker.config import Pipeline, load_pipeline
from worker.desk import Desk, open_desk
from worker.features import enrich
from worker.judge import judge
from worker.line import Line
from worker.refuse import set_refused_apart
from worker.shared_reading import parts_of

PARTITIONS = 3
START_MS = 1_760_000_000_000  # 2025-10-09
NOW_US = (START_MS + 50 * 86_400_000) * 1000
WITHIN_S = 30.0
Event = dict[str, Any]
_SECTIONS: dict[str, dict[str, Any]] = {
    "delivery": {"mode": "at_least_once"},
    "http": {"port": 0},
    "state": {"store": "memory://"},
}


def transaction(number: int, customer: int, after_ms: int, amount: float) -> Event:
    """A transaction as JSON has it."""
    return {
        "transaction_id": str(number),
        "event_time": START_MS + after_ms,
        "customer_id": f"C{customer}",
        "terminal_id": f"T{number % 5}",
        "amount": amount,
    }


@dataclass(slots=True, eq=False)
class Stream:
    """A line whose records a test gives it, and which publishes nowhere."""

    pipeline: Pipeline
    line: Line
    desk: Desk
    store: MemoryStore
    registry: CollectorRegistry
    next_offset: dict[int, int] = field(default_factory=dict)

    def take(self, *, is_blind: bool = False) -> None:
        """Own every lane, from its beginning; blind: reading starts after records that nobody remembers."""
        begin = 5 if is_blind else 0
        for partition in range(PARTITIONS):
            meta = self.line.lanes.claim(partition, 0)
            offsets = Offsets(committed=None, start=begin, low=begin, high=begin)
            rebuild = (begin, FOREVER_US) if is_blind else None
            self.next_offset[partition] = self.line.lanes.begin(partition, meta, offsets, 0, rebuild)

    def send(self, events: Sequence[Event]) -> dict[int, float | str]:
        """Let them be the next records; by place in the list its score, or the reason of its dead letter."""
        read, refused = self.desk.events.reader.read(events, NOW_US)
        said: dict[int, float | str] = {place: why.reason for place, why in refused.items()}
        records = read.records
        offsets = records.offset.copy()
        nexts: dict[int, int] = {}
        for row, partition in enumerate(records.partition.tolist()):
            offsets[row] = self.next_offset[partition]
            self.next_offset[partition] += 1
            nexts[partition] = self.next_offset[partition]
        place_of = dict(zip(zip(records.partition.tolist(), offsets.tolist(), strict=True),
                            records.offset.tolist(), strict=True))  # fmt: skip
        batch_events = replace(read, records=replace(records, offset=offsets), next_offsets=nexts)
        line = self.line
        features = enrich(batch_events, line.feature_plan, line.lanes, line.lookups, line.meter)
        batch, apart = set_refused_apart(Batch(events=batch_events, features=features))
        made = judge(line, batch, "test", 0.0)
        for reject in (*apart, *made.rejected):
            said[place_of[reject.record.partition, reject.record.offset]] = reject.reason
        if made.scores is not None:
            kept = made.batch.events.records
            for row in np.flatnonzero(np.isfinite(made.scores)).tolist():
                said[place_of[int(kept.partition[row]), int(kept.offset[row])]] = float(made.scores[row])
        return said

    def write(self) -> None:
        """Make rows durable, so that they may leave memory."""
        for partition in self.line.lanes.partitions():
            self.line.lanes.write(partition)

    def ask(self, *requests: Sequence[Event]) -> list[list[Any]]:
        """What each request is told, all of them in one batch; an exception where there is no answer."""
        asks = []
        together = parts_of(self.desk.events.reader, requests, NOW_US)
        for request, (read, refused) in zip(requests, together, strict=True):
            ask = EventsAsk(events=read)
            self.desk.inbox.admit(ask)
            self.desk.reader.submit(ask)
            asks.append((ask, refused, len(request)))
        give_up_s = time.monotonic() + WITHIN_S
        while not all(ask.future.done() for ask, *_ in asks if len(ask)):
            assert time.monotonic() < give_up_s, "a request has no answer"
            self.desk.answers.serve(self.line, time.monotonic() * 1000)
        told = []
        for ask, refused, count in asks:
            if len(ask) and (error := ask.future.exception()):
                told.append([error])
                continue
            said: dict[int, Any] = dict(refused)
            if len(ask):
                said.update(zip(ask.events.records.offset.tolist(), ask.future.result(), strict=True))
            told.append([said[place] for place in range(count)])
        return told


@contextmanager
def open_stream(folder: Path, **sections: dict[str, Any]) -> Iterator[Stream]:
    """The fraud pipeline on an embedded bus and a store in memory, with a desk; no lane is owned yet."""
    bootstrap, kept = start_cluster({**topics_of("t.", PARTITIONS)})
    file = alone(
        folder,
        "t.",
        **{**_SECTIONS, "kafka": {"bootstrap": bootstrap}, **sections},
    )
    pipeline = load_pipeline(file, {"PENSTOCK_DEVICE": "cpu", "TOKEN": "sixteen characters"})
    store = MemoryStore()
    registry = CollectorRegistry()
    line = assemble(pipeline, lambda _: store, registry)
    assert line.router is not None
    line.router.settle()
    desk = open_desk(pipeline, line, lambda _: store)
    assert desk is not None
    try:
        yield Stream(pipeline, line, desk, store, registry)
    finally:
        desk.reader.close()
        line.source.close()
        line.sink.close()
        del kept
