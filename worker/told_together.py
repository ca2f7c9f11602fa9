"""Answers of other threads are told to an event loop together: each wake-up costs them the interpreter.

A thread that wakes an event loop writes to a socket, lets go of the interpreter lock for that, and waits for
the event loop's work before it gets it back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")
_Waiting = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", "Future[Any]"]


class ToldTogether:
    """Futures of one event loop that wait for futures of other threads."""

    def __init__(self) -> None:
        self._told: deque[_Waiting] = deque()
        self._is_gathering = False

    async def wait(self, future: Future[T]) -> T:
        """The result, on the thread of the event loop; whoever stops waiting cancels the future."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[T] = loop.create_future()
        future.add_done_callback(lambda done: self._add((loop, waiting, done)))
        try:
            return await waiting
        except asyncio.CancelledError:
            future.cancel()
            raise

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Tell at the end of the block only, what other threads answer meanwhile too; of one thread."""
        self._is_gathering = True
        try:
            yield
        finally:
            self._is_gathering = False
            self._wake()

    def _add(self, told: _Waiting) -> None:
        self._told.append(told)
        # In this order: a block that ends in between sees what was added.
        if not self._is_gathering:
            self._wake()

    def _wake(self) -> None:
        with suppress(IndexError, RuntimeError):  # told meanwhile, or the event loop is closed
            self._told[0][0].call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        while self._told:
            _, waiting, done = self._told.popleft()
            if waiting.done():  # nobody waits any more
                continue
            if done.cancelled():
                waiting.cancel()
            elif (error := done.exception()) is not None:
                waiting.set_exception(error)
            else:
                waiting.set_result(done.result())
