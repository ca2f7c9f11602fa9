"""A question to Redis whose answer is read later: meanwhile both sides work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import redis


class Ahead:
    """Values that were asked for; exactly one of its methods must be called, once."""

    def __init__(
        self, connection: Any, give_back: Callable[[Any], None], when_silent: Callable[[], None]
    ) -> None:
        """The command is sent already; the connection is nobody else's until it is given back.

        Args:
            connection: of redis-py.
            give_back: takes it, with nothing left to read.
            when_silent: told that no answer came in time.
        """
        self._connection = connection
        self._give_back = give_back
        self._when_silent = when_silent

    def answer(self) -> list[bytes | None] | None:
        """The values; None: there is no answer, and the way that tries twice and knows why has to be gone."""
        try:
            return cast("list[bytes | None]", answer_on(self._connection))
        except redis.TimeoutError:
            self._when_silent()
            return None
        except redis.RedisError:
            return None
        finally:
            self._give_back(self._connection)

    def drop(self) -> None:
        """Nobody wants them any more; they are read all the same, or the next command would."""
        self.answer()


def answer_on(connection: Any) -> Any:
    """What was answered; after anything but an answer the connection is closed.

    Raises:
        RedisError: the answer is an error, or there is none.
    """
    try:
        return connection.read_response()
    except redis.ResponseError:
        raise
    except BaseException:
        connection.disconnect()  # it may have been interrupted before it began to read
        raise
