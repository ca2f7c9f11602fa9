"""Requests wait in order and in bounded number, end a poll that waits, and leave the loop to the stream."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Consumer

from tests.http_line import WITHIN_S, open_stream, transaction
from worker.answers import REST, Answers
from worker.asks import Inbox, NotNowError, TensorsAsk, answer, fail
from worker.fetched import PlainFetch
from worker.librdkafka import is_known
from worker.native_fetch import NativeFetch


def ask(rows: int = 1) -> TensorsAsk:
    return TensorsAsk(tensors={"x": np.zeros((rows, 1))}, version=None, rows=rows)


def test_what_waits_is_taken_in_order_and_as_many_rows_as_fit() -> None:
    inbox = Inbox(10)
    asks = [ask(3), ask(4), ask(5)]
    for each in asks:
        inbox.admit(each)
        inbox.put(each)

    assert inbox.take(8) == asks[:2]
    assert inbox.take(1) == asks[2:], "one that is too large for a batch goes alone"
    assert inbox.take(8) == []


def test_an_ask_counts_until_it_is_answered_fails_or_nobody_waits_for_it() -> None:
    inbox = Inbox(3)
    asks = [ask(), ask(), ask()]
    for each in asks:
        inbox.admit(each)
    with pytest.raises(NotNowError, match="3 requests waiting"):
        inbox.admit(ask())

    answer(asks[0], ("1", {}))
    fail(asks[1], NotNowError("no"))
    asks[2].future.cancel()

    assert inbox.open_asks == 0
    answer(asks[2], ("1", {}))  # too late, and no error


def test_what_nobody_waits_for_any_more_is_not_taken() -> None:
    inbox = Inbox(3)
    for each in (gone := ask(), here := ask()):
        inbox.admit(each)
        inbox.put(each)
    gone.future.cancel()

    assert inbox.take(10) == [here]


def test_the_first_that_waits_wakes_the_loop_and_those_beside_it_need_not() -> None:
    woken: list[int] = []
    inbox = Inbox(9, lambda: woken.append(1))
    for _ in range(3):
        inbox.admit(each := ask())
        inbox.put(each)
    assert len(woken) == 1

    inbox.take(9)
    inbox.admit(each := ask())
    inbox.put(each)

    assert len(woken) == 2


def test_a_closed_inbox_tells_everybody_why() -> None:
    inbox = Inbox(3)
    inbox.admit(waiting := ask())
    inbox.put(waiting)
    inbox.admit(late := ask())

    inbox.close("stopping")
    inbox.put(late)  # a reader brings it back

    for each in (waiting, late):
        with pytest.raises(NotNowError, match="stopping"):
            each.future.result(0)
    with pytest.raises(NotNowError, match="stopping"):
        inbox.admit(ask())


def test_the_stream_has_the_loop_for_twice_as_long_as_a_batch_of_requests_took(tmp_path: Path) -> None:
    assert REST == 2.0
    with open_stream(tmp_path) as stream:
        stream.take()
        clock_s = iter([10.0, 10.004, 20.0, 20.001])
        inbox = Inbox(9)
        answers = Answers(
            inbox,
            lambda _: None,
            max_rows=64,
            may_guess=False,
            wall_us=lambda: 0,
            clock_s=lambda: next(clock_s),
        )

        def put() -> TensorsAsk:
            x = np.zeros((1, 15), np.float32)
            inbox.admit(one := TensorsAsk(tensors={"features": x}, version=None, rows=1))
            inbox.put(one)
            return one

        first = put()
        assert answers.serve(stream.line, 1000.0)
        assert first.future.done()
        second = put()
        assert answers.serve(stream.line, 1011.0), "something waits, and the stream has the turn"
        assert not second.future.done()
        assert answers.poll_at_most_ms(stream.line, 1011.0, 100.0, 40.0) == [1.0, 1.0]
        assert answers.serve(stream.line, 1012.0)
        assert second.future.done()
        assert not answers.serve(stream.line, 9999.0)


def test_a_worker_that_stops_answers_what_waits(tmp_path: Path) -> None:
    with open_stream(tmp_path) as stream:
        stream.take()
        read, _ = stream.desk.events.reader.read([transaction(1, 1, 0, 1.0)], 4 * 10**15)
        from worker.asks import EventsAsk

        asks = [EventsAsk(events=read) for _ in range(5)]
        for each in asks:
            stream.desk.inbox.admit(each)
            stream.desk.inbox.put(each)

        stream.desk.answers.drain(stream.line, 0.0)

        assert [each.future.result(0)[0]["event_id"] for each in asks] == ["1"] * 5
        assert stream.desk.inbox.is_closed


@pytest.mark.skipif(not is_known(), reason="an unknown version of the client: polls are cut short instead")
def test_a_request_ends_the_poll_that_waits() -> None:
    consumer = Consumer({"bootstrap.servers": "127.0.0.1:1", "group.id": "g", "log_level": 0})
    fetch = NativeFetch(consumer, "t", lambda: 0.0)
    assert not fetch.can_wake
    fetch._led.add(0)
    assert fetch.can_wake
    said: list[Any] = []
    polling = threading.Thread(target=lambda: said.append(fetch.poll(10, 3_600_000.0, 0.0)), daemon=True)
    polling.start()

    fetch.wake()
    polling.join(WITHIN_S)

    assert said[0].count == 0
    fetch.wake()  # before: the next poll does not wait either
    assert fetch.poll(10, 3_600_000.0, 0.0).count == 0
    fetch.close()
    fetch.wake()  # who comes after the end meets nothing
    consumer.close()


def test_the_plain_client_is_not_woken() -> None:
    assert not PlainFetch(None, "t", lambda: 0.0).can_wake
