"""What asks need of the store, read beside the loop: lookups, profiles, and rows that are not in memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import structlog

from feature_cache.glimpse import StoredRows, likely_missing
from feature_cache.key_index import keys_of
from feature_cache.lane import lane_name
from feature_cache.lanes import Lanes
from feature_cache.store import Store, StoreRefusedError, StoreUnavailableError
from worker.asks import EventsAsk, Inbox, NotNowError, NotPossibleError, fail
from worker.join_events import join_events
from worker.lookups import Looked, Lookup
from worker.profiles import Profile
from worker.records import index_keys

_TOGETHER = 64  # asks that are read for at once


class _NobodyWaitsError(Exception):
    """Every ask of the batch was given up while a lookup waited for its owner."""


class AskReader:
    """Reads for asks, some at a time, on a thread of its own, and lets them wait for the loop."""

    def __init__(
        self,
        inbox: Inbox,
        lookups: Sequence[Lookup | Profile],
        store: Store,
        lanes: Lanes | None,
        group: str,
        topic: str,
    ) -> None:
        """Read nothing yet.

        Args:
            inbox: where asks go that have what they need.
            lookups: of the pipeline, in its order, for this thread alone.
            store: of the pipeline's own rows.
            lanes: of the loop; None where nothing is remembered.
            group, topic: whose lanes these are.
        """
        self._inbox = inbox
        self._lookups = lookups
        self._store = store
        self._lanes = lanes
        if lanes is not None:
            likely_missing(lanes, keys_of([]), np.zeros(0, np.int32))  # compiles it now, not when asked
        self._lane = (group, topic)
        self._queue: SimpleQueue[EventsAsk | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="http reader", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def close(self) -> None:
        """Read nothing any more."""
        self._queue.put(None)

    def submit(self, ask: EventsAsk) -> None:
        """Take an admitted ask; any thread may call.

        Rows that most likely are not in memory are read now: the loop would take the ask, find that out, and
        take it a second time, and twice wait until the stream has had its turn.
        """
        if self._lanes is not None:
            records = ask.events.records
            ask.wanted = likely_missing(self._lanes, index_keys(records.keys), records.partition)
        if self._lookups or ask.wanted:
            self._queue.put(ask)
        else:
            self._inbox.put(ask)

    def read_rows(self, ask: EventsAsk) -> None:
        """Ask the store for what the ask wants; any thread may call."""
        self._queue.put(ask)

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            asks = [first]
            with suppress(Empty):
                while len(asks) < _TOGETHER:
                    more = self._queue.get_nowait()
                    if more is None:
                        self._queue.put(None)
                        break
                    asks.append(more)
            try:
                self._read([ask for ask in asks if not ask.future.cancelled()])
            except Exception as error:
                structlog.get_logger().error("requests failed", kind=type(error).__name__)
                for ask in asks:
                    fail(ask, NotPossibleError("the request could not be computed", 500))

    def _read(self, asks: list[EventsAsk]) -> None:
        new = [ask for ask in asks if len(ask.looked) < len(self._lookups)]
        if new:
            try:
                self._look_up(new)
            except (StoreUnavailableError, StoreRefusedError):
                for ask in new:
                    fail(ask, NotNowError("the store does not answer"))
            except _NobodyWaitsError:
                pass
        waiting = [ask for ask in asks if not ask.future.done()]
        if wanting := [ask for ask in waiting if ask.wanted]:
            self._read_rows(wanting)
        for ask in waiting:  # one given up by now is not taken
            self._inbox.put(ask)

    def _look_up(self, asks: list[EventsAsk]) -> None:
        def may_wait() -> None:
            if all(ask.future.cancelled() for ask in asks):
                raise _NobodyWaitsError

        events = join_events([ask.events for ask in asks])
        given = [lookup.read(events, may_wait) for lookup in self._lookups]
        begin = 0
        for ask in asks:
            here = slice(begin, begin + len(ask))
            ask.looked = [_part(looked, here) for looked in given]
            begin += len(ask)

    def _read_rows(self, asks: list[EventsAsk]) -> None:
        wanted: dict[int, dict[bytes, None]] = {}
        for ask in asks:
            for partition, keys in ask.wanted.items():
                wanted.setdefault(partition, {}).update(dict.fromkeys(keys))
        lanes = [(lane_name(*self._lane, partition), list(keys)) for partition, keys in wanted.items()]
        found: dict[int, StoredRows] = {}
        try:
            answers = self._store.read(lanes)
        except (StoreUnavailableError, StoreRefusedError):
            for partition, asked in wanted.items():
                found[partition] = StoredRows(None, asked, is_away=True)
        else:
            for (partition, asked), (meta, rows) in zip(wanted.items(), answers, strict=True):
                found[partition] = StoredRows(meta, dict(zip(asked, rows, strict=True)))
        for ask in asks:
            ask.stored = {**ask.stored, **{partition: found[partition] for partition in ask.wanted}}
            ask.wanted, ask.reads = {}, ask.reads + 1


def _part(looked: Looked, here: slice) -> Looked:
    columns: dict[str, np.ndarray[Any, Any]] = {
        name: getattr(looked, name)[here] for name in Looked.__dataclass_fields__
    }
    return Looked(**columns)
