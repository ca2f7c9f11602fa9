"""How long the loop waits for Kafka: as long as a call may take, but not past when it must leave."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

_LOOK_EVERY_S = 0.2  # how late a wait notices that it has to end


class Answer(Protocol):
    """A call that goes on beside the loop, such as a future."""

    def done(self) -> bool:
        """Whether it has ended."""

    def result(self, timeout: float) -> Any:
        """Wait so many seconds, TimeoutError; or raise what it raised."""


class Patience:
    """Without an end, until some other thread sets one."""

    def __init__(self) -> None:
        self.leave_by_s = math.inf  # of the monotonic clock

    @property
    def is_over(self) -> bool:
        """Whether nothing is waited for any more."""
        return time.monotonic() >= self.leave_by_s

    def left_s(self, give_up_s: float) -> float:
        """Seconds until `give_up_s` or the moment to leave, whichever comes first; 0 from then on."""
        return max(0.0, min(give_up_s, self.leave_by_s) - time.monotonic())

    def answer(self, call: Answer, give_up_s: float) -> None:
        """Wait for a call that goes on beside the loop; raises what it raised.

        Raises:
            TimeoutError: it has not ended by `give_up_s`, or by the moment to leave.
        """
        since_s = time.monotonic()

        def is_done(within_s: float) -> bool:
            with suppress(TimeoutError):  # also one of the call's own, which comes again below
                call.result(within_s)
            return call.done()

        if not self.until(is_done, give_up_s):
            raise TimeoutError(f"no answer within {time.monotonic() - since_s:.1f} s")
        call.result(0.0)

    def until(self, is_done: Callable[[float], bool], give_up_s: float) -> bool:
        """Ask again and again, each time waiting for so many seconds at most; False when time is up."""
        while not is_done(min(self.left_s(give_up_s), _LOOK_EVERY_S)):
            if not self.left_s(give_up_s):
                return False
        return True


ENDLESS = Patience()  # of calls that nobody asks to leave
