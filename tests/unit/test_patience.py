"""What waits for Kafka ends when its time is up, and sooner where the worker has to leave."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future

import pytest

from worker.patience import Patience

FAR_S = 60.0


def later(seconds: float) -> float:
    """A moment of the monotonic clock."""
    return time.monotonic() + seconds


def test_an_answer_ends_the_wait_and_what_a_call_raised_is_raised() -> None:
    well: Future[int] = Future()
    ill: Future[int] = Future()

    def end() -> None:
        well.set_result(7)
        ill.set_exception(KeyError("x"))

    threading.Timer(0.3, end).start()

    Patience().answer(well, later(FAR_S))
    assert well.done()
    with pytest.raises(KeyError):
        Patience().answer(ill, later(FAR_S))


def test_an_answer_that_is_there_is_taken_however_late_it_is() -> None:
    done: Future[int] = Future()
    done.set_result(7)

    Patience().answer(done, later(-1.0))


def test_a_call_that_gave_up_itself_says_so_in_its_own_words() -> None:
    late: Future[int] = Future()
    late.set_exception(TimeoutError("too late, a successor decides"))

    with pytest.raises(TimeoutError, match="a successor decides"):
        Patience().answer(late, later(FAR_S))


def test_no_answer_ends_the_wait_when_its_time_is_up_and_says_how_long_it_was() -> None:
    with pytest.raises(TimeoutError, match=r"no answer within 0\.[3-9] s"):
        Patience().answer(Future(), later(0.3))


def test_a_wait_under_way_ends_when_some_thread_says_that_it_is_time_to_leave() -> None:
    patience = Patience()

    def leave() -> None:
        patience.leave_by_s = time.monotonic()

    threading.Timer(0.3, leave).start()

    with pytest.raises(TimeoutError):
        patience.answer(Future(), later(FAR_S))
    assert patience.is_over
    assert patience.left_s(later(FAR_S)) == 0.0
