"""Stops asking a server that does not answer, and finds out now and then whether it does again."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable


class Breaker:
    """Lets calls through until several in a row went unanswered, and then one a pause.

    Nothing has to be given back: the call let through moves the next one on by a pause, whether or not its
    outcome is ever told. May be used from several threads.
    """

    def __init__(
        self,
        *,
        opens_after: int = 3,
        first_pause_s: float = 0.1,
        longest_pause_s: float = 1.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._opens_after = opens_after
        self._first_pause_s = first_pause_s
        self._longest_pause_s = longest_pause_s
        self._chance = chance
        self._lock = threading.Lock()
        self._unanswered = 0
        self._next_at_s = 0.0

    @property
    def doubts(self) -> bool:
        """Whether the last call went unanswered."""
        return self._unanswered > 0

    def lets_through(self, now_s: float) -> bool:
        """Whether to ask now; the one call that a pause allows is taken by asking this."""
        with self._lock:
            if self._unanswered < self._opens_after:
                return True
            if now_s < self._next_at_s:
                return False
            self._next_at_s = now_s + self._pause_s()
            return True

    def answered(self) -> None:
        """The server is there: every call may go through."""
        with self._lock:
            self._unanswered = 0

    def unanswered(self, now_s: float) -> None:
        """A call failed because nobody answered."""
        with self._lock:
            self._unanswered += 1
            self._next_at_s = now_s + self._pause_s()

    def _pause_s(self) -> float:
        doublings: int = min(max(self._unanswered - self._opens_after, 0), 16)
        longest = min(self._longest_pause_s, self._first_pause_s * float(2**doublings))
        return longest * (0.5 + 0.5 * self._chance())  # workers that lost it together do not return together
