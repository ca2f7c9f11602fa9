"""Which version scores which event of a batch, and the swap between two batches."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_cache.key_index import stable_hash
from worker.batch import Batch, Ends, Features
from worker.comparison import Comparison, Trip
from worker.composite import check_version
from worker.degradation import RULES
from worker.exits import Exit, StopWorker
from worker.records import index_keys
from worker.scoring import Scored, Scorer

_PARTS = 10_000  # a share is told in so many parts of the keys


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Serving:
    """The versions that score, loaded and warm."""

    revision: int = 0  # of the change that asks for it; 0: the pipeline file
    champion: Scorer
    challenger: Scorer | None = None
    is_shadow: bool = False
    share: float = 0.0
    comparison: Comparison | None = None  # of the challenger with the champion


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Shadow:
    """What a version says that decides nothing."""

    version: str
    scores: NDArray[np.float32]  # (n,) not finite where it was not asked, or has no score
    ends: Ends | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Routed:
    """What the versions say of a batch."""

    scored: Scored
    version: Any  # of all events: text; or of each: (n,) pyarrow strings
    shadow: Shadow | None = None


class Router:
    """Scores batches by what is in force; the loop's thread calls, another one offers.

    Invariants: a batch is scored by what was in force when it began, and every call of a model is of one
    version. A challenger that fails leaves its events to the champion: it never stops the worker.
    """

    def __init__(self, serving: Serving, on_step: Callable[[int], None] = lambda _: None) -> None:
        """Serve this.

        Args:
            on_step: told which step of the ladder the scores of the champion stand on.
        """
        self.serving = serving
        self._on_step = on_step
        serving.champion.report_to(on_step)
        # Guards that challengers broke, with the revision that brought them, each once; any thread may read.
        self.trips: SimpleQueue[tuple[int, Trip]] = SimpleQueue()
        self.untold: list[tuple[str, Trip]] = []  # the same, for the loop to publish
        self.refused: tuple[int, str] = (-1, "")  # revision of what could not be taken up, and why
        self._offered: Serving | None = None
        self._tripped = -1

    @property
    def card(self) -> Any:
        """Of the version that scores what no other does."""
        return self.serving.champion.card

    @property
    def device(self) -> str:
        """Where that runs: cpu, cuda:N, tensorrt:N or rules."""
        return self.serving.champion.device

    @property
    def is_up_to_date(self) -> bool:
        """Whether everything that was offered is taken up."""
        return self._offered is None

    def offer(self, serving: Serving) -> None:
        """Serve this from the next batch on; any thread may call."""
        self._offered = serving

    def settle(self) -> None:
        """See Scorer.settle."""
        self.serving.champion.settle()
        if self.serving.challenger is None:
            return
        try:
            self.serving.challenger.settle()
        except Exception as error:
            self.refused = (self.serving.revision, str(error))
            self.serving = Serving(champion=self.serving.champion)

    def turn(self) -> None:
        """Take up what was offered; between two batches, and where none comes."""
        offered = self._offered
        if offered is None:
            return
        try:
            for scorer in filter(None, (offered.champion, offered.challenger)):
                scorer.settle()
        except Exception as error:  # what serves goes on
            self.refused = (offered.revision, str(error))
            self._offered = None
            return
        if offered.champion is not self.serving.champion:
            self.serving.champion.report_to(lambda _: None)
            offered.champion.report_to(self._on_step)
        self.serving = offered
        if self._offered is offered:
            self._offered = None

    def score(self, batch: Batch, now_ms: float) -> Routed:
        """Score a batch.

        Raises:
            StopWorker: the version that serves does not work, see Scorer.score.
        """
        self.turn()
        serving = self.serving
        version = serving.champion.card.version
        began_s = time.perf_counter()
        scored = serving.champion.score(batch.features, now_ms)
        champion_s = time.perf_counter() - began_s
        if serving.challenger is None:
            return Routed(scored=scored, version=version)
        rows = chosen_rows(batch, serving.share)
        if not len(rows):
            return Routed(scored=scored, version=version)
        other = self._ask(serving, batch, rows, scored, champion_s, now_ms)
        if other is None:
            return Routed(scored=scored, version=version)
        challenger = serving.challenger.card.version
        if serving.is_shadow:
            nothing = np.full(len(batch), np.nan, np.float32)
            shadow = Shadow(
                version=challenger,
                scores=_put(nothing, rows, other.scores),
                ends=None if other.ends is None else _put_ends((nothing, nothing), rows, other.ends),
            )
            return Routed(scored=scored, version=version, shadow=shadow)
        has_score = np.isfinite(other.scores)
        taken = rows[has_score]
        which = np.zeros(len(batch), np.int32)
        which[taken] = 1
        nothing = np.full(len(batch), np.nan, np.float32)
        ends = scored.ends
        if ends is not None or other.ends is not None:
            of_others = other.ends or (nothing[rows], nothing[rows])
            ends = _put_ends(ends or (nothing, nothing), taken, tuple(end[has_score] for end in of_others))
        return Routed(
            scored=replace(
                scored,
                scores=_put(scored.scores, taken, other.scores[has_score]),
                degradation=_put(scored.degradation, taken, other.degradation[has_score]),
                failed={row: why for row, why in scored.failed.items() if not which[row]},
                ends=ends,
            ),
            version=pa.array([version, challenger]).take(pa.array(which)),
        )

    def _ask(
        self,
        serving: Serving,
        batch: Batch,
        rows: NDArray[np.int64],
        scored: Scored,
        champion_s: float,
        now_ms: float,
    ) -> Scored | None:
        """What the challenger says of these rows; None: it failed as a whole."""
        assert serving.challenger is not None
        comparison = serving.comparison
        began_s = time.perf_counter()
        try:
            other = serving.challenger.score(_rows_of(batch.features, rows), now_ms)
        except Exception as error:
            if isinstance(error, StopWorker) and error.code is Exit.DEVICE:
                _raise_if_champion_fails(serving.champion, error)
            self.note(serving, comparison.failed(len(rows)) if comparison else None)
            return None
        if (other.degradation == RULES).all():  # they would speak for themselves, not for the challenger
            self.note(serving, comparison.failed(len(rows)) if comparison else None)
            return None
        took_s = time.perf_counter() - began_s
        fresh = ~batch.features.is_muted[rows]  # what is read again was compared before
        if comparison is not None and fresh.any():
            trip = comparison.add(scored.scores[rows][fresh], other.scores[fresh], champion_s, took_s)
            self.note(serving, trip)
        return other

    def note(self, serving: Serving, trip: Trip | None) -> None:
        """A guard of the challenger is broken, unless there is none; any thread may say so."""
        if trip is not None and self._tripped != serving.revision:
            self._tripped = serving.revision
            self.trips.put((serving.revision, trip))
            assert serving.challenger is not None
            self.untold.append((serving.challenger.card.version, trip))


def chosen_rows(batch: Batch, share: float) -> NDArray[np.int64]:
    """(k,) the events whose keys are among this share of all keys, whatever batch they are in."""
    parts = stable_hash(index_keys(batch.events.records.keys)) % _PARTS
    return np.flatnonzero(parts < round(share * _PARTS))


def _raise_if_champion_fails(champion: Scorer, error: StopWorker) -> None:
    """A device that fails one version may fail the other, too: then it is the device's fault."""
    try:
        check_version(champion.loaded)
    except Exception:
        raise error from None


def _put(values: NDArray[Any], rows: NDArray[np.int64], new: NDArray[Any]) -> Any:
    changed = values.copy()
    changed[rows] = new
    return changed


def _put_ends(ends: Ends, rows: NDArray[np.int64], new: Any) -> Ends:
    return _put(ends[0], rows, new[0]), _put(ends[1], rows, new[1])


def _rows_of(features: Features, rows: NDArray[np.int64]) -> Features:
    """What a model needs of these rows."""
    if len(rows) == len(features.scalars):
        return features
    return replace(
        features,
        scalars=features.scalars[rows],
        sequences={name: values[rows] for name, values in features.sequences.items()},
        degradation=features.degradation[rows],
    )
