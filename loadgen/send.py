"""The sender's loop: everything that is due goes out, whatever the system under test does."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from loadgen.ledger import Ledger
from loadgen.prepare import Prepared
from loadgen.produce import Outbox

# Each tick makes one message set a partition. At 7,000 events/s two hundred ticks a second cost 17 us of CPU
# a record, a hundred 11 us (fewer, larger produce requests), and add 2.5 ms to the mean latency.
TICK_S = 0.010
Gate = Callable[[int], bool]  # may events from this event time (ms) on be sent already?


class Feed:
    """One source being sent; holds the chunk in hand and the one after it."""

    def __init__(
        self,
        prepared: Iterator[Prepared],
        outbox: Outbox,
        ledger: Ledger,
        *,
        marker_topic: str | None = None,
        gate: Gate | None = None,
    ) -> None:
        """Start before the first chunk.

        Args:
            prepared: chunks in order.
            outbox: where records go.
            ledger: where sent events are noted.
            marker_topic: whose partitions get the chunks' time markers.
            gate: holds chunks back; while it is closed the plan's clock stands still.
        """
        self._prepared = prepared
        self._outbox = outbox
        self._ledger = ledger
        self._marker_topic = marker_topic
        self._gate = gate
        self._current: Prepared | None = None
        self._next: Prepared | None = None
        self._due_s: list[float] = []
        self._at = 0  # records of the current chunk already sent
        self._held_s = 0.0
        self._closed_since_s: float | None = None
        self._sent_before = 0  # scored events of earlier chunks
        self.records = 0
        self.done = False

    def prepare(self) -> None:
        """Make the next chunk ready, so that the moment it is due only has to send it."""
        if self._next is None and not self.done:
            self._next = next(self._prepared, None)
            self.done = self._next is None and self._current is None

    def send_due(self, now_s: float) -> int:
        """Send what is due at `now_s` seconds after the start; return the number of records."""
        sent = 0
        while self._begin(now_s):
            chunk = self._current
            assert chunk is not None
            due = bisect_right(self._due_s, now_s - self._held_s, lo=self._at)
            if due > self._at:
                self._ledger.late_s.append(now_s - self._held_s - self._due_s[self._at])
                self._send(chunk, self._at, due)
                sent += due - self._at
                self._at = due
                self._ledger.sent = self._sent_before + int(chunk.scored_before[due])
            if due < len(self._due_s):
                break
            self._sent_before = self._ledger.sent
            self._current = None
        self.records += sent
        return sent

    def _begin(self, now_s: float) -> bool:
        if self._current is not None:
            return True
        self.prepare()
        chunk = self._next
        if chunk is None:
            return False
        if self._gate is not None and not self._gate(chunk.from_ms):
            self._closed_since_s = now_s if self._closed_since_s is None else self._closed_since_s
            return False
        if self._closed_since_s is not None:
            self._held_s += now_s - self._closed_since_s
            self._closed_since_s = None
        self._current, self._next, self._at = chunk, None, 0
        self._due_s = chunk.due_s.tolist()  # bisect in a list is ten times faster than searchsorted
        if chunk.plan is not None:
            plan = chunk.plan
            self._ledger.plan(plan.first_number, plan.due_s + self._held_s, plan.truth, plan.mutation)
        return True

    def _send(self, chunk: Prepared, begin: int, end: int) -> None:
        for position, event_time_ms in chunk.marks:
            # A marker at the very end goes with the last record: it says nothing about records still to come.
            if self._marker_topic is None or not begin < position <= end:
                continue
            self._send_part(chunk, begin, position)
            self._outbox.mark(self._marker_topic, event_time_ms)
            begin = position
        self._send_part(chunk, begin, end)

    def _send_part(self, chunk: Prepared, begin: int, end: int) -> None:
        part = slice(begin, end)
        if not self._ledger.by_source:
            self._outbox.send(chunk.topics[part], chunk.keys[part], chunk.values[part])
            return
        first = 0 if chunk.plan is None else chunk.plan.first_number
        before = chunk.scored_before[begin : end + 1]
        numbers = np.where(np.diff(before) > 0, first + before[:-1], -1).tolist()
        self._outbox.send_with_receipts(
            chunk.topics[part],
            chunk.keys[part],
            chunk.values[part],
            [number if number >= 0 else None for number in numbers],
            self._ledger.receive,
        )


def send_all(
    feeds: Sequence[Feed],
    outbox: Outbox,
    *,
    now_s: Callable[[], float],
    wait: Callable[[float], bool],
    for_s: float | None = None,
) -> None:
    """Send until the time is over, the feeds are empty or `wait` says stop.

    Args:
        feeds: what to send.
        outbox: served at every tick.
        now_s: seconds since the start.
        wait: sleeps so many seconds, True when it is time to stop.
        for_s: no event due later is sent; no end when None.

    Raises:
        SendError: the producer cannot go on.
    """
    while True:
        begun_s = now_s()
        until_s = begun_s if for_s is None else min(begun_s, for_s)
        for feed in feeds:
            feed.send_due(until_s)
        outbox.serve()
        if until_s == for_s or all(feed.done for feed in feeds):
            return
        for feed in feeds:
            feed.prepare()
        if wait(max(0.0, begun_s + TICK_S - now_s())):
            return
