"""When lanes whose rows are guesses, for want of a store, can be read anew."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from feature_cache.lanes import Lanes
from feature_cache.store import StoreUnavailableError
from worker.background import in_background

_ASK_EVERY_MS = 500.0


class Healing:
    """Asks the store beside the loop: a server that hangs answers late, and scores need not wait for that."""

    def __init__(self, lanes: Lanes, now_ms: Callable[[], float]) -> None:
        self._lanes = lanes
        self._now_ms = now_ms
        self._due_ms = 0.0
        self._asking: Future[None] | None = None

    def ready(self) -> list[int]:
        """Partitions with guessed rows, once after the store has answered for them; else none."""
        guessing, now_ms = self._lanes.guessing(), self._now_ms()
        if self._asking is None:
            if guessing and now_ms >= self._due_ms:
                self._due_ms = now_ms + _ASK_EVERY_MS
                self._asking = in_background(partial(self._lanes.check, guessing), "ask the store")
            return []
        if not self._asking.done():
            return []
        asking, self._asking = self._asking, None
        try:
            asking.result()
        except StoreUnavailableError:
            return []
        return guessing
