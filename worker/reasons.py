"""Why an alert: the features that moved its score most towards it, each with a sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from schemas.schema import Schema
from worker.batch import Batch
from worker.composite import Version
from worker.composite_card import CompositeCard
from worker.contributions import Compared, Usual, compared, contributions
from worker.decide import CLEARED, NONE, Decisions
from worker.model_file import ModelCard
from worker.plan import FeaturePlan
from worker.reason_kernels import laid_out, leading, questions
from worker.scoring import DeviceFailedError
from worker.sentences import Sentence, in_sequence, sentences
from worker.session import ModelError, first_line

Reasons = Mapping[int, list[dict[str, Any]]]  # row of the batch to records for alert.avsc

_TOP = 3


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ReasonPlan:
    """How the alerts of a pipeline are explained; columns as in Usual."""

    names: tuple[str, ...]  # (f + c,)
    sentences: tuple[Sentence, ...]  # (f + c,)
    usual: Usual
    mean: NDArray[np.float64]  # (f + c,) of the training rows; NaN: not known
    alert_below: bool
    asks_model: bool  # False: only what is unusual is told, and the model never runs again for an alert


def reason_plan(
    plan: FeaturePlan, schema: Schema, card: ModelCard | CompositeCard, *, alert_below: bool, asks_model: bool
) -> ReasonPlan:
    """Match the pipeline's features with what the card says of the training rows.

    Args:
        schema: of the pipeline's events.
    """
    said = sentences(plan, schema, {name: entry.p50 for name, entry in card.reference.items()})
    read = {name for entry in card.inputs for name in entry.features}
    eaten = {entry.sequence for entry in card.inputs}
    names, channels = list(plan.names), []
    for sequence in plan.sequences:
        for channel, field in enumerate(sequence.fields):
            name = f"{sequence.name}.{field}"
            names.append(name)
            channels.append((sequence.name, channel))
            if sequence.name in eaten:
                read.add(name)
            if name not in card.reference:
                said[name] = in_sequence(field, sequence.length)

    def known(key: str) -> NDArray[np.float64]:
        return np.array([getattr(card.reference.get(name), key, np.nan) for name in names], np.float64)

    return ReasonPlan(
        names=tuple(names),
        sentences=tuple(said[name] for name in names),
        usual=Usual(
            p50=known("p50"),
            std=known("std"),
            is_read=np.array([name in read for name in names], np.bool_),
            channels=tuple(channels),
        ),
        mean=known("mean"),
        alert_below=alert_below,
        asks_model=asks_model,
    )


PlanReasons = Callable[[ModelCard | CompositeCard], ReasonPlan]


def planner(plan: FeaturePlan, schema: Schema, *, alert_below: bool, asks_model: bool) -> PlanReasons:
    """A function from a version's card to its plan, which is made once; see `reason_plan`."""
    _warm()
    made: dict[str, ReasonPlan] = {}

    def of(card: ModelCard | CompositeCard) -> ReasonPlan:
        key = f"{card.version} {card.sha256}"
        if key not in made:
            made[key] = reason_plan(plan, schema, card, alert_below=alert_below, asks_model=asks_model)
        return made[key]

    return of


def _warm() -> None:
    """Compile what would otherwise be compiled at the first alert."""
    none, row = np.zeros((0, 1)), np.zeros(1)
    laid_out(none, np.zeros(0, np.int64), row, row)
    questions(none, none, none, np.zeros(1, np.bool_), 1, 1, none)
    leading(none, np.zeros(0, np.bool_), 1.0, none, none, row, row, _TOP)


def reasons(
    plan: ReasonPlan, batch: Batch, scores: NDArray[np.float32], decisions: Decisions, model: Version | None
) -> Reasons:
    """The reasons of each alert of a batch that will be published, most important first, at most three.

    They are the features with the largest contribution in the direction of the alert: towards its threshold,
    or away from it for one that is cleared. An alert for which the model knows none (rules gave its score,
    it fails, no median is known, or no single feature matters) gets what is furthest from the mean of the
    training rows, in standard deviations, without a contribution.

    Args:
        scores: (n,) of the batch.
        model: what gave the scores, in the thread that it belongs to; None: rules did.
    """
    wanted = (decisions.lifecycle != NONE) & ~batch.features.is_muted
    if not wanted.any():
        return {}
    rows = np.flatnonzero(wanted)
    found = _found(plan, batch, rows, scores, model)
    leaders = leading(
        found.contributions,
        decisions.lifecycle[rows] == CLEARED,
        -1.0 if plan.alert_below else 1.0,
        found.values,
        found.usual,
        plan.mean,
        plan.usual.std,
        _TOP,
    ).tolist()
    return {
        row: [_record(plan, *leader) for leader in those if leader[0] >= 0]
        for row, those in zip(rows.tolist(), leaders, strict=True)
    }


def _record(plan: ReasonPlan, column: float, value: float, usual: float, moved: float) -> dict[str, Any]:
    at = int(column)
    return {
        "feature": plan.names[at],
        "value": value,
        "usual": None if isnan(usual) else usual,
        "contribution": None if isnan(moved) else moved,
        "text": plan.sentences[at](value, usual),
    }


def _found(
    plan: ReasonPlan,
    batch: Batch,
    rows: NDArray[np.int64],
    scores: NDArray[np.float32],
    model: Version | None,
) -> Compared:
    if plan.asks_model and model is not None:
        try:
            return contributions(model, batch.features, rows, scores, plan.usual)
        except (DeviceFailedError, ModelError) as error:
            # The alerts are decided and go out; what becomes of the model is for the next batch to find out.
            structlog.get_logger().warning("alerts go without contributions", why=first_line(error))
    return compared(batch.features, rows, plan.usual)
