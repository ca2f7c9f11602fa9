"""Whoever waits on an event loop is told what other threads answer, many of them with one wake-up."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import suppress
from itertools import count

import pytest

from worker.told_together import ToldTogether

WITHIN_S = 20.0


def test_what_is_answered_in_one_block_is_told_with_one_wake_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, told, woken = asyncio.new_event_loop(), ToldTogether(), count()
    wake = loop.call_soon_threadsafe
    monkeypatch.setattr(loop, "call_soon_threadsafe", lambda *given: (next(woken), wake(*given))[1])
    futures: list[Future[int]] = [Future() for _ in range(50)]

    def answer() -> None:
        with told.gathered():
            for number, future in enumerate(futures):
                future.set_result(number)

    async def ask() -> list[int]:
        waiting = asyncio.gather(*(told.wait(future) for future in futures))
        await asyncio.sleep(0)
        threading.Thread(target=answer).start()
        return await asyncio.wait_for(waiting, WITHIN_S)

    try:
        assert loop.run_until_complete(ask()) == list(range(50))
        assert next(woken) == 1
    finally:
        loop.close()


def test_a_block_that_fails_tells_what_it_has_answered() -> None:
    told, future = ToldTogether(), Future[int]()

    def answer() -> None:
        with suppress(ZeroDivisionError), told.gathered():
            future.set_result(7)
            raise ZeroDivisionError

    async def ask() -> int:
        asyncio.get_running_loop().call_soon(threading.Thread(target=answer).start)
        return await asyncio.wait_for(told.wait(future), WITHIN_S)

    assert asyncio.run(ask()) == 7


def test_answers_of_many_threads_in_and_out_of_blocks_are_all_told() -> None:
    told = ToldTogether()
    futures: list[Future[int]] = [Future() for _ in range(2_000)]

    def gathering() -> None:
        for begin in range(0, 1_000, 10):
            with told.gathered():
                for number in range(begin, begin + 10):
                    futures[number].set_result(number)

    def alone(begin: int) -> None:
        for number in range(begin, begin + 500):
            futures[number].set_result(number)

    async def ask() -> list[int]:
        waiting = asyncio.gather(*(told.wait(future) for future in futures))
        await asyncio.sleep(0)
        threading.Thread(target=gathering).start()
        for begin in (1_000, 1_500):
            threading.Thread(target=alone, args=(begin,)).start()
        return await asyncio.wait_for(waiting, WITHIN_S)

    assert asyncio.run(ask()) == list(range(2_000))


def test_an_error_is_raised_where_it_is_waited_for() -> None:
    told, future = ToldTogether(), Future[int]()
    future.set_exception(KeyError("none"))

    with pytest.raises(KeyError):
        asyncio.run(told.wait(future))


def test_who_stops_waiting_cancels_what_was_asked() -> None:
    told, future = ToldTogether(), Future[int]()

    async def ask() -> None:
        async with asyncio.timeout(0.01):
            await told.wait(future)

    with pytest.raises(TimeoutError):
        asyncio.run(ask())
    assert future.cancelled()


def test_an_answer_after_the_event_loop_has_ended_harms_nobody() -> None:
    told, future = ToldTogether(), Future[int]()

    async def begin() -> None:
        waiting = asyncio.ensure_future(told.wait(future))
        await asyncio.wait([waiting], timeout=0.01)
        raise SystemExit

    with pytest.raises(SystemExit):
        asyncio.run(begin())
    with told.gathered():
        if not future.done():
            future.set_result(1)
