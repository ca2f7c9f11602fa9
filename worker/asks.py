"""Requests that wait for an answer: bounded in number, in order, each answered once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from feature_cache.glimpse import StoredRows
from worker.batch import Events
from worker.lookups import Looked

RETRY_AFTER_S = 1


class NotNowError(Exception):
    """No answer at present: ask again after RETRY_AFTER_S."""


class NotPossibleError(Exception):
    """No answer to this, whenever it is asked; the message says why."""

    def __init__(self, said: str, status: int = 400) -> None:
        super().__init__(said)
        self.status = status


@dataclass(slots=True, eq=False, kw_only=True)
class EventsAsk:
    """What would the stream say of these events, if they came next?"""

    events: Events  # (n,) of one request, in its order; `records.partition`: where a row not in memory is
    future: Future[list[dict[str, Any]]] = field(default_factory=Future)  # (n,) see answers.py
    looked: Sequence[Looked] = ()  # what each lookup has given
    stored: Mapping[int, StoredRows] = field(default_factory=dict)  # by partition, what the store has said
    wanted: Mapping[int, Sequence[bytes]] = field(default_factory=dict)  # by partition, what it is to say
    reads: int = 0  # how often it was asked

    def __len__(self) -> int:
        return len(self.events)


@dataclass(slots=True, eq=False, kw_only=True)
class TensorsAsk:
    """What does the model say of these tensors?"""

    tensors: Mapping[str, NDArray[Any]]  # (n, ...) of every input
    version: str | None  # None: the one that serves
    outputs: Sequence[str] | None = None  # names; None: all
    rows: int
    future: Future[tuple[str, dict[str, Any]]] = field(default_factory=Future)  # version, output by tensor

    def __len__(self) -> int:
        return self.rows


Ask = EventsAsk | TensorsAsk


class Inbox:
    """What waits for the loop; any thread puts, the loop's thread takes."""

    def __init__(self, limit: int, wake: Callable[[], None] = lambda: None) -> None:
        """Hold nothing yet.

        Args:
            limit: asks without an answer, wherever they are; a further one is refused.
            wake: told that something waits.
        """
        self._limit = limit
        self._wake = wake
        self._lock = threading.Lock()
        self._waiting: deque[Ask] = deque()
        self._open = 0  # asks without an answer
        self._closed = ""  # why nothing more is taken

    @property
    def is_waiting(self) -> bool:
        """Whether something can be taken."""
        return bool(self._waiting)

    @property
    def is_closed(self) -> bool:
        """Whether nothing is taken any more."""
        return bool(self._closed)

    @property
    def open_asks(self) -> int:
        """How many have no answer yet."""
        return self._open

    def admit(self, ask: Ask) -> None:
        """Count an ask in, until it is answered or nobody waits for it any more.

        Raises:
            NotNowError: there are too many, or no more answers.
        """
        with self._lock:
            if self._closed:
                raise NotNowError(self._closed)
            if self._open >= self._limit:
                raise NotNowError(f"found {self._open} requests waiting, expected fewer than http.queue")
            self._open += 1
        ask.future.add_done_callback(self._count_out)

    def _count_out(self, _: object) -> None:
        with self._lock:
            self._open -= 1

    def put(self, ask: Ask) -> None:
        """Let an admitted ask wait for the loop."""
        with self._lock:
            closed = self._closed
            is_first = not self._waiting
            if not closed:
                self._waiting.append(ask)
        if closed:
            fail(ask, NotNowError(closed))
        elif is_first:  # with the others it is answered
            self._wake()

    def take(self, rows: int) -> list[Ask]:
        """The asks that waited longest and whose answers somebody still waits for, at least one if any.

        Args:
            rows: of all of them together at most, unless the first has more.
        """
        taken: list[Ask] = []
        with self._lock:  # one put meanwhile would find others waiting, and wake nobody
            while self._waiting and (not taken or rows >= len(self._waiting[0])):
                ask = self._waiting.popleft()
                if not ask.future.cancelled():
                    taken.append(ask)
                    rows -= len(ask)
        return taken

    def close(self, why: str) -> None:
        """Take nothing any more, and answer what waits with this."""
        with self._lock:
            self._closed = why
            left = list(self._waiting)
            self._waiting.clear()
        for ask in left:
            fail(ask, NotNowError(why))


def answer(ask: Ask, result: Any) -> None:
    """Answer an ask, unless nobody waits any more."""
    if ask.future.set_running_or_notify_cancel():
        ask.future.set_result(result)


def fail(ask: Ask, error: Exception) -> None:
    """Say why there is no answer, unless nobody waits any more."""
    if not ask.future.done() and ask.future.set_running_or_notify_cancel():
        ask.future.set_exception(error)
