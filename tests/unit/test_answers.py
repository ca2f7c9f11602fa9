"""What is answered is what the stream would say next, to the last bit, and the stream has not changed."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest

from feature_cache.glimpse import StoredRows
from feature_cache.packing import pack
from feature_cache.store import StoreUnavailableError
from tests.http_line import NOW_US, PARTITIONS, WITHIN_S, Event, Stream, open_stream, transaction
from worker.ask_reader import AskReader
from worker.asks import EventsAsk, NotNowError, NotPossibleError
from worker.json_events import Refusal

HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stream]:
    with open_stream(tmp_path_factory.mktemp("http"), source={"time": {"equal": "dead_letter"}}) as opened:
        yield opened


def everything(stream: Stream) -> bytes:
    """All that a read-only request could change: rows, when they were used, lanes and the store."""
    rows = stream.line.lanes.rows
    slots = np.flatnonzero(rows.lane >= 0)
    return pickle.dumps(
        (
            pack(rows, slots, 1),
            rows.keys(slots),
            rows.is_dirty.tobytes(),
            rows._used_at.tobytes(),
            rows._clock,
            [stream.line.lanes[partition] for partition in range(PARTITIONS)],
            stream.store._meta,
            stream.store._rows,
        )
    )


events = st.lists(
    st.builds(
        transaction,
        st.integers(0, 10**6),
        st.integers(0, 5),
        st.integers(0, 40 * 24).map(lambda hours: hours * HOUR_MS),
        st.floats(0.5, 5000.0, width=32),
    ),
    max_size=8,
)


@settings(max_examples=25)
@given(
    before=events, requests=st.lists(events, min_size=1, max_size=4), is_blind=st.booleans(), data=st.data()
)
def test_whatever_is_asked_the_answer_is_what_the_stream_says_when_it_comes_next(
    stream: Stream, before: list[Event], requests: list[list[Event]], is_blind: bool, data: st.DataObject
) -> None:
    stream.take(is_blind=is_blind)
    stream.send(before)
    if data.draw(st.booleans(), label="rows have left memory"):
        stream.write()
        for partition in range(PARTITIONS):
            stream.line.lanes.rows.drop_lane(partition)
    was = everything(stream)

    told = stream.ask(*requests)

    assert everything(stream) == was
    come = data.draw(st.sampled_from(range(len(requests))), label="the request whose events come")
    said = stream.send(requests[come])
    assert outcomes(told[come]) == [said[place] for place in range(len(requests[come]))]


def outcomes(told: Sequence[Any]) -> list[float | str]:
    return [each.reason if isinstance(each, Refusal) else each["score"] for each in told]


def test_alerts_and_their_reasons_are_told_as_the_stream_would_raise_them(stream: Stream) -> None:
    stream.take()
    stream.send([transaction(i, 1, i * HOUR_MS, 20.0) for i in range(30)])
    [[first]] = stream.ask([transaction(90, 1, 31 * HOUR_MS, 4000.0)])

    assert first["alert"]["lifecycle"] == "RAISED"
    assert first["alert"]["reasons"]
    stream.send([transaction(90, 1, 31 * HOUR_MS, 4000.0)])
    [[second]] = stream.ask([transaction(91, 1, 31 * HOUR_MS + 60_000, 4000.0)])
    assert second["score"] > 0.2
    assert second["alert"] is None, "it is cooling down, as the row knows"


def test_the_offset_told_is_the_one_that_the_rows_have_seen_everything_before(stream: Stream) -> None:
    stream.take()
    stream.send([transaction(i, i % 6, i * HOUR_MS, 20.0) for i in range(50)])

    [told] = stream.ask([transaction(100 + i, i, 60 * HOUR_MS, 20.0) for i in range(6)])

    for each in told:
        lane = stream.line.lanes[each["as_of"]["partition"]]
        assert each["as_of"] == {
            "partition": each["as_of"]["partition"],
            "offset": lane.watermark,
            "is_owner": True,
        }


def test_rows_of_a_lane_that_another_worker_owns_are_as_of_its_last_write(stream: Stream) -> None:
    stream.take()
    history = [transaction(i, i % 6, i * HOUR_MS, 20.0 + i) for i in range(50)]
    stream.send(history)
    stream.write()
    asked = [transaction(100, 3, 60 * HOUR_MS, 50.0)]
    [[own]] = stream.ask(asked)
    stream.send([transaction(101, 3, 59 * HOUR_MS, 900.0)])  # not written
    stream.line.lanes.drop(own["as_of"]["partition"])

    [[other]] = stream.ask(asked)

    assert other["as_of"] == {**own["as_of"], "is_owner": False}
    assert other["score"] == own["score"]


def test_a_row_written_while_it_is_read_is_read_again(stream: Stream) -> None:
    with_stored_rows(stream)
    stream.line.lanes.rows.drop_lane(partition := partition_of(stream, 1))
    asked = [transaction(100, 1, 11 * HOUR_MS, 50.0)]
    read, _ = stream.desk.events.reader.read(asked, NOW_US)
    ask = EventsAsk(events=read)
    stale = stream.store.read([(stream.line.lanes[partition].name, [b"C1"])])
    stream.send([transaction(11, 1, 10 * HOUR_MS, 700.0)])
    stream.write()
    stream.line.lanes.rows.drop_lane(partition)
    [[expected]] = stream.ask(asked)
    ask.stored = {partition: StoredRows(stale[0][0], {b"C1": stale[0][1][0]})}
    stream.desk.inbox.admit(ask)
    stream.desk.inbox.put(ask)

    assert served(stream, ask)["score"] == expected["score"]
    assert ask.reads == 1


def test_rows_that_are_not_in_memory_are_here_before_the_loop_takes_the_request(stream: Stream) -> None:
    with_stored_rows(stream)
    asked = [transaction(100, 1, 11 * HOUR_MS, 50.0)]
    [[expected]] = stream.ask(asked)
    stream.line.lanes.rows.drop_lane(partition_of(stream, 1))

    ask = submitted(stream, asked)
    stream.desk.answers.serve(stream.line, time.monotonic() * 1000)

    assert ask.future.result(0)[0]["score"] == expected["score"]
    assert ask.reads == 1


def test_rows_that_leave_memory_after_they_were_looked_for_are_read_then(stream: Stream) -> None:
    with_stored_rows(stream)
    asked = [transaction(100, 1, 11 * HOUR_MS, 50.0)]
    [[expected]] = stream.ask(asked)

    ask = submitted(stream, asked)
    assert not ask.stored
    stream.line.lanes.rows.drop_lane(partition_of(stream, 1))

    assert served(stream, ask)["score"] == expected["score"]
    assert ask.reads == 1


def with_stored_rows(stream: Stream) -> None:
    """Customer 1 has had ten transactions, and the store knows."""
    stream.take()
    stream.send([transaction(i, 1, i * HOUR_MS, 20.0) for i in range(10)])
    stream.write()


def served(stream: Stream, ask: EventsAsk) -> dict[str, Any]:
    """What a request of one event is told, after as many turns of the loop as that takes."""
    give_up_s = time.monotonic() + WITHIN_S
    while not ask.future.done() and time.monotonic() < give_up_s:
        stream.desk.answers.serve(stream.line, time.monotonic() * 1000)
    return ask.future.result(0)[0]


def submitted(stream: Stream, asked: list[Event]) -> EventsAsk:
    """A request that waits for the loop, which has the turn."""
    ask = EventsAsk(events=stream.desk.events.reader.read(asked, NOW_US)[0])
    stream.desk.answers._rests_until_ms = 0.0
    stream.desk.inbox.admit(ask)
    stream.desk.reader.submit(ask)
    give_up_s = time.monotonic() + WITHIN_S
    while not stream.desk.inbox.is_waiting and time.monotonic() < give_up_s:
        time.sleep(0.001)
    return ask


def partition_of(stream: Stream, customer: int) -> int:
    read, _ = stream.desk.events.reader.read([transaction(0, customer, 0, 1.0)], NOW_US)
    return int(read.records.partition[0])


def test_a_lane_that_is_catching_up_says_so_instead_of_scoring_on_old_rows(stream: Stream) -> None:
    stream.take()
    stream.send([transaction(1, 2, 0, 1.0)])
    stream.write()
    stream.line.lanes.rows.drop_lane(partition := partition_of(stream, 2))
    stream.line.lanes[partition].mute_until = 10

    assert not submitted(stream, [transaction(2, 2, 0, 1.0)]).reads, "whatever the store has is too old"
    [[said]] = stream.ask([transaction(2, 2, 0, 1.0)])

    assert isinstance(said, NotNowError)
    assert str(partition) in str(said)


def test_a_store_that_is_away_is_told_and_entities_in_memory_are_scored_on(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> Any:
        raise StoreUnavailableError("away")

    stream.take()
    stream.send([transaction(i, i % 6, i * HOUR_MS, 20.0) for i in range(12)])
    stream.write()
    stream.line.lanes.rows.drop_lane(gone := partition_of(stream, 1))
    held = next(c for c in range(6) if partition_of(stream, c) != gone)
    monkeypatch.setattr(stream.store, "read", away)

    [[lost], [found]] = stream.ask(
        [transaction(100, 1, 20 * HOUR_MS, 1.0)], [transaction(101, held, 20 * HOUR_MS, 1.0)]
    )

    assert isinstance(lost, NotNowError)
    assert found["as_of"]["is_owner"]


def test_who_was_told_that_there_is_no_answer_is_not_read_for(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream.take()
    stream.send([transaction(1, 1, 0, 20.0)])
    stream.write()
    stream.line.lanes.rows.drop_lane(partition_of(stream, 1))
    asked: list[Any] = []
    monkeypatch.setattr(stream.store, "read", asked.append)

    def away(*_: Any) -> Any:
        raise StoreUnavailableError("away")

    lookups: Any = [SimpleNamespace(read=away)]
    reader = AskReader(stream.desk.inbox, lookups, stream.store, stream.line.lanes, "g", "t")
    reader.start()
    ask = EventsAsk(events=stream.desk.events.reader.read([transaction(2, 1, 0, 1.0)], NOW_US)[0])
    stream.desk.inbox.admit(ask)
    reader.submit(ask)
    assert ask.wanted

    assert isinstance(ask.future.exception(WITHIN_S), NotNowError)
    reader.close()
    reader._thread.join(WITHIN_S)
    assert asked == []


def test_a_request_that_breaks_something_harms_no_other_and_not_the_stream(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream.take()
    real = type(stream.desk.answers)._see

    def breaks(self: Any, line: Any, ask: Any, *rest: Any) -> Any:
        if ask.events.table.column("amount")[0].as_py() == 13.0:
            raise ZeroDivisionError
        return real(self, line, ask, *rest)

    monkeypatch.setattr(type(stream.desk.answers), "_see", breaks)

    [[good], [bad]] = stream.ask([transaction(1, 1, 0, 12.0)], [transaction(2, 2, 0, 13.0)])

    assert good["event_id"] == "1"
    assert isinstance(bad, NotPossibleError)
    assert bad.status == 500


def test_the_figures_of_the_stream_are_of_the_stream_alone(stream: Stream) -> None:
    stream.take()
    was = generate_latest(stream.registry)

    stream.ask([transaction(1, 1, 0, 12.0)])

    assert generate_latest(stream.registry) == was
