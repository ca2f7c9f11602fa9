"""Changed rows on their way to the store: packed as a commit begins, written beside the loop when it is done.

Invariants (docs/state.md):
- What was packed is written only after the commit that began with it is done; else it has changed still.
- Of a lane nothing is packed before what was packed of it earlier is written, or is not.
"""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial

import structlog

from feature_cache.lane import Packed
from feature_cache.lanes import Lanes
from feature_cache.redis_store import patience_for
from feature_cache.store import FencedError, StoreUnavailableError
from worker.background import in_background
from worker.metrics import Meter

_Outcome = FencedError | StoreUnavailableError | None  # None: it was written


class RowWrites:
    """What of one worker's rows is packed, and what is being written; the loop's thread calls."""

    def __init__(self, lanes: Lanes, meter: Meter, interval_ms: float) -> None:
        self._lanes = lanes
        self._meter = meter
        self._interval_ms = interval_ms
        self._log = structlog.get_logger(pipeline=meter.pipeline)
        self.due_ms = 0.0
        self._packed: list[Packed] = []  # as of the commit under way, or of the last one
        self._writing: Future[list[_Outcome]] | None = None  # of what is packed

    def pack(self, now_ms: float) -> None:
        """Where it is due: pack what has changed, when every event applied is in the commit that begins.

        A store that is away waits until it is due again.

        Raises:
            FencedError: a lane has another owner by now.
        """
        self.turn()
        if now_ms < self.due_ms or self._packed:
            return
        self.due_ms = now_ms + self._interval_ms
        self._lanes.release()
        with self._meter.timed("write"):
            try:
                for partition in self._lanes.partitions():
                    if packed := self._lanes.pack(partition):
                        self._packed.append(packed)
            except StoreUnavailableError as error:
                self._unavailable(error)

    def begin(self) -> None:
        """The commit is done: write what was packed, beside the loop."""
        if self._writing is not None or not self._packed:
            return
        for packed in self._packed:
            packed.lane.uncertain = packed.new
        self._writing = in_background(partial(_written, self._lanes, self._packed), "write rows")
        if any(patience_for(len(each.rows), sum(map(len, each.rows))) > 1 for each in self._packed):
            self.end()  # Redis is silent meanwhile, for longer than whoever reads from it waits

    def take_back(self) -> None:
        """The commit is not done, and the next one covers more: what was packed for it has changed still."""
        if self._writing is None and self._packed:
            for packed in self._packed:
                self._lanes.not_written(packed)
            self._packed, self.due_ms = [], 0.0

    def turn(self) -> None:
        """See whether a write has ended.

        Raises:
            FencedError: a lane has another owner by now.
        """
        if self._writing is not None and self._writing.done():
            self.end()

    def end(self) -> None:
        """Wait for the write under way, if there is one.

        Raises:
            FencedError: a lane has another owner by now.
        """
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        packed, self._packed = self._packed, []
        failed = []
        for each, outcome in zip(packed, writing.result(), strict=True):
            if not self._lanes.holds(each):
                continue  # whoever has the lane now took it as it was before, or is
            if outcome is not None:
                self._lanes.not_written(each)
                failed.append(outcome)
                continue
            self._lanes.written(each)
            if len(each.slots):
                self._meter.state_write("ok")
        for error in failed:
            if isinstance(error, FencedError):
                raise error
        if failed:
            self._unavailable(failed[0])

    def forget(self) -> None:
        """Every lane is to be taken again: whatever a write under way does, it does to no lane of now."""
        self._packed, self._writing = [], None

    def _unavailable(self, error: Exception) -> None:
        self._meter.state_write("unavailable")
        self._log.warning("state not written, will try again", error=str(error))


def _written(lanes: Lanes, packed: list[Packed]) -> list[_Outcome]:
    """Write one after the other; when the store is away, it is for the others, too."""
    outcomes: list[_Outcome] = []
    for each in packed:
        try:
            lanes.store(each)
            outcomes.append(None)
        except FencedError as error:
            outcomes.append(error)
        except StoreUnavailableError as error:
            return outcomes + [error] * (len(packed) - len(outcomes))
    return outcomes
