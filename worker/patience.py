"""How long the loop waits for Kafka: as long as a call may take, but not past when it must leave."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

_LOOK_EVERY_S = 0.2  # how late a wait notices that it has to end
Result = TypeVar("Result")


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

    def answer(self, call: Future[Result], give_up_s: float) -> Result:
        """What a call that runs beside the loop came to.

        Raises:
            TimeoutError: it has not ended by `give_up_s`, or by the moment to leave.
        """
        since_s = time.monotonic()
        if not self.until(lambda within_s: bool(wait([call], within_s).done), give_up_s):
            raise TimeoutError(f"no answer within {time.monotonic() - since_s:.1f} s")
        return call.result()

    def until(self, is_done: Callable[[float], bool], give_up_s: float) -> bool:
        """Ask again and again, each time waiting for so many seconds at most; False when time is up."""
        while not is_done(min(self.left_s(give_up_s), _LOOK_EVERY_S)):
            if not self.left_s(give_up_s):
                return False
        return True


ENDLESS = Patience()  # of calls that nobody asks to leave
