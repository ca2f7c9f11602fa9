"""A question to Redis whose answer is read later: meanwhile both sides work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import redis


class Ahead:
    """Values that were asked for; exactly one of its methods must be called, once."""

    def __init__(self, connection: Any, give_back: Callable[[Any], None]) -> None:
        """The command is sent already; the connection is nobody else's until it is given back."""
        self._connection = connection
        self._give_back = give_back

    def answer(self) -> list[bytes | None] | None:
        """The values; None: there is no answer, and the way that tries twice and knows why has to be gone."""
        try:
            return cast("list[bytes | None]", self._connection.read_response())
        except redis.RedisError:
            return None
        finally:
            self._give_back(self._connection)

    def drop(self) -> None:
        """Nobody wants them any more."""
        self._connection.disconnect()  # or the next command would read this answer
        self._give_back(self._connection)
