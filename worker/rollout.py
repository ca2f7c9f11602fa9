"""Beside the loop: follows the control topic, loads versions, and offers those that proved themselves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from worker.comparison import Comparison, Trip
from worker.control import (
    Change,
    ControlError,
    ControlLog,
    ControlWriter,
    Routing,
    Status,
    describe,
    next_change,
)
from worker.exits import StopWorker
from worker.metrics import Meter
from worker.router import Router, Serving
from worker.scoring import Scorer
from worker.session import ModelError
from worker.yaml_lines import ConfigError

_LOOK_S = 0.1
_STATUS_EVERY_S = 10.0
_LABELS_EVERY_S = 10.0
_REFUSALS = (ModelError, ConfigError, StopWorker, OSError)
_AGAIN_S = 1.0  # before Kafka is asked again after it refused

OpenScorer = Callable[[str], Scorer]  # of a version: fetched, checked, proved and warm
Compare = Callable[[], Comparison]
Check = Callable[
    [Scorer, Scorer], None
]  # the new one, beside the one that serves; ModelError: it may not serve
Precision = Callable[[str, str], Trip | None]  # of two versions, as labels tell
Newest = Callable[[], str | None]  # version in the repository, None: there is none


class Rollout:
    """One pipeline's versions in this process.

    Invariants: what is offered was loaded, checked and warm before; a version that fails any check changes
    nothing, and the control topic says why; the version before stays loaded, so that the way back is short.
    """

    def __init__(
        self,
        pipeline: str,
        worker: str,
        router: Router,
        log: ControlLog,
        writer: ControlWriter,
        *,
        at_start: str,
        open_scorer: OpenScorer,
        compare: Compare,
        check: Check,
        meter: Meter,
        precision: Precision = lambda _old, _new: None,
        newest: Newest = lambda: None,
        poll_s: float | None = None,
    ) -> None:
        self._pipeline, self.worker = pipeline, worker
        self._router = router
        self._control, self._writer = log, writer
        self._at_start = at_start
        self._open, self._compare, self._check = open_scorer, compare, check
        self._newest, self._poll_s = newest, poll_s
        self._meter = meter
        meter.watch_guards()
        self._precision = precision
        self._judged_s = time.monotonic()
        self._held: dict[str, Scorer] = {}
        for scorer in (router.serving.champion, router.serving.challenger):
            if scorer is not None:
                self._held[scorer.card.version] = scorer
        self._refused = ""
        self._tried: set[str] = set()  # newest versions that were looked at
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{pipeline}-rollout", daemon=True)
        self._told_s = 0.0
        self._polled_s = time.monotonic()
        self._logger = structlog.get_logger(pipeline=pipeline)

    def start(self) -> None:
        """Follow from now on."""
        self._thread.start()

    def close(self) -> None:
        """Follow no longer, and say so."""
        self._stop.set()
        self._thread.join(5.0)
        try:
            self._writer.leave(self._pipeline, self.worker)
        except ControlError as error:
            self._logger.warning("not told that this worker leaves", error=str(error))
        if not self._thread.is_alive():
            self._control.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._turn()
            except ControlError as error:
                self._logger.warning("no word from the control topic", error=str(error))
                self._stop.wait(_AGAIN_S)
            except Exception as error:  # the loop goes on with what serves
                self._logger.error("the rollout has failed, and goes on", exc_info=error)
                self._stop.wait(_AGAIN_S)

    def _turn(self) -> None:
        changes, _ = self._control.poll(_LOOK_S)
        ours = [change for change in changes if change.pipeline == self._pipeline]
        if ours:
            self._take_up(ours[-1])
        while not self._router.trips.empty():
            self._take_back(*self._router.trips.get())
        now_s = time.monotonic()
        if self._poll_s is not None and now_s - self._polled_s >= self._poll_s:
            self._polled_s = now_s
            self._promote_newest()
        if now_s - self._told_s >= _STATUS_EVERY_S:
            self._tell()
        self._look_at_labels(now_s)
        serving = self._router.serving
        if serving.comparison is not None and serving.challenger is not None:
            self._meter.challenger(serving.challenger.card.version, serving.comparison.agreement())

    def _look_at_labels(self, now_s: float) -> None:
        serving = self._router.serving
        if serving.challenger is None or now_s - self._judged_s < _LABELS_EVERY_S:
            return
        self._judged_s = now_s
        trip = self._precision(serving.champion.card.version, serving.challenger.card.version)
        self._router.note(serving, trip)

    def _take_up(self, change: Change) -> None:
        """Offer what a change asks for, if it can serve."""
        serving = self._router.serving
        try:
            offered = self._loaded(change)
        except _REFUSALS as error:
            self._refused = f"revision {change.revision}: {error}"
            self._logger.error(
                "a change is refused, what served goes on", action=change.action, why=str(error)
            )
            self._tell()
            return
        self._refused = ""
        self._router.offer(offered)
        wanted = {change.routing.champion, change.routing.challenger, *change.routing.before[-1:]}
        wanted |= {serving.champion.card.version}
        self._held = {version: scorer for version, scorer in self._held.items() if version in wanted}
        give_up_s = time.monotonic() + 5.0
        while not self._router.is_up_to_date and time.monotonic() < give_up_s:
            time.sleep(0.005)
        self._logger.info(
            "routing", revision=change.revision, by=change.by, now=describe(change.routing), why=change.why
        )
        self._tell()

    def _loaded(self, change: Change) -> Serving:
        routing, serving = change.routing, self._router.serving
        champion = self._scorer(routing.champion, serving)
        challenger = None if routing.challenger is None else self._scorer(routing.challenger, serving)
        is_same = challenger is not None and challenger is serving.challenger and champion is serving.champion
        comparison = serving.comparison if is_same and serving.is_shadow == routing.is_shadow else None
        return Serving(
            revision=change.revision,
            champion=champion,
            challenger=challenger,
            is_shadow=routing.is_shadow,
            share=routing.share,
            comparison=comparison or (None if challenger is None else self._compare()),
        )

    def _scorer(self, version: str, serving: Serving) -> Scorer:
        held = self._held.get(version)
        if held is None:
            held = self._open(version)
            self._check(held, serving.champion)
            self._held[version] = held
        return held

    def _take_back(self, revision: int, trip: Trip) -> None:
        """A guard was broken: the canary goes, unless something has changed since."""
        serving = self._router.serving
        version = serving.challenger.card.version if serving.challenger else ""
        self._meter.guard_tripped(trip.guard)
        self._logger.error("a guard is broken", version=version, guard=trip.guard, why=str(trip))
        if serving.is_shadow or serving.revision != revision:
            return  # it decides nothing, or is gone already
        self._offer_change("rollback", f"{trip} (version {version})", by=f"guard of {self.worker}")

    def _promote_newest(self) -> None:
        """Offer the newest version of the repository, unless it has had its turn; it proves itself first."""
        decided = self._control.decided
        last = decided.routing(self._pipeline)
        now = last.routing if last else Routing(champion=self._at_start)
        had_turn = {change.routing.champion for change in decided.changes.get(self._pipeline, ())}
        newest = self._newest()
        if (
            newest is None
            or now.is_pinned
            or newest in had_turn | self._tried | {now.champion, now.challenger}
        ):
            return
        self._tried.add(newest)
        try:
            self._scorer(newest, self._router.serving)
        except _REFUSALS as error:
            self._logger.error("the newest version is left where it is", version=newest, why=str(error))
            return
        by = f"poll of {self.worker}"
        self._offer_change("promote", "newest in the repository", by=by, version=newest)

    def _offer_change(self, action: str, why: str, *, by: str, version: str | None = None) -> None:
        change = next_change(
            self._control.decided, self._pipeline, self._at_start, action, by=by, why=why, version=version
        )
        self._writer.change(change)  # whether it is in force, the topic says: another may have come first

    def _tell(self) -> None:
        self._told_s = time.monotonic()
        serving = self._router.serving
        challenger = serving.challenger.card.version if serving.challenger else None
        self._meter.serving(
            serving.champion.card.version,
            challenger,
            is_shadow=serving.is_shadow,
            is_refused=bool(self._refused),
        )
        self._writer.status(
            Status(
                pipeline=self._pipeline,
                worker=self.worker,
                revision=serving.revision,
                champion=serving.champion.card.version,
                challenger=challenger,
                refused=self._refused,
                at_ms=time.time_ns() // 1_000_000,
            )
        )
