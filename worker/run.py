"""The loop: one batch's life from poll to commit."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

from feature_cache.packing import CorruptRowError
from feature_cache.rows import RowsFullError
from feature_cache.store import FencedError, StoreUnavailableError
from schemas.registry import RegistryError
from worker.answers import Answers
from worker.batch import Batch, Events, Features, Rejected
from worker.commits import NotCommittedError
from worker.decode import decode
from worker.exits import StopWorker
from worker.features import enrich
from worker.healing import Healing
from worker.judge import judge
from worker.lag import Lag
from worker.line import Line
from worker.publish import Ready, publish
from worker.refuse import set_refused_apart
from worker.row_writes import RowWrites
from worker.scout import commit_offsets
from worker.source import GivenAgainError, OffsetsGoneError
from worker.trouble import Trouble, unfinished

POLL_AT_MOST_MS = 100.0  # how long a stop or a due commit may go unnoticed
POLL_UNSETTLED_MS = 10.0  # while some lane waits to be read
ASK_REGISTRY_EVERY_MS = 1000.0
HEAR_FROM_GROUP_MS = 1000.0  # a member that was thrown out is told so within this, and then lets go
FINISH_AGAIN_S = (0.05, 0.1, 0.2, 0.4)  # pauses between tries to commit while the group rebalances
HELD_AT_MOST = 4  # scored batches that wait for a commit to end before they are sent
LATE_COMMIT_MS = 1000.0  # after which it is waited for: what is sent meanwhile is sent again after a crash
QUIET_SHARE = 0.25  # of the commit interval: where nothing more comes, there is nothing to wait for
# What taking the lanes again mends.
_MENDED = (NotCommittedError, FencedError, CorruptRowError, OffsetsGoneError, GivenAgainError)


class _StopAskedError(Exception):
    """Asked to stop while waiting; the events at hand have not been applied and will be read again."""


class Worker:
    """One pipeline's loop, and what it has published but not yet committed."""

    def __init__(
        self,
        line: Line,
        now_ms: Callable[[], float] = lambda: time.monotonic() * 1000,
        wall_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        answers: Answers | None = None,
    ) -> None:
        self.line = line
        self._answers = answers  # of requests over HTTP; None: nobody listens
        self._now_ms = now_ms
        self._wall_us = wall_us
        self._log = structlog.get_logger(pipeline=line.name)
        self._pending: dict[int, int] = {}  # partition to next offset: published, not committed
        self._ending: dict[int, int] = {}  # the same, in a commit that is under way
        self._held: list[Ready] = []  # scored while a commit is under way, and not published yet
        self._lag = Lag(line.source, line.lanes, line.meter)
        line.meter.watch_recoveries([error.__name__ for error in _MENDED])
        self._commit_began_ms = -math.inf
        self._writes = RowWrites(line.lanes, line.meter, line.write_interval_ms)
        self._healing = Healing(line.lanes, now_ms)
        self._is_broken = self._is_enriching = False
        self._trouble = Trouble()
        self._stop = threading.Event()
        self.looped_at_ms = now_ms()
        self.is_paused = False  # set from outside: read nothing, and stay in the group
        self._is_member = False  # has been assigned lanes, or told that there are none for it
        self.is_closing = False  # scores and commits no more, and closes its clients, which may hang
        self.failure: BaseException | None = None  # why it does, unless it was asked to and is done

    @property
    def is_ready(self) -> bool:
        """Whether it is in the group, and reads every lane that it was given."""
        return self._is_member and self.line.owned.is_settled

    def is_reading(self) -> bool:
        """The same, to hand on."""
        return self.is_ready

    def run(self, stop: threading.Event) -> None:
        """Score until asked to stop, then finish what was polled.

        Raises:
            StopWorker: with the exit code and what to do; nothing unacknowledged was committed.
        """
        line = self.line
        self._stop = stop
        if line.router is not None:
            line.router.settle()
        line.source.subscribe(self._take, self._give_up, self._lose)
        if line.rollout is not None:
            line.rollout.start()
        try:
            with suppress(_StopAskedError):
                while not stop.is_set():
                    self._turn_or_recover()
            if self._answers is not None:
                self._answers.drain(line, self._now_ms())
            self._finish()
        except _MENDED as error:
            # At the end nothing is read again: whoever takes the lanes goes on from what is committed.
            self._is_broken = True
            self._log.warning("stopped before the last commit", error=str(error))
            if isinstance(error, NotCommittedError):
                self._trouble.note(error, self._now_ms())
        except BaseException as error:
            self._is_broken = True  # whatever happens now, commit nothing
            self.failure = error
            raise
        finally:
            self.failure = self.failure or self._unfinished()
            self.is_closing = True
            stop.set()  # from here on the service waits for it only so long
            if self._answers is not None:
                self._answers.inbox.close("this worker is stopping")
            if line.rollout is not None:
                line.rollout.close()
            line.sink.let_offsets_arrive()
            line.source.close()
            line.sink.close()
        if failure := self._unfinished():  # to give a lane up is one more try
            raise failure

    def _unfinished(self) -> StopWorker | None:
        """How the worker ends where not everything polled is committed; None: it is."""
        is_busy = self._pending or self._ending or self._held or self.line.batcher.is_waiting
        return unfinished() if is_busy or self._trouble.is_on(self._now_ms()) else None

    def _turn_or_recover(self) -> None:
        """One turn; what goes wrong with Kafka or the store on the way is mended, not raised."""
        try:
            self._turn()
            self._heal()
        except StoreUnavailableError as error:
            self._log.warning("waiting for the store", error=str(error))
            self.line.owned.rest()
        except RegistryError as error:  # nothing of the poll was applied: it is read again
            self._log.warning("waiting for the registry", error=str(error))
            self.line.owned.rest(self._now_ms() + ASK_REGISTRY_EVERY_MS)
        except _MENDED as error:
            if self._stop.is_set():
                raise
            self._recover(error)

    def _recover(self, error: Exception) -> None:
        """Forget everything since the last commit, and take every lane again as a new owner would.

        There is no other way back: nothing that was applied or sent is undone piece by piece.
        """
        line = self.line
        self._trouble.note(error, self._now_ms())
        self._log.warning("lanes are taken again", error=str(error), kind=type(error).__name__)
        line.meter.recovered(type(error).__name__)
        line.batcher.clear()
        self._writes.forget()
        self._pending, self._ending = {}, {}
        self._held.clear()
        line.sink.abort()
        is_member = getattr(error, "is_member", True)
        not_before_ms = 0.0 if is_member else self._now_ms() + HEAR_FROM_GROUP_MS
        line.owned.take(line.owned.assigned(), not_before_ms)

    def _turn(self) -> None:
        """Poll once; score when a batch is due; commit when that is due."""
        line = self.line
        if self.is_paused:
            line.owned.rest()
        elif line.sink.is_ready():
            line.owned.turn(self._now_ms())
            for partition, start in line.owned.to_commit().items():
                self._pending.setdefault(partition, start)
        if line.router is not None:
            line.router.turn()
        is_hurried = self._ending or self._pending or not (line.owned.is_settled or self.is_paused)
        asked_ms = self._now_ms()
        wait_ms = line.batcher.wait_ms(asked_ms, POLL_UNSETTLED_MS if is_hurried else POLL_AT_MOST_MS)
        gather_ms = line.batcher.gather_ms(asked_ms)
        if self._answers is not None:
            wait_ms, gather_ms = self._answers.poll_at_most_ms(line, asked_ms, wait_ms, gather_ms)
        with self.line.meter.timed("poll"):
            records = line.source.poll(line.batcher.room, wait_ms, gather_ms)
        polled_ms = self.looped_at_ms = self._now_ms()
        if self._ending and not line.sink.is_committing():
            self._end_commit()
        self._writes.turn()
        is_asked = self._answers is not None and self._answers.serve(line, polled_ms)
        if records is not None:
            for lookup in line.lookups:
                lookup.expect(records)  # Redis looks for their rows meanwhile
            with self.line.meter.timed("decode"):
                events, rejected = decode(records, line.codec, line.decode_plan, self._wall_us())
            with self.line.meter.timed("features"):
                self._is_enriching = True  # rows are neither before these events nor after them
                try:
                    features = self._enrich(events)
                finally:
                    self._is_enriching = False
            batch, refused = set_refused_apart(Batch(events=events, features=features))
            # Only now: making room in memory commits, and these dead letters belong to the next commit.
            self._reject(rejected + refused, len(records))
            self._lag.note(events)
            line.batcher.add(
                batch, records.size_bytes, line.source.first_at_ms, is_idle=line.source.is_drained
            )
        reason = line.batcher.reason(self._now_ms())
        if reason is not None:
            self._score(line.batcher.take(), reason)
            line.batcher.done(asked_ms, polled_ms, self._now_ms())
        if self._held and (line.source.is_drained or not line.sink.holds_back()):
            self._publish_held()
        if not line.batcher.is_waiting and self._is_commit_due(is_quiet=records is None and not is_asked):
            self._commit()

    def _enrich(self, events: Events) -> Features:
        line = self.line

        def attempt() -> Features:
            return enrich(
                events, line.feature_plan, line.lanes, line.lookups, line.meter, self._while_waiting
            )

        try:
            features = attempt()
        except RowsFullError:
            self._finish()  # makes every row clean, so that the oldest can leave
            try:
                features = attempt()
            except RowsFullError as error:
                if line.lanes.rows.is_dirty.any():
                    raise StoreUnavailableError(f"changed rows cannot be written, and {error}") from error
                raise
        line.meter.applied(len(events), int(features.late.sum()), len(line.lanes.rows))
        return features

    def _while_waiting(self) -> None:
        """A lookup waits for its owner: meanwhile no transaction may time out, and no stop go unnoticed."""
        self.looped_at_ms = self._now_ms()
        if self._stop.is_set():
            raise _StopAskedError
        if self._is_commit_due():
            if self.line.batcher.is_waiting:
                self._score(self.line.batcher.take(), "wait")
            self._commit()

    def _score(self, batch: Batch, reason: str) -> None:
        """Score and decide one batch; publish it, unless a commit is under way and more is at hand."""
        line = self.line
        batch = batch if line.tracing is None else line.tracing.taken(batch, reason)
        self._held.append(judge(line, batch, reason, self._now_ms()))
        # Where the next batch is at hand, it is scored before anybody waits for a commit.
        may_wait = not line.source.is_drained and len(self._held) < HELD_AT_MOST
        if not (may_wait and line.sink.holds_back()):
            self._publish_held()

    def _publish_held(self) -> None:
        """Publish what is scored; its offsets then wait for the commit."""
        line = self.line
        held, self._held = self._held, []
        for made in held if line.tracing is None else line.tracing.each(held):
            if made.scores is not None:
                self._end_transaction()
                publish(line, made, made.scores, self._wall_us())
                self._reject(made.rejected, 0)
            for partition, next_offset in made.batch.events.next_offsets.items():
                # A lane that is still catching up has nothing new to commit.
                if next_offset > line.lanes[partition].mute_until:
                    self._pending[partition] = next_offset

    def _reject(self, rejected: list[Rejected], records: int) -> None:
        """Publish dead letters, unless their outcome is published already, or there are too many."""
        line = self.line
        fresh = [r for r in rejected if r.record.offset >= line.lanes[r.record.partition].mute_until]
        line.breaker.add(self._now_ms(), records, len(fresh))
        if fresh:
            self._end_transaction()
        line.sink.send_rejects(fresh)
        for reject in fresh:
            line.meter.dead_letter(reject.reason)

    def _is_commit_due(self, *, is_quiet: bool = False) -> bool:
        wait_ms = self.line.commit_interval_ms * (QUIET_SHARE if is_quiet and self._pending else 1)
        return self._now_ms() >= self._commit_began_ms + wait_ms

    def _commit(self) -> None:
        """Begin to make everything published count; rows are packed as of now, where that is due."""
        line, now_ms = self.line, self._now_ms()
        is_late = now_ms >= self._commit_began_ms + LATE_COMMIT_MS
        if self._ending and not is_late and line.sink.is_committing():
            return  # in its own time: the next one covers more
        self._commit_began_ms = now_ms
        self._end_commit()
        self._publish_held()
        if self._pending:
            offsets = commit_offsets(line.topic, self._pending, line.owned.topic_partitions)
            line.sink.begin_commit(offsets, line.source.consumer)
            self._pending, self._ending = {}, self._pending
        self._report()
        self._writes.pack(now_ms)
        if not self._ending:
            self._writes.begin()

    def _end_transaction(self) -> None:
        """Wait for the commit under way, where what is sent now would become a part of it."""
        if self.line.sink.is_transactional:
            self._end_commit()

    def _end_commit(self) -> None:
        """Wait for the commit under way, before anything is written or given up."""
        if not self._ending:
            return
        if self._answers is not None and not self._is_enriching:  # callers should not wait for it as well
            self._answers.serve_while(self.line, self.line.sink.is_committing, self._now_ms)
        ending, self._ending = self._ending, {}
        with self.line.meter.timed("commit"):
            is_done = self.line.sink.end_commit()
        if is_done:
            self._trouble.is_over()
            self._writes.begin()
        else:  # the group is rebalancing
            self._pending = {**ending, **self._pending}
            self._writes.take_back()

    def _report(self) -> None:
        line = self.line
        self._lag.report(self._wall_us() // 1000)
        waiting = line.owned.waiting
        line.meter.owned(reading=len(line.owned.assigned()) - waiting, waiting=waiting)
        line.meter.dirty_rows(int((line.lanes.rows.is_dirty | line.lanes.rows.is_packed).sum()))

    def _heal(self) -> None:
        """Once the store is back, take lanes with guessed rows again: replayed, every row is right."""
        ready = self._healing.ready()
        if not ready:
            return
        self._finish()
        if self._pending:
            return  # taken as of the old commit, they would publish again what the next one makes count
        self._log.info("the store is back: lanes with guessed rows are taken again", partitions=ready)
        self.line.owned.take(ready)

    def _finish(self) -> None:
        """Score, commit and write everything that was polled."""
        if self.line.batcher.is_waiting:
            self._score(self.line.batcher.take(), "stop")
        for pause_s in FINISH_AGAIN_S:
            self._end_commit()
            self._writes.due_ms = 0.0
            self._commit()  # before any wait for the store
            self._end_commit()
            if not self._pending:
                break
            time.sleep(pause_s)
        self._writes.end()
        if not self._pending:  # an earlier write may have been under way, and nothing was packed
            self._writes.pack(self._now_ms())
            self._writes.begin()
            self._writes.end()

    def _take(self, partitions: list[int]) -> None:
        """Partitions were assigned to us; they are held until their lanes are begun."""
        self._is_member = True
        self.line.owned.take(partitions)

    def _give_up(self, partitions: list[int]) -> None:
        """Finish what is in flight while the lanes are still ours, then let go of them."""
        if not self._is_broken:
            try:
                self._finish()
                if set(partitions) & set(self._pending):
                    raise NotCommittedError(f"partitions {partitions} leave before their last commit")
            except (NotCommittedError, FencedError, CorruptRowError) as error:
                self._recover(error)
        self._drop(partitions)

    def _lose(self, partitions: list[int]) -> None:
        """The lanes belong to somebody else already: commit nothing of them."""
        is_busy = self._pending or self._ending or self._held or self.line.batcher.is_waiting
        if not self._is_broken and is_busy:
            why = f"partitions {partitions} were lost: away for longer than the session time-out"
            self._recover(NotCommittedError(why))
        self._drop(partitions)

    def _drop(self, partitions: list[int]) -> None:
        self.line.owned.give_up(partitions)
        self._lag.forget(partitions)
        for partition in partitions:
            self._pending.pop(partition, None)
        self._log.info("lanes given up", partitions=partitions)
