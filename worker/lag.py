"""How far each partition is behind: in records, and in time."""

from __future__ import annotations

from collections.abc import Iterable

from feature_cache.lanes import Lanes
from worker.batch import Events
from worker.metrics import Meter
from worker.source import Source


class Lag:
    """The newest record polled of each partition, against what the topic holds."""

    def __init__(self, source: Source, lanes: Lanes, meter: Meter) -> None:
        self._source = source
        self._lanes = lanes
        self._meter = meter
        self._newest_ms: dict[int, int] = {}  # partition to the timestamp of its newest record polled

    def note(self, events: Events) -> None:
        """These events were polled."""
        for partition in events.next_offsets:
            times = events.records.produced_ms[events.records.partition == partition]
            if len(times):
                self._newest_ms[partition] = int(times[-1])

    def report(self, wall_ms: int) -> None:
        """Records not yet polled; and how old the newest polled one is while there are such."""
        for partition, newest_ms in self._newest_ms.items():
            if partition not in self._lanes:
                continue
            high = self._source.high_offset(partition)
            behind = max(0, high - self._lanes[partition].watermark) if high >= 0 else 0
            self._meter.lag(partition, behind, (wall_ms - newest_ms) / 1000 if behind else 0.0)

    def forget(self, partitions: Iterable[int]) -> None:
        """These partitions are another member's now."""
        for partition in partitions:
            if self._newest_ms.pop(partition, None) is not None:
                self._meter.forget_partition(partition)
