"""Which machine's which sensor begins to give readings that it cannot mean, and which is well again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from feature_cache.readings import ALL_KINDS, KINDS, SENTENCES
from worker.batch import Batch

MOST_OPEN = 10_000  # sensors with an alert that stands; of further ones nothing is told


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """A change of one sensor of one key."""

    key: bytes
    field: str
    kind: str
    is_raised: bool
    event_us: int
    text: str


class BadReadings:
    """The alerts of sensors that stand, by row of their key; in memory only."""

    def __init__(self, fields: tuple[str, ...]) -> None:
        self._fields = fields
        self._open: dict[tuple[int, int, int], bytes] = {}  # row, field, kind: key

    def forget(self) -> None:
        """Nothing is known to stand."""
        self._open.clear()

    def edges(self, batch: Batch) -> Iterator[Edge]:
        """What begins and what is over with each reading of this batch, in their order."""
        features = batch.features
        if features.quality is None:
            return
        flags = features.quality & ALL_KINDS
        if not len(flags) or not (flags.any() or self._open):
            return
        by_row = np.argsort(features.slots, kind="stable")
        slots, found = features.slots[by_row], flags[by_row]
        is_first = np.append(True, slots[1:] != slots[:-1])
        changes = np.append(True, (found[1:] != found[:-1]).any(axis=1))
        # The first of a key is news where it is bad or an alert of the key stands; else what changes is.
        open_slots = [slot for slot, _, _ in self._open]
        may_tell = np.where(is_first, found.any(axis=1) | np.isin(slots, open_slots), changes)
        for row in np.sort(by_row[may_tell]).tolist():
            if not features.is_muted[row]:
                yield from self._of(batch, row)

    def _of(self, batch: Batch, row: int) -> Iterator[Edge]:
        assert batch.features.quality is not None
        slot, key = int(batch.features.slots[row]), batch.events.records[row].key or b""
        event_us = int(batch.events.event_us[row])
        for field, flags in enumerate(batch.features.quality[row].tolist()):
            for kind, name in enumerate(KINDS):
                place, is_bad = (slot, field, kind), bool(flags >> kind & 1)
                is_open = self._open.get(place) == key
                if not is_open:
                    self._open.pop(place, None)  # the row was another key's before
                if is_bad == is_open or (is_bad and len(self._open) >= MOST_OPEN):
                    continue
                if is_bad:
                    self._open[place] = key
                else:
                    del self._open[place]
                yield Edge(
                    key=key,
                    field=self._fields[field],
                    kind=name,
                    is_raised=is_bad,
                    event_us=event_us,
                    text=SENTENCES[name],
                )
