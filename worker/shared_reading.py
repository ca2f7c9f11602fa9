"""Requests that are here at the same moment are read together: reading costs a call more than a row."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from worker.batch import Events
from worker.join_events import part_of
from worker.json_events import EventReader, Refusal

Read = tuple[Events, dict[int, Refusal]]
GATHER_S = 0.003  # from one reading to the next at least; the first after a pause does not wait
_AT_MOST = 256  # rows read in one go: others have their turn


class SharedReading:
    """`EventReader.read` for whoever waits for it; of one event loop."""

    def __init__(self, reader: EventReader) -> None:
        self.reader = reader
        self._not_before_s = 0.0
        self._waiting: list[tuple[Sequence[Any], asyncio.Future[Read]]] = []

    async def read(self, rows: Sequence[Any], now_us: int) -> Read:
        """See EventReader.read."""
        loop = asyncio.get_running_loop()
        if not self._waiting:  # after all requests that have arrived by then have come as far as this
            loop.call_later(max(0.0, self._not_before_s - loop.time()), self._read_all, now_us, loop)
        future: asyncio.Future[Read] = loop.create_future()
        self._waiting.append((rows, future))
        return await future

    def _read_all(self, now_us: int, loop: asyncio.AbstractEventLoop) -> None:
        self._not_before_s = loop.time() + GATHER_S
        waiting, self._waiting = self._waiting, []
        while waiting:
            count, size = 1, len(waiting[0][0])
            while count < len(waiting) and size + len(waiting[count][0]) <= _AT_MOST:
                size += len(waiting[count][0])
                count += 1
            self._read_some(waiting[:count], now_us)
            waiting = waiting[count:]

    def _read_some(self, waiting: Sequence[tuple[Sequence[Any], asyncio.Future[Read]]], now_us: int) -> None:
        try:
            found = parts_of(self.reader, [rows for rows, _ in waiting], now_us)
        except Exception as error:
            if len(waiting) == 1:
                _tell(waiting[0][1], error)
                return
            for each in waiting:  # one of them is at fault
                self._read_some([each], now_us)
            return
        for (_, future), part in zip(waiting, found, strict=True):
            _tell(future, part)


def parts_of(reader: EventReader, requests: Sequence[Sequence[Any]], now_us: int) -> list[Read]:
    """What the reader would say of each of several requests, read in one call."""
    events, refused = reader.read([row for rows in requests for row in rows], now_us)
    if len(requests) == 1:
        return [(events, refused)]
    edges = list(accumulate(map(len, requests), initial=0))
    events_before = np.searchsorted(events.records.offset, edges).tolist()  # rows refused are no events
    found = []
    for (begin, end), (first, last) in zip(pairwise(edges), pairwise(events_before), strict=True):
        part = part_of(events, first, last)
        records = replace(part.records, offset=part.records.offset - begin)
        why = {row - begin: said for row, said in refused.items() if begin <= row < end}
        found.append((replace(part, records=records), why))
    return found


def _tell(future: asyncio.Future[Read], said: Read | Exception) -> None:
    if future.done():  # whoever asked has gone
        return
    if isinstance(said, Exception):
        future.set_exception(said)
    else:
        future.set_result(said)
