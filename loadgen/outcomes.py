"""What came back for each event: scores and dead letters, how often, and when they could be read."""

from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadgen.growing import Growing
from loadgen.ledger import Ledger

_RECENT = 512  # reads kept for the live view


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """One stream at a glance."""

    sent: int
    scores: int
    alerts: int
    dead_letters: int
    in_flight: int  # events without an outcome so far
    sent_per_s: float
    scores_per_s: float
    p50_ms: float  # of the recent scores; NaN without any
    p99_ms: float


class Outcomes:
    """Outcomes of one stream, held by event index; written by the collector."""

    def __init__(self, ledger: Ledger) -> None:
        """Start with nothing read."""
        self.ledger = ledger
        self.scores = Growing("u1", 0)  # times an event was scored
        self.dead_letters = Growing("u1", 0)
        self.read_s = Growing("f8", np.nan)  # when the first outcome could be read
        self.score = Growing("f4", np.nan)  # the first one
        self.score_records = 0
        self.dead_letter_records = 0
        self.alert_records = 0
        self.foreign = 0  # outcomes of events that this run did not send
        self.unreadable = 0  # outcome records that could not be decoded
        self.reasons: Counter[str] = Counter()
        self.accounted = 0
        self._recent: deque[tuple[float, NDArray[np.float32]]] = deque(maxlen=_RECENT)

    def add_scores(
        self, index: NDArray[np.int64], score: NDArray[np.float32], read_s: NDArray[np.float64]
    ) -> None:
        """Note scores, (n,) each; index -1 is an event of somebody else."""
        self.score_records += len(index)
        mine = self._known(index)
        index, score, read_s = index[mine], score[mine], read_s[mine]
        fresh = self._count(self.scores, index, read_s)
        column = self.score.reach(len(self.read_s.values))
        # Of several scores of one event the first stays, so write in reverse.
        column[index[fresh][::-1]] = score[fresh][::-1]
        if len(index):
            waited_s = read_s[fresh] - self.ledger.origin_s - self.ledger.planned_s[index[fresh]]
            self._recent.append((float(read_s[-1]), waited_s.astype(np.float32)))

    def add_dead_letters(
        self, index: NDArray[np.int64], read_s: NDArray[np.float64], reasons: list[str]
    ) -> None:
        """Note dead letters, (n,) each."""
        self.dead_letter_records += len(index)
        self.reasons.update(reasons)
        mine = self._known(index)
        self._count(self.dead_letters, index[mine], read_s[mine])

    def live(self, now_s: float, *, over_s: float = 2.0) -> Live:
        """Sum up what happened until now; rates and percentiles of the last `over_s` seconds."""
        recent = [waited for at_s, waited in list(self._recent) if at_s > now_s - over_s]
        waited_ms = np.concatenate(recent) * 1000 if recent else np.empty(0, np.float32)
        due_s = self.ledger.due_s
        since = now_s - self.ledger.origin_s - over_s
        p50, p99 = np.percentile(waited_ms, [50, 99]) if len(waited_ms) else (float("nan"), float("nan"))
        return Live(
            sent=self.ledger.sent,
            scores=self.score_records,
            alerts=self.alert_records,
            dead_letters=self.dead_letter_records,
            in_flight=max(0, self.ledger.sent - self.accounted),
            sent_per_s=(len(due_s) - int(np.searchsorted(due_s, since))) / over_s,
            scores_per_s=len(waited_ms) / over_s,
            p50_ms=float(p50),
            p99_ms=float(p99),
        )

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the outcome columns cut or filled to the number of sent events, (sent,) each."""
        n = self.ledger.sent
        return {
            name: getattr(self, name).reach(max(n, len(getattr(self, name).values)))[:n]
            for name in ("scores", "dead_letters", "read_s", "score")
        }

    def _known(self, index: NDArray[np.int64]) -> NDArray[np.bool_]:
        mine = index >= 0
        self.foreign += int(len(index) - mine.sum())
        return mine

    def _count(
        self, column: Growing, index: NDArray[np.int64], read_s: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Count outcomes; return which of them are the first of their event, (n,)."""
        size = int(index.max()) + 1 if len(index) else 0
        read = self.read_s.reach(size)
        fresh: NDArray[np.bool_] = np.isnan(read[index])
        read[index[fresh][::-1]] = read_s[fresh][::-1]
        self.accounted += len(np.unique(index[fresh]))
        counts = column.reach(size)
        touched, repeats = np.unique(index, return_counts=True)
        counts[touched] = np.minimum(counts[touched] + repeats, 255)
        return fresh
