"""Watches what the model is given and what it says, and tells when that has changed, and when it is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from worker.bad_readings import BadReadings, Edge
from worker.batch import Batch, Features
from worker.config import LookupFeature, Pipeline, ProfileFeature
from worker.degradation import CPU, WHOLE
from worker.drift import Bins, Drift, DriftPolicy, Judgement, bins_of
from worker.metrics import Meter
from worker.model_file import ModelCard, Reference
from worker.plan import FeaturePlan
from worker.privacy import Privacy, hashed
from worker.watch_kernels import comes_again, gather
from worker.watch_types import DriftOptions

SCORE, EVENT = "score", "event"  # what is no feature
_UNKNOWN, _CALM, _RAISED = -1, 0, 1
_OF_EVENTS = ("INCOMPLETE", "DEGRADED")


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Something of an event whose share is watched."""

    kind: str  # DEFAULT, INCOMPLETE or DEGRADED
    subject: str
    usual: float
    column: int = -1  # of a default: the scalar column, and...
    default: float = 0.0  # ...the value that stands in


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Watched:
    """What of a batch goes into the drift statistics of one model version."""

    bins: Bins  # of the scalar columns, then the newest readings of sequences, then the score
    scalars: NDArray[np.int64]  # columns of Features.scalars
    readings: tuple[tuple[str, int], ...]  # sequence, channel
    has_score: bool
    counted: tuple[Counted, ...]  # defaults first, then INCOMPLETE and DEGRADED
    default_columns: NDArray[np.int64]  # (d,) of Features.scalars
    defaults: NDArray[np.float64]  # (d,)


def watched_columns(
    plan: FeaturePlan, card: ModelCard, options: DriftOptions, counted: tuple[Counted, ...]
) -> Watched:
    """Choose the columns: those asked for, or all with a distribution in the card but the calendar's.

    What the calendar says is known beforehand, and a window of events is mostly of one part of the week.
    """
    calendars = {plan.names[column] for column, _ in plan.calendars}
    known = {name: reference for name, reference in card.reference.items() if reference.shares}
    asked = (
        options.features if options.features is not None else tuple(n for n in known if n not in calendars)
    )
    scalars = [name for name in asked if name in known and name in plan.names]
    channels = {f"{s.name}.{field}": (s.name, i) for s in plan.sequences for i, field in enumerate(s.fields)}
    readings = [name for name in asked if name in known and name in channels]
    references = [known[name] for name in (*scalars, *readings)]
    score = card.reference_score
    has_score = score is not None and bool(score.shares)
    if score is not None and has_score:
        references.append(score)
    return Watched(
        bins=bins_of(
            (*scalars, *readings, *([SCORE] if has_score else [])), [_histogram(r) for r in references]
        ),
        scalars=np.array([plan.names.index(name) for name in scalars], np.int64),
        readings=tuple(channels[name] for name in readings),
        has_score=has_score,
        counted=tuple(_with_usual(thing, card) for thing in counted),
        default_columns=np.array([thing.column for thing in counted if thing.kind == "DEFAULT"], np.int64),
        defaults=np.array([thing.default for thing in counted if thing.kind == "DEFAULT"], np.float64),
    )


def tolerances(watched: Watched, options: DriftOptions) -> NDArray[np.float64]:
    """(k,) how far the mean rank of each column may be from one half."""
    tolerance = np.full(len(watched.bins), options.tolerance)
    if watched.has_score:
        tolerance[-1] = options.score_tolerance
    return tolerance


def _histogram(reference: Reference) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return reference.edges, reference.shares


def _with_usual(thing: Counted, card: ModelCard) -> Counted:
    reference = card.reference.get(thing.subject)
    usual = thing.usual if reference is None else reference.default_share
    return Counted(
        kind=thing.kind, subject=thing.subject, usual=usual, column=thing.column, default=thing.default
    )


def counted_things(pipeline: Pipeline, plan: FeaturePlan) -> tuple[Counted, ...]:
    """The defaults that stand in for what is looked up, and events not made of exact features."""
    things = []
    for column, name in enumerate(plan.names):
        feature = pipeline.features.get(name.partition(".")[0])
        if isinstance(feature, LookupFeature | ProfileFeature):
            things.append(
                Counted(kind="DEFAULT", subject=name, usual=0.0, column=column, default=feature.default)
            )
    things += [Counted(kind=kind, subject=EVENT, usual=0.0) for kind in _OF_EVENTS]
    return tuple(things)


