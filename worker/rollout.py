"""Beside the loop: follows the control topic, loads versions, and offers those that proved themselves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future

import structlog
from confluent_kafka import KafkaException

from worker.background import in_background
from worker.comparison import Comparison, Flagged, Trip, precision_trip
from worker.control import (
    Change,
    ControlError,
    ControlLog,
    ControlWriter,
    Status,
    describe,
    history,
    next_change,
)
from worker.exits import StopWorker
from worker.metrics import Meter
from worker.router import Router, Serving
from worker.scoring import Scorer
from worker.session import ModelError

_LOOK_S = 0.1
_STATUS_EVERY_S = 10.0
_LABELS_EVERY_S = 10.0
_COMPARE_EVERY_S = 1.0
_RETRY_S = 60.0  # before what is decided and not served is tried again
_FRESH_MS = 60_000  # so old a change is taken back for all where one worker refuses it; later ones only there
_AGAIN_S = 1.0  # before Kafka is asked again after it refused

OpenScorer = Callable[[str], Scorer]  # of a version: fetched, checked, proved and warm
Compare = Callable[[], Comparison]
Check = Callable[
    [Scorer, Scorer], None
]  # the new one, beside the one that serves; ModelError: it may not serve
Labels = Callable[[], Mapping[str, Flagged]]  # what labels say of each version
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
        labels: Labels | None = None,
        precision_ratio: float | None = None,
        shadow: str | None = None,
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
        self._labels, self._precision_ratio = labels, precision_ratio
        self._looking: Future[Mapping[str, Flagged]] | None = None
        self._before: tuple[int, Mapping[str, Flagged]] = (-1, {})  # what was known when a revision began
        self._judged_s = 0.0
        self._shadow = shadow
        self._held: dict[str, Scorer] = {}
        for scorer in (router.serving.champion, router.serving.challenger):
            if scorer is not None:
                self._held[scorer.card.version] = scorer
        self._refused = ""
        self._tried: set[str] = set()  # newest versions that were looked at
        self._lost: set[str] = set()  # former versions that do not load
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{pipeline}-rollout", daemon=True)
        self._told_s = 0.0
        self._compared_s = 0.0
        self._retry_s = 0.0
        self._polled_s = time.monotonic()
        self._logger = structlog.get_logger(pipeline=pipeline)

    def start(self) -> None:
        """Follow from now on."""
        self._thread.start()

    def shadow_problem(self) -> str:
        """Why no version can be shadowed here; empty: one can."""
        if self._shadow is None:
            return "the pipeline file of this worker names no topic for it: rollout.shadow"
        return "" if self._control.has_topic(self._shadow) else f"there is no topic {self._shadow!r}"

    def close(self) -> None:
        """Follow no longer, and say so."""
        self._stop.set()
        self._thread.join(2.0)
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
        now_s = time.monotonic()
        decided = self._control.decided.routing(self._pipeline)
        if ours:
            self._take_up(ours[-1])
        elif decided and decided.revision != self._router.serving.revision and now_s >= self._retry_s:
            self._take_up(decided)
        while not self._router.trips.empty():
            revision, trip = self._router.trips.get()
            try:
                self._take_back(revision, trip)
            except ControlError:
                self._router.trips.put((revision, trip))
                raise
        self._keep_way_back()
        if self._poll_s is not None and now_s - self._polled_s >= self._poll_s:
            self._polled_s = now_s
            self._promote_newest()
        if now_s - self._told_s >= _STATUS_EVERY_S:
            self._tell()
        self._look_at_labels(now_s)
        serving = self._router.serving
        if serving.comparison is None or serving.challenger is None:
            return
        if now_s - self._compared_s >= _COMPARE_EVERY_S:
            self._compared_s = now_s
            self._meter.challenger(serving.challenger.card.version, serving.comparison.agreement())

    def _look_at_labels(self, now_s: float) -> None:
        """The guard on precision: of the labels that came since the canary did, to both versions."""
        serving, ratio = self._router.serving, self._precision_ratio
        if self._labels is None or ratio is None or serving.challenger is None or serving.is_shadow:
            return
        if self._looking is None:
            if now_s - self._judged_s >= _LABELS_EVERY_S:
                self._judged_s = now_s
                self._looking = in_background(self._labels, "labels")
            return
        if not self._looking.done():
            return
        looking, self._looking = self._looking, None
        try:
            found = looking.result()
        except (KafkaException, StopWorker) as error:
            self._logger.warning("no labels to judge by", error=str(error))
            return
        if self._before[0] != serving.revision:
            self._before = (serving.revision, found)
        since = [
            _increase(self._before[1].get(version), found.get(version))
            for version in (serving.champion.card.version, serving.challenger.card.version)
        ]
        self._router.note(serving, precision_trip(since[0], since[1], ratio))

    def _take_up(self, change: Change) -> None:
        """Offer what a change asks for, if it can serve."""
        serving = self._router.serving
        try:
            offered = self._loaded(change)
        except Exception as error:  # whatever fails in a version, what serves goes on
            self._refuse(change, str(error) or type(error).__name__)
            return
        self._router.offer(offered)
        wanted = {change.routing.champion, change.routing.challenger, *change.routing.before[-1:]}
        wanted |= {serving.champion.card.version}
        self._held = {version: scorer for version, scorer in self._held.items() if version in wanted}
        give_up_s = time.monotonic() + 5.0
        while not self._router.is_up_to_date and time.monotonic() < give_up_s:
            time.sleep(0.005)
        if self._router.refused[0] == change.revision:
            self._refuse(change, self._router.refused[1])
            return
        self._refused = ""
        self._logger.info(
            "routing", revision=change.revision, by=change.by, now=describe(change.routing), why=change.why
        )
        self._tell()

    def _keep_way_back(self) -> None:
        """Load the version before, so that a rollback need not; one that does not load is left out."""
        for version in self._control.decided.in_force(self._pipeline, self._at_start).before[-1:]:
            if version in self._held or version in self._lost:
                continue
            try:
                self._held[version] = self._open(version)
            except Exception as error:
                self._lost.add(version)
                self._logger.warning("no warm way back", version=version, why=str(error))

    def _refuse(self, change: Change, why: str) -> None:
        """Go on as before, say why, and let nobody else take up what cannot serve here."""
        is_first = not self._refused.startswith(f"revision {change.revision}:")
        self._refused = f"revision {change.revision}: {why}"
        self._retry_s = time.monotonic() + _RETRY_S
        self._tell()
        if not is_first:
            return
        self._logger.error("a change is refused, what served goes on", action=change.action, why=why)
        is_fresh = time.time_ns() // 1_000_000 - change.at_ms < _FRESH_MS
        if is_fresh and change.action in ("promote", "canary", "shadow"):
            self._offer_change(
                "rollback", f"refused: {why}", by=f"worker {self.worker}", after=change.revision
            )

    def _loaded(self, change: Change) -> Serving:
        routing, serving = change.routing, self._router.serving
        if routing.is_shadow and routing.challenger is not None and (why := self.shadow_problem()):
            raise ModelError(why)
        # On the way back nothing is asked of how fast it is: what it is compared with has failed.
        is_compared = change.action != "rollback"
        champion = self._scorer(routing.champion, serving, is_compared=is_compared)
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

    def _scorer(self, version: str, serving: Serving, *, is_compared: bool = True) -> Scorer:
        held = self._held.get(version)
        if held is None:
            held = self._open(version)
            if is_compared:
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
        why = f"{trip} (version {version})"
        self._offer_change("rollback", why, by=f"guard of {self.worker}", after=revision)

    def _promote_newest(self) -> None:
        """Offer the newest version of the repository, unless it has had its turn; it proves itself first."""
        decided = self._control.decided
        now = decided.in_force(self._pipeline, self._at_start)
        routings = [change.routing for change in history(decided, self._pipeline)]
        had_turn = {self._at_start, now.champion, *self._tried}
        had_turn |= {version for each in routings for version in (each.champion, each.challenger) if version}
        newest = self._newest()
        if newest is None or now.is_pinned or newest in had_turn:
            return
        self._tried.add(newest)
        try:
            self._scorer(newest, self._router.serving)
        except Exception as error:
            self._logger.error("the newest version is left where it is", version=newest, why=str(error))
            return
        by = f"poll of {self.worker}"
        self._offer_change("promote", "newest in the repository", by=by, version=newest)

    def _offer_change(
        self, action: str, why: str, *, by: str, version: str | None = None, after: int | None = None
    ) -> None:
        last = self._control.decided.routing(self._pipeline)
        if after is not None and (last is None or last.revision != after):
            return  # something else was decided since
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


def _increase(before: Flagged | None, now: Flagged | None) -> Flagged:
    (flagged, right), (flagged_before, right_before) = now or (0, 0), before or (0, 0)
    return max(0, flagged - flagged_before), max(0, right - right_before)
