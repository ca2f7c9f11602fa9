"""How far each partition is behind: in records, and in time."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from feature_cache.lanes import Lanes
from worker.batch import Events
from worker.metrics import Meter
from worker.source import Source

NONE_MS = -(2**62)


class Lag:
    """The newest record polled of each partition, against what the topic holds."""

    def __init__(self, source: Source, lanes: Lanes, meter: Meter) -> None:
        self._source = source
        self._lanes = lanes
        self._meter = meter
        # By partition, the timestamp of its newest record polled; NONE_MS: it has none, or is not ours.
        self._newest_ms = np.full(0, NONE_MS, np.int64)

    def note(self, events: Events) -> None:
        """These events were polled."""
        records = events.records
        if (beyond := max(events.next_offsets, default=0) + 1 - len(self._newest_ms)) > 0:
            self._newest_ms = np.append(self._newest_ms, np.full(beyond, NONE_MS))
        self._newest_ms[records.partition] = records.produced_ms  # of several, numpy keeps the last

    def report(self, wall_ms: int) -> None:
        """Records not yet polled; and how old the newest polled one is while there are such."""
        for partition in np.flatnonzero(self._newest_ms != NONE_MS).tolist():
            if partition not in self._lanes:
                continue
            newest_ms = int(self._newest_ms[partition])
            high = self._source.high_offset(partition)
            behind = max(0, high - self._lanes[partition].watermark) if high >= 0 else 0
            self._meter.lag(partition, behind, (wall_ms - newest_ms) / 1000 if behind else 0.0)

    def forget(self, partitions: Iterable[int]) -> None:
        """These partitions are another member's now."""
        for partition in partitions:
            if partition < len(self._newest_ms) and self._newest_ms[partition] != NONE_MS:
                self._newest_ms[partition] = NONE_MS
                self._meter.forget_partition(partition)
