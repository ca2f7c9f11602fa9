"""What the stream would say of events that wait for an answer: one batch on copies of their rows.

Invariants (docs/http.md): no row, watermark, offset, output or metric of the stream changes; the loop gives
at most a third of its time, a batch of `batching.max_rows` at a time; what goes wrong here does not stop it.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from feature_cache.glimpse import NotCaughtUpError, NotKnownError, Seen, copy_rows, see, see_nothing
from feature_cache.order import ORDERS
from schemas.spans import Spans
from worker.asks import Ask, EventsAsk, Inbox, NotNowError, NotPossibleError, TensorsAsk, answer, fail
from worker.batch import Batch, Events
from worker.degradation import STEPS
from worker.encode import alert_rows, listed, score_columns
from worker.exits import StopWorker
from worker.features import enrich
from worker.join_events import join_events, some_events
from worker.json_events import Refusal
from worker.judge import explained, judge
from worker.line import Line
from worker.lookups import Known, Looked
from worker.metrics import Meter
from worker.publish import Ready
from worker.raw_tensors import raw_outputs
from worker.records import index_keys
from worker.refuse import set_refused_apart

POLL_UNWAKED_MS = 5.0  # where a request that comes cannot end a poll
GATHER_MS = 2.0  # from one batch to the next at least: a batch costs more than the requests in it
REST = 2.0  # times as long as a batch took, the stream has the loop before the next
_LOOK_S = 0.001  # between two looks for requests, and for the end of what is waited for
_WAITED_BESIDE_MS = 1000.0
READS_AT_MOST = 4  # times that the store is asked for a row which is written meanwhile
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ALERT = ("severity", "lifecycle", "reason", "reasons", "rules")
_OWN = ("source_topic", "source_partition", "source_offset")  # of a record, which these events are none of


class Answers:
    """Answers asks; the loop's thread calls."""

    def __init__(
        self,
        inbox: Inbox,
        read: Callable[[EventsAsk], None],
        *,
        max_rows: int,
        may_guess: bool,
        wall_us: Callable[[], int],
        together: Callable[[], AbstractContextManager[None]] = nullcontext,
        clock_s: Callable[[], float] = time.thread_time,
    ) -> None:
        """Begin.

        Args:
            inbox: what waits.
            read: has the store asked for what an ask wants, beside the loop; then it waits again.
            max_rows: of one batch.
            may_guess: `state.when_away` is score_without.
            together: a block whose answers are told at its end.
        """
        self.inbox = inbox
        self._read = read
        self._max_rows = max_rows
        self._may_guess = may_guess
        self._wall_us = wall_us
        self._clock_s = clock_s
        self._together = together
        self._rests_until_ms = 0.0
        self._silent = Meter("http", CollectorRegistry())  # the stream's figures are of the stream
        self._log = structlog.get_logger()

    def poll_at_most_ms(self, line: Line, now_ms: float, *wanted_ms: float) -> list[float]:
        """How long a poll may wait, and gather: until what waits here may be answered, else as it wants.

        A request that comes meanwhile ends a poll.
        """
        at_most_ms = math.inf if line.source.fetch.can_wake else POLL_UNWAKED_MS
        if self.inbox.is_waiting:
            at_most_ms = max(0.0, math.ceil(self._rests_until_ms - now_ms))
        return [min(each, at_most_ms) for each in wanted_ms]

    def serve(self, line: Line, now_ms: float) -> bool:
        """Answer what waits, at most a batch of it, unless the stream has the turn.

        Returns:
            Whether anything waits here: then a loop that has no records is not at rest.

        Raises:
            StopWorker: the model does not work any more, see Scorer.score.
        """
        if not self.inbox.is_waiting:
            return False
        if now_ms < self._rests_until_ms:
            return True
        began_s = self._clock_s()
        self._serve(line, self.inbox.take(self._max_rows), now_ms)
        took_ms = (self._clock_s() - began_s) * 1000
        self._rests_until_ms = now_ms + max(took_ms * (1 + REST), GATHER_MS)
        return True

    def serve_while(self, line: Line, is_busy: Callable[[], bool], now_ms: Callable[[], float]) -> None:
        """Answer while the loop has only to wait, for a commit; longer waits than most go on without."""
        until_ms = now_ms() + _WAITED_BESIDE_MS
        while is_busy() and now_ms() < until_ms:
            if not self.inbox.is_waiting or now_ms() < self._rests_until_ms:
                time.sleep(_LOOK_S)
            else:
                self.serve(line, now_ms())

    def drain(self, line: Line, now_ms: float) -> None:
        """Answer all that waits, then take nothing any more."""
        while self.inbox.is_waiting:
            self._serve(line, self.inbox.take(self._max_rows), now_ms)
        self.inbox.close("this worker is stopping")

    def _serve(self, line: Line, asks: Sequence[Ask], now_ms: float) -> None:
        with self._together():
            self._answer(line, asks, now_ms)

    def _answer(self, line: Line, asks: Sequence[Ask], now_ms: float) -> None:
        for ask in asks:
            if isinstance(ask, TensorsAsk):
                self._guarded(partial(self._infer, line, ask), [ask])
        events = [ask for ask in asks if isinstance(ask, EventsAsk)]
        if events and not self._guarded(partial(self._score, line, events, now_ms), events):
            for each in events:  # one of them may be at fault
                if not each.future.done():
                    self._guarded(partial(self._score, line, [each], now_ms), [each])

    def _guarded(self, do: Callable[[], None], asks: Sequence[Ask]) -> bool:
        """Do it; a failure is told to the one who asks and logged, without values, and the stream goes on.

        Returns:
            False: it failed for several, and none of them was told; do it for each alone.
        """
        try:
            do()
        except StopWorker as error:
            for ask in asks:
                fail(ask, NotNowError("the model does not work any more"))
            raise error
        except Exception as error:
            if len(asks) > 1:
                return False
            if isinstance(error, (NotNowError, NotPossibleError)):
                fail(asks[0], error)
                return True
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{where.filename}:{where.lineno}"
            self._log.error("a request failed", kind=type(error).__name__, place=place)
            fail(asks[0], NotPossibleError("the request could not be computed", 500))
        return True

    def _infer(self, line: Line, ask: TensorsAsk) -> None:
        assert line.router is not None
        serving = line.router.serving
        for scorer in filter(None, (serving.champion, serving.challenger)):
            if ask.version in (None, scorer.card.version):
                return answer(ask, (scorer.card.version, raw_outputs(scorer.model, ask)))
        raise NotPossibleError(f"version {ask.version} does not serve", 404)

    def _score(self, line: Line, asks: Sequence[EventsAsk], now_ms: float) -> None:
        events = join_events([ask.events for ask in asks])
        keys = index_keys(events.records.keys)
        slots = np.full(len(events), -1, np.int64)
        if line.feature_plan.keeps_rows:
            slots = line.lanes.rows.peek(keys)
        of_ask = np.repeat(np.arange(len(asks)), [len(ask) for ask in asks])
        # Where the entity is in memory, producers have shown where they send it.
        partition = np.where(slots >= 0, line.lanes.rows.lane[slots], events.records.partition)
        seen: list[Seen] = []
        lane, chosen = np.full(len(events), -1, np.int32), []
        for at, ask in enumerate(asks):
            rows = np.flatnonzero(of_ask == at)
            found = self._see(line, ask, rows, partition[rows], slots[rows], events)
            if found is not None:
                chosen.append(at)
                for each in found:
                    lane[rows[partition[rows] == each.partition]] = len(seen)
                    seen.append(each)
        if not chosen:
            return
        if len(chosen) < len(asks):
            kept = np.flatnonzero(lane >= 0)
            events, slots, lane, of_ask = some_events(events, kept), slots[kept], lane[kept], of_ask[kept]
        told = self._judged(line, [asks[at] for at in chosen], events, slots, seen, lane, now_ms)
        for at in chosen:
            answer(asks[at], [told[row] for row in np.flatnonzero(of_ask == at).tolist()])

    def _see(
        self,
        line: Line,
        ask: EventsAsk,
        rows: NDArray[np.int64],
        partition: NDArray[np.int32],
        slots: NDArray[np.int64],
        events: Events,
    ) -> list[Seen] | None:
        """How each lane of an ask is seen; None: it waits for the store, or cannot be answered."""
        found: list[Seen] = []
        wanted: dict[int, Sequence[bytes]] = {}
        keys = events.records.keys
        for each in dict.fromkeys(partition.tolist()):
            if not line.feature_plan.keeps_rows:
                found.append(see_nothing(line.lanes, each))
                continue
            missing = [keys[row] for row in rows[(partition == each) & (slots < 0)].tolist()]
            try:
                one = see(line.lanes, each, missing, ask.stored.get(each), may_guess=self._may_guess)
            except NotCaughtUpError:
                fail(ask, NotNowError(f"the rows of partition {each} are being brought up to date"))
                return None
            except NotKnownError as error:
                why = "the store does not answer" if error.is_away else "nobody has stored its rows yet"
                fail(ask, NotNowError(f"partition {each} cannot be read: {why}"))
                return None
            if one is None:
                wanted[each] = missing
            else:
                found.append(one)
        if not wanted:
            return found
        if ask.reads >= READS_AT_MOST:
            fail(ask, NotNowError("the rows were written while they were read"))
            return None
        ask.wanted = wanted
        self._read(ask)
        return None

    def _judged(
        self,
        line: Line,
        asks: Sequence[EventsAsk],
        events: Events,
        slots: NDArray[np.int64],
        seen: Sequence[Seen],
        lane: NDArray[np.int32],
        now_ms: float,
    ) -> list[dict[str, Any] | Refusal]:
        """(n,) what is said of each event."""
        n, records = len(events), events.records
        copies = copy_rows(line.lanes, index_keys(records.keys), slots, seen, lane)
        apart = Spans(copies.keys.data, copies.keys.starts, copies.keys.ends)
        order = np.arange(n)
        asked = replace(
            events,
            records=replace(records, keys=apart, partition=lane, offset=order),
            next_offsets=dict.fromkeys(range(len(seen)), n),
        )
        features = enrich(asked, line.feature_plan, copies.lanes, _known(line, asks), self._silent)
        batch, refused = set_refused_apart(
            Batch(
                events=replace(asked, records=replace(records, offset=order)),
                features=replace(features, is_muted=np.ones(n, np.bool_)),
            )
        )
        apart_line = replace(line, lanes=copies.lanes, meter=self._silent)
        assert line.router is not None
        made = judge(apart_line, batch, "http", now_ms)
        if made.scores is not None and made.decisions is not None:
            # Only now: a challenger is compared on events of the stream, which are the ones not muted.
            told_of = replace(made.batch.features, is_muted=np.zeros(len(made.batch), np.bool_))
            shown = replace(made.batch, features=told_of)
            reasons = explained(apart_line, line.router.serving, shown, made.scores, made.decisions)
            made = replace(made, reasons=reasons)
        told = self._told(line, made, seen, lane)
        for reject in (*refused, *made.rejected):
            said = Refusal(stage=reject.stage, reason=reject.reason, detail=reject.detail)
            told[reject.record.offset] = said
        return [told[row] for row in range(n)]

    def _told(
        self, line: Line, made: Ready, seen: Sequence[Seen], lane: NDArray[np.int32]
    ) -> dict[int, dict[str, Any] | Refusal]:
        """Answers by row of the whole batch."""
        if made.scores is None:
            return {}
        batch, scores = made.batch, made.scores
        rows, now_us = np.flatnonzero(np.isfinite(scores)), self._wall_us()
        columns = score_columns(batch, scores, rows, line.stamp, now_us)
        for name in _OWN:
            del columns[name]
        columns["degradation"] = [STEPS[step] for step in columns["degradation"].tolist()]
        columns["time_order"] = [ORDERS[at] for at in columns["time_order"].tolist()]
        for name in ("event_time", "scored_at"):
            columns[name] = [_time(us) for us in listed(columns[name], len(rows))]
        alerts: dict[str, dict[str, Any]] = {}
        if made.decisions is not None:
            alerts = {
                alert["alert_id"].rpartition("-")[2]: {name: alert[name] for name in _ALERT}
                for alert in alert_rows(batch, scores, made.decisions, made.reasons, rows, line.stamp, now_us)
            }
        plain = {name: listed(value, len(rows)) for name, value in columns.items()}
        told: dict[int, dict[str, Any] | Refusal] = {}
        for at, row in enumerate(batch.events.records.offset[rows].tolist()):
            each = seen[lane[row]]
            told[row] = {
                **{name: values[at] for name, values in plain.items()},
                "alert": alerts.get(str(row)),
                "as_of": {
                    "partition": each.partition,
                    "offset": None if each.next_offset < 0 else each.next_offset,
                    "is_owner": each.is_owner,
                },
            }
        return told


def _known(line: Line, asks: Sequence[EventsAsk]) -> tuple[Known, ...]:
    """What the lookups have given all asks."""
    known = []
    for at, lookup in enumerate(line.lookups):
        parts = [ask.looked[at] for ask in asks]
        looked = Looked(
            values=np.concatenate([part.values for part in parts]),
            age_ms=np.concatenate([part.age_ms for part in parts]),
            is_stale=np.concatenate([part.is_stale for part in parts]),
            incomplete=np.concatenate([part.incomplete for part in parts]),
        )
        known.append(Known(columns=lookup.columns, looked=looked))
    return tuple(known)


def _time(us: int) -> str:
    """A time in ISO 8601; years that Python cannot write stay microseconds."""
    try:
        return (_EPOCH + timedelta(microseconds=us)).isoformat(timespec="microseconds").replace("+00:00", "Z")
    except OverflowError:
        return str(us)
