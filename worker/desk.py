"""What a pipeline scores over HTTP with: how events are read, what reads for them, and what answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from feature_cache.store import Store
from schemas.schema import load_schema
from worker.answers import Answers
from worker.ask_reader import AskReader
from worker.asks import Inbox
from worker.config import Pipeline
from worker.http_types import HttpOptions
from worker.json_events import EventReader
from worker.line import Line
from worker.lookups import Lookup
from worker.profiles import Profile
from worker.shared_reading import SharedReading
from worker.source import partition_count
from worker.told_together import ToldTogether


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Desk:
    """Each part with the thread that it belongs to."""

    options: HttpOptions
    line: Line  # of the loop
    events: SharedReading  # of the server
    reader: AskReader  # its own
    answers: Answers  # of the loop
    inbox: Inbox  # anybody's
    told: ToldTogether  # of the server, told by the others
    max_rows: int  # of one request


def open_desk(
    pipeline: Pipeline,
    line: Line,
    open_store: Callable[[str], Store],
    wall_us: Callable[[], int] = lambda: time.time_ns() // 1000,
) -> Desk | None:
    """What the file asks for, its reader at work already; None without `http`.

    Raises:
        StopWorker: the input topic does not answer.
    """
    options = pipeline.http
    if options is None:
        return None
    plan, source = line.feature_plan, pipeline.source
    schema = load_schema(source.schema_ref, pipeline.base)
    may_guess = pipeline.state.when_away == "score_without"
    store = open_store(str(pipeline.state.store))
    consumer = line.source.consumer
    # Its own mirrors: a lookup may wait for its owner, and that must not be the loop's wait.
    lookups = [
        Lookup(
            lookup,
            open_store(str(lookup.owner.state.store)),
            partition_count(consumer, lookup.owner.source.topic),
            may_guess=may_guess,
        )
        for lookup in plan.lookups
    ]
    profiles = [Profile(profile, store, may_guess=may_guess) for profile in plan.profiles]

    def wake() -> None:
        line.source.fetch.wake()  # of the client that polls at present

    inbox = Inbox(options.queue, wake)
    lanes = line.lanes if plan.keeps_rows else None
    reader = AskReader(inbox, (*lookups, *profiles), store, lanes, pipeline.kafka.group, source.topic)
    reader.start()
    max_rows, told = pipeline.batching.max_rows, ToldTogether()
    return Desk(
        options=options,
        line=line,
        events=SharedReading(
            EventReader(
                schema,
                line.decode_plan,
                source.topic,
                source.partitioner,
                partition_count(consumer, source.topic),
            )
        ),
        reader=reader,
        answers=Answers(
            inbox,
            reader.read_rows,
            max_rows=max_rows,
            may_guess=may_guess,
            wall_us=wall_us,
            together=told.gathered,
        ),
        inbox=inbox,
        told=told,
        max_rows=max_rows,
    )
