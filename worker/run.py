"""The loop: one batch's life from poll to commit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from feature_cache.lanes import Lanes
from feature_cache.rows import RowsFullError
from feature_cache.store import StoreUnavailableError
from schemas.codec import Codec
from worker.batch import Batch, Events, Features, Rejected
from worker.batcher import Batcher
from worker.breaker import DeadLetterBreaker
from worker.decide import DecisionPolicy, Decisions, decide
from worker.decode import DecodePlan, decode
from worker.encode import Stamp, alert_rows, score_table
from worker.exits import Exit, StopWorker
from worker.features import enrich
from worker.lookups import Lookup
from worker.metrics import Meter
from worker.plan import FeaturePlan
from worker.scoring import Scorer, unscored
from worker.sink import Sink
from worker.source import Source

POLL_AT_MOST_MS = 100.0  # how long a stop or a due commit may go unnoticed
STORE_AWAY_AT_MOST_S = 60.0
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Line:
    """The parts of one pipeline's line, each with its one owner: the thread that runs the loop."""

    name: str
    topic: str
    source: Source
    codec: Codec
    decode_plan: DecodePlan
    feature_plan: FeaturePlan
    lanes: Lanes
    lookups: tuple[Lookup, ...]
    batcher: Batcher
    scorer: Scorer | None  # None: the pipeline only keeps features
    decision: DecisionPolicy | None
    stamp: Stamp
    score_codec: Codec | None
    alert_codec: Codec | None
    scores_topic: str
    alerts_topic: str
    sink: Sink
    breaker: DeadLetterBreaker
    meter: Meter
    start_at_end: bool
    commit_interval_ms: float
    write_interval_ms: float


class _StopAskedError(Exception):
    """Asked to stop while waiting; the events at hand have not been applied and will be read again."""


