"""A traced batch has one span, which ends with its commit and links to where its records came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.builders import Message, batch, records
from worker.batch import Batch, Rejected
from worker.records import Headers, Record
from worker.trace_batch import MOST_LINKS, MOST_STAGES, Done, Stage
from worker.trace_context import parse
from worker.tracing import MOST_UNDER_WAY, Exporter, Tracing


def sampled(number: int) -> Headers:
    """Headers of a record that span `number` has sent."""
    return [("traceparent", b"00-%032x-%016x-01" % (1000 + number, number)), ("tracestate", b"a=b")]


class Spans:
    """A tracing, what it has given away, and its clock."""

    def __init__(self, sample_ratio: float = 0.0) -> None:
        self.done: list[Done] = []
        self.dropped = 0
        self.now_ns = 1_000
        self.is_closed = False

        def close() -> None:
            self.is_closed = True

        def dropped(spans: int) -> None:
            self.dropped += spans

        self.tracing = Tracing(
            Exporter(offer=self.done.append, close=close),
            attributes={"penstock.pipeline": "p"},
            sample_ratio=sample_ratio,
            on_dropped=dropped,
            now_ns=lambda: self.now_ns,
        )

    def stage(self, name: str, took_ns: int = 10) -> None:
        begun_ns = self.now_ns
        self.now_ns += took_ns
        self.tracing.note(name, begun_ns)

    def commit(self, *, is_done: bool = True) -> None:
        self.tracing.commit_begun()
        self.now_ns += 100
        self.tracing.commit_ended(is_done=is_done)


def of(headers: Sequence[Headers | None], **more: Any) -> Batch:
    """A batch of records with these headers."""
    made = batch(list(range(len(headers))), **more)
    came = records([Message(record_value=b"", record_headers=each) for each in headers])
    return replace(
        made, events=replace(made.events, records=replace(made.events.records, headers=came.headers))
    )


def rejected(headers: Headers, stage: str = "decode") -> Rejected:
    record = Record(topic="in", partition=0, offset=7, timestamp_ms=1, key=b"k", value=b"v", headers=headers)
    return Rejected(record=record, stage=stage, reason="malformed", detail="")


def test_the_span_of_a_batch_has_its_stages_and_ends_when_its_commit_is_acknowledged() -> None:
    spans = Spans()
    spans.stage("poll")
    spans.stage("decode")
    spans.stage("features")
    made = spans.tracing.taken(of([sampled(1), None]), "rows")
    spans.stage("infer")
    spans.tracing.publishing(replace(made, version="3"))
    spans.stage("send")
    spans.commit()

    (done,) = spans.done
    assert done.stages == (
        Stage("decode", 1_010, 1_020),
        Stage("features", 1_020, 1_030),
        Stage("infer", 1_030, 1_040),
        Stage("send", 1_040, 1_050),
        Stage("commit", 1_050, 1_150),
    )
    assert (done.begun_ns, done.ended_ns, done.error) == (1_010, 1_150, None)
    assert [(link.trace_id, link.span_id) for link in done.links] == [(1001, 1)]
    assert done.attributes == {
        "penstock.pipeline": "p",
        "messaging.batch.message_count": 2,
        "penstock.batch.reason": "rows",
        "penstock.partitions": tuple(made.events.next_offsets),
        "penstock.model.version": "3",
        "penstock.dead_letters": 0,
    }


def test_stages_belong_to_the_batch_that_is_at_hand_though_another_one_waits_for_a_commit() -> None:
    spans = Spans()
    first = spans.tracing.taken(of([sampled(1)]), "rows")
    spans.stage("infer", 1)
    spans.stage("decode", 2)  # of what is the second batch by and by
    second = spans.tracing.taken(of([sampled(2)]), "rows")
    spans.stage("infer", 3)
    for made, took_ns in ((first, 4), (second, 5)):
        spans.tracing.publishing(made)
        spans.stage("send", took_ns)
    spans.commit()

    took = [[(s.name, s.ended_ns - s.begun_ns) for s in done.stages[:-1]] for done in spans.done]
    assert took == [[("infer", 1), ("send", 4)], [("decode", 2), ("infer", 3), ("send", 5)]]


def test_a_batch_without_a_sampled_record_has_no_span_unless_it_is_among_the_share_that_does() -> None:
    never, always = Spans(sample_ratio=0.0), Spans(sample_ratio=1.0)
    for spans in (never, always):
        made = spans.tracing.taken(of([None, [("other", b"x")]]), "idle")
        spans.stage("infer")
        spans.tracing.publishing(made)
        spans.commit()

    assert never.done == []
    assert [len(done.links) for done in always.done] == [0]


def test_what_is_muted_is_not_traced_again() -> None:
    spans = Spans(sample_ratio=1.0)
    made = of([sampled(1), sampled(2)])
    muted = replace(made, features=replace(made.features, is_muted=np.array([True, False])))

    spans.tracing.publishing(spans.tracing.taken(muted, "rows"))
    all_muted = replace(made, features=replace(made.features, is_muted=np.array([True, True])))
    spans.tracing.publishing(spans.tracing.taken(all_muted, "rows"))
    spans.commit()

    assert [[link.span_id for link in done.links] for done in spans.done] == [[2]]


def test_links_are_bounded_and_from_all_over_the_batch() -> None:
    spans = Spans()
    spans.tracing.publishing(spans.tracing.taken(of([sampled(number) for number in range(1, 1001)]), "rows"))
    spans.commit()

    (done,) = spans.done
    linked = [link.span_id for link in done.links]
    assert len(set(linked)) == MOST_LINKS
    assert (linked[0], linked[-1]) == (1, 1000)
    assert done.links_left_out == done.attributes["penstock.links_left_out"] == 1000 - MOST_LINKS


def test_stages_are_bounded_too() -> None:
    spans = Spans()
    for _ in range(MOST_STAGES + 5):
        spans.stage("decode")
    spans.tracing.publishing(spans.tracing.taken(of([sampled(1)]), "wait"))
    spans.commit()

    assert len(spans.done[0].stages) == MOST_STAGES
    assert spans.done[0].attributes["penstock.stages_left_out"] == 6  # the commit too


def test_outputs_take_the_traces_of_their_records_on_and_only_those_have_headers() -> None:
    spans = Spans()
    made = spans.tracing.taken(of([None, sampled(1), sampled(2), None]), "rows")
    assert made.trace is not None

    sent = made.trace.headers(np.array([0, 2]))

    assert sent is not None
    assert sent.get(0) is None
    assert b"00-%032x-%016x-01" % (1002, made.trace.span_id) in sent[1]
    assert b"a=b" in sent[1]
    assert made.trace.headers(np.array([0, 3])) is None


def test_a_dead_letter_goes_on_from_the_span_of_the_batch_that_its_record_would_have_been_in() -> None:
    spans = Spans()
    theirs: Headers = [("mine", b"1"), *sampled(9)]
    plain = rejected([("mine", b"1")])

    sent = spans.tracing.dead_letters([rejected(theirs), plain])
    made = spans.tracing.taken(of([None]), "rows")
    spans.tracing.publishing(made)
    spans.commit()

    assert made.trace is not None
    parent = parse(dict(sent[0].record.headers)["traceparent"] or b"")
    assert parent is not None
    assert (parent.trace_id, parent.span_id) == (1009, made.trace.span_id)
    assert [name for name, _ in sent[0].record.headers] == ["mine", "tracestate", "traceparent"]
    assert sent[1] is plain
    assert [link.span_id for link in spans.done[0].links] == [9]
    assert spans.done[0].attributes["penstock.dead_letters"] == 1


def test_an_event_that_cannot_be_scored_goes_on_from_its_batch_which_is_linked_once() -> None:
    spans = Spans()
    made = spans.tracing.taken(of([sampled(4)]), "rows")
    spans.tracing.taken(of([sampled(5)]), "rows")  # a later one is judged before the first is published
    spans.tracing.publishing(made)
    (sent,) = spans.tracing.dead_letters([rejected(sampled(4), "score")])
    spans.commit()

    assert made.trace is not None
    assert b"%016x" % made.trace.span_id in (dict(sent.record.headers)["traceparent"] or b"")
    assert [link.span_id for link in spans.done[0].links] == [4]


def test_a_commit_that_has_to_be_repeated_ends_no_span() -> None:
    spans = Spans()
    spans.tracing.publishing(spans.tracing.taken(of([sampled(1)]), "rows"))
    spans.commit(is_done=False)
    assert spans.done == []
    spans.commit()
    assert [stage.name for stage in spans.done[0].stages] == ["commit"]


def test_what_is_given_up_ends_as_an_error_and_what_comes_after_is_a_trace_of_its_own() -> None:
    spans = Spans()
    first, second, third = (spans.tracing.taken(of([sampled(n)]), "rows") for n in (1, 2, 3))
    spans.tracing.publishing(first)
    spans.tracing.commit_begun()
    spans.tracing.publishing(second)
    spans.stage("decode")
    spans.tracing.given_up()
    again = spans.tracing.taken(of([sampled(1)]), "rows")
    spans.tracing.publishing(again)
    spans.commit()

    errors = [(done.span_id, done.error) for done in spans.done]
    traces = [made.trace for made in (first, second, third, again)]
    assert all(traces)
    assert errors == [
        (trace.span_id, error)
        for trace, error in zip(traces, [*["not committed"] * 3, None], strict=True)
        if trace is not None
    ]
    assert [stage.name for stage in spans.done[-1].stages] == ["commit"]


def test_batches_that_wait_for_their_commit_are_bounded() -> None:
    spans = Spans()
    one = of([sampled(1)])
    made = [spans.tracing.taken(one, "rows") for _ in range(MOST_UNDER_WAY + 10)]
    for each in made:
        spans.tracing.publishing(each)
    spans.commit()

    assert spans.dropped == 10  # the oldest
    assert [done.span_id for done in spans.done] == [each.trace.span_id for each in made[10:] if each.trace]


def test_closing_ends_what_is_left() -> None:
    spans = Spans()
    spans.tracing.taken(of([sampled(1)]), "stop")
    spans.tracing.close()

    assert [done.error for done in spans.done] == ["not committed"]
    assert spans.is_closed


@pytest.mark.parametrize("set_back_ns", [0, 10_000])
def test_no_span_ends_before_it_begins_though_the_clock_was_set_back(set_back_ns: int) -> None:
    spans = Spans()
    spans.now_ns = 20_000
    spans.stage("decode")
    spans.tracing.publishing(spans.tracing.taken(of([sampled(1)]), "rows"))
    spans.now_ns -= set_back_ns
    spans.commit()

    assert spans.done[0].ended_ns >= spans.done[0].begun_ns