class Watcher:
    """The statistics of one worker's scored events, and which of its alerts stand; it starts knowing nothing.

    The first judgement over a whole window is told of everything, so that readers know how it stands, however
    the worker before it ended; after that, only changes are.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        plan: FeaturePlan,
        meter: Meter,
        worker: str,
        privacy: Privacy | None = None,
    ) -> None:
        """Begin empty.

        Args:
            pipeline: with a section watch.
            plan: of the same pipeline.
            meter: gets the statistics.
            worker: what alerts call this worker.
            privacy: whether keys are hashed.
        """
        assert pipeline.watch is not None
        self._pipeline, self._plan, self._meter, self._worker = pipeline.name, plan, meter, worker
        self._options = pipeline.watch.drift
        self._counted = counted_things(pipeline, plan)
        self._privacy = privacy
        self._card: ModelCard | None = None
        self._watched: Watched | None = None
        self._drift: Drift | None = None
        self._said: dict[str, NDArray[np.int8]] = {}  # by kind, how its subjects stood when last told
        self._next_offset = np.zeros(0, np.int64)  # by partition
        self._bad = BadReadings(plan.quality.fields if plan.quality is not None else ())
        self._log = structlog.get_logger(pipeline=pipeline.name)

    def look(
        self,
        card: ModelCard,
        batch: Batch,
        scores: NDArray[np.float32],
        now_us: int,
        is_other: NDArray[np.bool_] | None = None,
    ) -> list[dict[str, Any]]:
        """Count a scored batch; the alerts to publish, as rows of watch_alert.avsc.

        Args:
            card: of the model that gave the scores; another than before begins anew.
            batch: in offset order.
            scores: (n,) not finite where there is none.
            now_us: when they were scored.
            is_other: (n,) another model gave the score: of these only the readings are looked at.
        """
        alerts: list[dict[str, Any]] = []
        if self._card is not None and self._card.version != card.version:
            alerts += self._void(int(batch.events.event_us.max()), now_us)
        if self._comes_again(batch) or self._card is not card:
            self._begin(card)
        alerts += [self._of_reading(edge, card, now_us) for edge in self._bad.edges(batch)]
        fresh = ~batch.features.is_muted
        if is_other is not None:
            fresh &= ~is_other
        if self._drift is not None and self._watched is not None and fresh.any():
            x, is_whole, hits = self._columns(batch.features, scores, self._watched)
            if not fresh.all():
                x, is_whole, hits = x[fresh], is_whole[fresh], hits[fresh]
            newest_us = int(batch.events.event_us.max())
            for judgement in self._drift.add(x, is_whole, hits):
                alerts += self._judged(judgement, card, newest_us, now_us)
        return alerts

    def _comes_again(self, batch: Batch) -> bool:
        """Whether some of it was looked at before: lanes were taken again, and what was told is void."""
        missing = max(batch.events.next_offsets, default=-1) + 1 - len(self._next_offset)
        if missing > 0:
            self._next_offset = np.append(self._next_offset, np.zeros(missing, np.int64))
        records = batch.events.records
        return bool(comes_again(records.partition, records.offset, self._next_offset))

    def _void(self, newest_us: int, now_us: int) -> list[dict[str, Any]]:
        """The alerts of a version that serves no longer are over: nobody looks at it any more."""
        card, watched = self._card, self._watched
        assert card is not None
        alerts = []
        for kind, said in self._said.items() if watched is not None else ():
            assert watched is not None
            for at in np.flatnonzero(said == _RAISED).tolist():
                what = kind or watched.counted[at].kind
                subject = watched.bins.names[at] if kind else watched.counted[at].subject
                alerts.append(
                    self._alert(
                        card,
                        kind=what,
                        subject=subject,
                        key=None,
                        lifecycle="CLEARED",
                        event_time=newest_us,
                        scored_at=now_us,
                        observed=None,
                        usual=None,
                        limit=None,
                        events=0,
                        reason=f"version {card.version} serves no longer",
                    )
                )
        self._meter.forget_drift(card.version)
        return alerts

    def _begin(self, card: ModelCard) -> None:
        self._card, self._said = card, {}
        self._bad.forget()
        if self._options is None:
            return
        options = self._options
        watched = watched_columns(self._plan, card, options, self._counted)
        if not len(watched.bins):
            self._log.warning("drift is not watched, the card has no reference", version=card.version)
            self._drift = self._watched = None
            return
        policy = DriftPolicy(
            window_events=options.window_events,
            psi=options.psi,
            tolerance=options.tolerance,
            false_alarm_events=options.false_alarm_events,
        )
        usual = np.array([thing.usual for thing in watched.counted])
        self._watched = watched
        self._drift = Drift(watched.bins, tolerances(watched, options), usual, policy)
        self._meter.watch_version(card.version, watched.bins.names)

    @staticmethod
    def _columns(
        features: Features, scores: NDArray[np.float32], watched: Watched
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
        """What Drift.add takes: values, which events they are exact of, and what is counted."""
        n, k = len(scores), len(watched.scalars)
        x = np.empty((n, len(watched.bins)), np.float32)
        hits = np.empty((n, len(watched.counted)), np.bool_)
        gather(features.scalars, watched.scalars, watched.default_columns, watched.defaults, x, hits)
        for at, (sequence, channel) in enumerate(watched.readings, k):
            x[:, at] = features.sequences[sequence][:, -1, channel]
        if watched.has_score:
            x[:, -1] = np.where(np.isfinite(scores), scores, np.nan)
        is_own = (features.degradation == WHOLE) | (features.degradation == CPU)
        hits[:, -2], hits[:, -1] = features.incomplete, features.degradation != WHOLE
        return x, is_own & ~features.incomplete, hits

    def _judged(
        self, judgement: Judgement, card: ModelCard, newest_us: int, now_us: int
    ) -> list[dict[str, Any]]:
        assert self._watched is not None
        assert self._drift is not None
        names, counted, policy = self._watched.bins.names, self._watched.counted, self._drift.policy
        self._meter.drift(judgement.psi, judgement.mean_rank)
        k = len(names)
        share, shares = [policy.tolerance] * k, [policy.tolerance] * len(counted)
        stand = (
            ("SHIFT", judgement.has_shifted, judgement.mean_rank, [0.5] * k, self._drift.tolerance.tolist()),
            ("PSI", judgement.is_apart, judgement.psi, [None] * k, [policy.psi] * k),
            ("MISSING", judgement.is_missing, judgement.missing, [0.0] * k, share),
            ("", judgement.is_frequent, judgement.rates, [thing.usual for thing in counted], shares),
        )
        alerts = []
        is_full = judgement.events >= policy.window_events
        for kind, now, observed, usual, limits in stand:
            said = self._said.setdefault(kind, np.full(len(now), _UNKNOWN, np.int8))
            changed = (now & (said != _RAISED)) | (~now & (said == _RAISED))
            if is_full:
                changed |= said == _UNKNOWN
            for at in np.flatnonzero(changed).tolist():
                said[at] = _RAISED if now[at] else _CALM
                value = float(observed[at])
                what = kind or counted[at].kind
                subject = names[at] if kind else counted[at].subject
                self._meter.drift_alarm(card.version, subject, what, is_raised=bool(now[at]))
                alerts.append(
                    self._alert(
                        card,
                        kind=what,
                        subject=subject,
                        key=None,
                        lifecycle="RAISED" if now[at] else "CLEARED",
                        event_time=newest_us,
                        scored_at=now_us,
                        observed=value if np.isfinite(value) else None,
                        usual=usual[at],
                        limit=limits[at],
                        events=judgement.events,
                        reason=_sentence(what, subject, value, usual[at], limits[at], judgement.events),
                    )
                )
        return alerts

    def _of_reading(self, edge: Edge, card: ModelCard, now_us: int) -> dict[str, Any]:
        key = edge.key.decode()
        if self._privacy is not None and self._privacy.in_alerts and self._privacy.is_key_personal:
            key = hashed(edge.key, self._privacy.hash_key)
        return self._alert(
            card,
            kind=edge.kind,
            subject=edge.field,
            key=key,
            lifecycle="RAISED" if edge.is_raised else "CLEARED",
            event_time=edge.event_us,
            scored_at=now_us,
            observed=None,
            usual=None,
            limit=None,
            events=1,
            reason=f"{edge.field}: {edge.text}"
            if edge.is_raised
            else f"{edge.field} is as it should be again",
        )

    def _alert(self, card: ModelCard, **fields: Any) -> dict[str, Any]:
        place = [self._pipeline, self._worker, card.version, fields["kind"], fields["subject"]]
        return {
            "alert_id": "/".join([*place, *([fields["key"]] if fields["key"] is not None else [])]),
            "pipeline": self._pipeline,
            "worker": self._worker,
            "model": card.name,
            "model_version": card.version,
            **fields,
        }


def _sentence(kind: str, subject: str, value: float, usual: float | None, limit: float, events: int) -> str:
    over = f"over the last {events:,} events"
    if kind == "PSI":
        return f"PSI of {subject} is {value:.3g} {over}, the limit {limit:g}"
    what = {
        "SHIFT": f"mean rank of {subject} among the training rows",
        "MISSING": f"share of events without {subject}",
        "DEFAULT": f"share of events with the default of {subject}",
        "INCOMPLETE": "share of events with incomplete windows",
        "DEGRADED": "share of degraded scores",
    }[kind]
    return f"{what} is {value:.3g} {over}, usually {usual:.3g}, give or take {limit:g}"