class Worker:
    """One pipeline's loop, and what it has published but not yet committed."""

    def __init__(
        self,
        line: Line,
        now_ms: Callable[[], float] = lambda: time.monotonic() * 1000,
        wall_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self.line = line
        self._now_ms = now_ms
        self._wall_us = wall_us
        self._log = structlog.get_logger(pipeline=line.name)
        self._pending: dict[int, int] = {}  # partition to next offset: published, not committed
        self._newest_ms: dict[int, int] = {}  # partition to the timestamp of its newest record polled
        self._commit_due_ms = 0.0
        self._write_due_ms = 0.0
        self._is_broken = False
        self._stop = threading.Event()
        self.looped_at_ms = now_ms()
        self.is_ready = False  # has been assigned lanes, or told that there are none for it

    def run(self, stop: threading.Event) -> None:
        """Score until asked to stop, then finish what was polled.

        Raises:
            StopWorker: with the exit code and what to do; nothing unacknowledged was committed.
        """
        line = self.line
        self._stop = stop
        line.source.subscribe(self._take, self._give_up, self._lose)
        try:
            with suppress(_StopAskedError):
                while not stop.is_set():
                    self._turn()
            self._finish()
        except BaseException:
            self._is_broken = True  # whatever happens now, commit nothing
            raise
        finally:
            line.source.close()
            line.sink.close()

    def _turn(self) -> None:
        """Poll once; score when a batch is due; commit when that is due."""
        line = self.line
        wait_ms = line.batcher.wait_ms(self._now_ms(), POLL_AT_MOST_MS)
        with self._timed("poll"):
            records = line.source.poll(line.batcher.room, wait_ms, line.batcher.gather_ms(self._now_ms()))
        self.looped_at_ms = self._now_ms()
        if records is not None:
            with self._timed("decode"):
                events, rejected = decode(records, line.codec, line.decode_plan, self._wall_us())
            with self._timed("features"):
                features = self._enrich(events)
            # Only now: making room in memory commits, and these dead letters belong to the next commit.
            self._reject(rejected, len(records))
            self._note_newest(events)
            line.batcher.add(
                Batch(events=events, features=features),
                records.size_bytes,
                line.source.first_at_ms,
                is_idle=line.source.is_drained,
            )
        reason = line.batcher.reason(self._now_ms())
        if reason is not None:
            self._score(line.batcher.take(), reason)
        if not line.batcher.is_waiting and self._now_ms() >= self._commit_due_ms:
            self._commit()

    def _enrich(self, events: Events) -> Features:
        line = self.line

        def attempt() -> Features:
            return enrich(
                events, line.feature_plan, line.lanes, line.lookups, line.meter, self._while_waiting
            )

        try:
            features = self._with_store(attempt)
        except RowsFullError:
            self._finish()  # makes every row clean, so that the oldest can leave
            features = self._with_store(attempt)
        line.meter.applied(len(events), int(features.late.sum()), len(line.lanes.rows))
        return features

    def _while_waiting(self) -> None:
        """A lookup waits for its owner: meanwhile no transaction may time out, and no stop go unnoticed."""
        self.looped_at_ms = self._now_ms()
        if self._stop.is_set():
            raise _StopAskedError
        if self._now_ms() >= self._commit_due_ms:
            if self.line.batcher.is_waiting:
                self._score(self.line.batcher.take(), "wait")
            self._commit()

    def _score(self, batch: Batch, reason: str) -> None:
        """Score, decide and publish one batch; its offsets then wait for the commit."""
        line = self.line
        if line.scorer is not None and len(batch):
            with self._timed("infer"):
                scored = line.scorer.score(batch.features, self._now_ms())
            scores = scored.scores
            batch = replace(batch, features=replace(batch.features, degradation=scored.degradation))
            decisions = self._decide(batch, scores)
            rows = np.flatnonzero(np.isfinite(scores) & ~batch.features.is_muted)
            self._publish(batch, scores, decisions, rows)
            self._reject(unscored(batch.events, scored), 0)
            line.meter.scored(reason, len(batch), batch.features.incomplete, batch.features.degradation)
        for partition, next_offset in batch.events.next_offsets.items():
            # A lane that is still catching up has nothing new to commit.
            if next_offset > line.lanes[partition].mute_until:
                self._pending[partition] = next_offset

    def _decide(self, batch: Batch, scores: NDArray[np.float32]) -> Decisions | None:
        line, features = self.line, batch.features
        if line.decision is None:
            return None
        with self._timed("decide"):
            return decide(
                np.where(np.isfinite(scores), scores, np.nan),  # what is not scored changes no alert state
                batch.events.event_us,
                features.slots,
                line.lanes.rows.alert_level,
                line.lanes.rows.alert_us,
                line.decision,
            )

    def _publish(
        self, batch: Batch, scores: NDArray[np.float32], decisions: Decisions | None, rows: NDArray[np.int64]
    ) -> None:
        """Hand the scores and alerts of these rows to the client."""
        line = self.line
        if not len(rows):
            return
        assert line.score_codec is not None
        keys = batch.events.keys if len(rows) == len(batch) else [batch.events.keys[r] for r in rows.tolist()]
        wall_us = self._wall_us()
        with self._timed("encode"):
            encoded = line.score_codec.encode(score_table(batch, scores, rows, line.stamp, wall_us))
        with self._timed("send"):
            line.sink.send(line.scores_topic, encoded, keys)
            if decisions is not None:
                self._publish_alerts(batch, scores, decisions, rows, wall_us)
        produced_ms = batch.events.produced_ms[rows]
        line.meter.sent(len(rows), (wall_us / 1000 - produced_ms[produced_ms > 0]) / 1000)

    def _publish_alerts(
        self,
        batch: Batch,
        scores: NDArray[np.float32],
        decisions: Decisions,
        rows: NDArray[np.int64],
        wall_us: int,
    ) -> None:
        line = self.line
        alerts = alert_rows(batch, scores, decisions, rows, line.stamp, wall_us)
        if not alerts:
            return
        assert line.alert_codec is not None
        line.sink.send(
            line.alerts_topic, line.alert_codec.encode_rows(alerts), [a["key"].encode() for a in alerts]
        )
        for alert in alerts:
            line.meter.alert(alert["severity"], alert["lifecycle"])

    def _reject(self, rejected: list[Rejected], records: int) -> None:
        """Publish dead letters, unless their outcome is published already, or there are too many."""
        line = self.line
        fresh = [r for r in rejected if r.offset >= line.lanes[r.partition].mute_until]
        line.breaker.add(self._now_ms(), records, len(fresh))
        line.sink.send_rejects(fresh)
        for reject in fresh:
            line.meter.dead_letter(reject.reason)

    def _commit(self) -> None:
        """Make everything published count, and then, when due, the rows that go with it."""
        line, now_ms = self.line, self._now_ms()
        self._commit_due_ms = now_ms + line.commit_interval_ms
        if self._pending:
            with self._timed("commit"):
                line.sink.commit(self._pending, line.topic, line.source.consumer)
            self._pending = {}
        self._report_lag()
        if now_ms >= self._write_due_ms:
            self._write_due_ms = now_ms + line.write_interval_ms
            self._write(line.lanes.partitions())

    def _write(self, partitions: list[int]) -> None:
        """Make changed rows durable; everything applied must be committed. A store that is away waits."""
        line = self.line
        with self._timed("write"):
            for partition in partitions:
                try:
                    if line.lanes.write(partition):
                        line.meter.state_write("ok")
                except StoreUnavailableError as error:
                    line.meter.state_write("unavailable")
                    self._log.warning("state not written, will try again", lane=partition, error=str(error))

    def _finish(self) -> None:
        """Score, commit and write everything that was polled."""
        if self.line.batcher.is_waiting:
            self._score(self.line.batcher.take(), "stop")
        self._write_due_ms = 0.0
        self._commit()

    def _take(self, partitions: list[int]) -> dict[int, int]:
        """Own lanes; returns where to read each from."""
        line = self.line
        committed = line.source.committed(partitions) if partitions else {}
        starts: dict[int, int] = {}
        for partition in partitions:
            low, high = line.source.bounds(partition)
            begin = high if line.start_at_end else low
            take = partial(
                line.lanes.take,
                partition,
                committed=committed[partition],
                start=begin,
                low=low,
                high=high,
                now_ms=self._wall_us() // 1000,
            )
            starts[partition] = self._with_store(take)
            lane = line.lanes[partition]
            self._log.info(
                "lane taken",
                partition=partition,
                reads_from=starts[partition],
                publishes_from=lane.mute_until,
                epoch=lane.durable.epoch,
            )
        self.is_ready = True
        return starts

    def _give_up(self, partitions: list[int]) -> None:
        """Finish what is in flight while the lanes are still ours, then let go of them."""
        if not self._is_broken:
            self._finish()
        self._drop(partitions)

    def _lose(self, partitions: list[int]) -> None:
        """The lanes belong to somebody else already: commit nothing of them."""
        if set(partitions) & set(self._pending) or self.line.batcher.is_waiting:
            raise StopWorker(
                Exit.FENCED,
                f"partitions {partitions} were lost with events in flight: this worker was away for longer "
                f"than the session timeout; it restarts and goes on from what is committed",
            )
        self._drop(partitions)

    def _drop(self, partitions: list[int]) -> None:
        for partition in partitions:
            self.line.lanes.drop(partition)
            self._pending.pop(partition, None)
            if partition in self._newest_ms:
                del self._newest_ms[partition]
                self.line.meter.forget_partition(partition)
        self._log.info("lanes given up", partitions=partitions)

    def _with_store(self, attempt: Callable[[], Result]) -> Result:
        """Try until the store answers; nothing is skipped meanwhile.

        Raises:
            StopWorker: it was away for too long.
        """
        give_up_ms = self._now_ms() + STORE_AWAY_AT_MOST_S * 1000
        pause_s = 0.05
        while True:
            try:
                return attempt()
            except StoreUnavailableError as error:
                if self._now_ms() >= give_up_ms:
                    raise StopWorker(Exit.STORE, str(error)) from error
                self._log.warning("waiting for the store", error=str(error))
                if self._stop.wait(pause_s):
                    raise _StopAskedError from error
                pause_s = min(1.0, pause_s * 2)
                self.looped_at_ms = self._now_ms()

    def _note_newest(self, events: Events) -> None:
        for partition in events.next_offsets:
            times = events.produced_ms[events.partition == partition]
            if len(times):
                self._newest_ms[partition] = int(times[-1])

    def _report_lag(self) -> None:
        """Records not yet polled; and how old the newest polled one is while there are such."""
        line, wall_ms = self.line, self._wall_us() // 1000
        for partition, newest_ms in self._newest_ms.items():
            high = line.source.high_offset(partition)
            behind = max(0, high - line.lanes[partition].watermark) if high >= 0 else 0
            line.meter.lag(partition, behind, (wall_ms - newest_ms) / 1000 if behind else 0.0)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.line.meter.stage(stage, time.perf_counter() - begun)
