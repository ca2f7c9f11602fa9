"""Why an alert: the features that moved its score most towards it, each with a sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from schemas.schema import Schema
from worker.batch import Batch
from worker.contributions import Compared, Usual, compared, contributions
from worker.decide import CLEARED, NONE, Decisions
from worker.infer import Model
from worker.model_file import ModelCard
from worker.plan import FeaturePlan
from worker.scoring import DeviceFailedError
from worker.sentences import Sentence, in_sequence, sentences
from worker.session import ModelError, first_line

Reasons = Mapping[int, list[dict[str, Any]]]  # row of the batch to records for alert.avsc

_TOP = 3
_FAR = 1.0  # standard deviations; nearer to the mean nothing stands out


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ReasonPlan:
    """How the alerts of a pipeline are explained; columns as in Usual."""

    names: tuple[str, ...]  # (f + c,)
    sentences: tuple[Sentence, ...]  # (f + c,)
    usual: Usual
    mean: NDArray[np.float64]  # (f + c,) of the training rows; NaN: not known
    std: NDArray[np.float64]  # (f + c,)
    alert_below: bool
    asks_model: bool  # False: only what is unusual is told, and the model never runs again for an alert


def reason_plan(
    plan: FeaturePlan, schema: Schema, card: ModelCard, *, alert_below: bool, asks_model: bool
) -> ReasonPlan:
    """Match the pipeline's features with what the card says of the training rows.

    Args:
        schema: of the pipeline's events.
    """
    said = sentences(plan, schema)
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
            is_read=np.array([name in read for name in names], np.bool_),
            channels=tuple(channels),
        ),
        mean=known("mean"),
        std=known("std"),
        alert_below=alert_below,
        asks_model=asks_model,
    )


def reasons(
    plan: ReasonPlan, batch: Batch, scores: NDArray[np.float32], decisions: Decisions, model: Model | None
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
    moved = found.contributions * (-1.0 if plan.alert_below else 1.0)
    moved[decisions.lifecycle[rows] == CLEARED] *= -1.0
    moved = np.where(moved > 0, moved, 0.0)  # NaN too
    weight = moved
    is_told: NDArray[np.bool_] = np.any(moved, axis=1)
    if not is_told.all():
        weight = np.where(is_told[:, None], moved, _unusual(plan, found))
    first = np.argsort(-weight, axis=1, kind="stable")[:, :_TOP].tolist()
    told: dict[int, list[dict[str, Any]]] = {}
    for at, (row, columns) in enumerate(zip(rows.tolist(), first, strict=True)):
        records = told[row] = []
        for column in columns:
            if not weight[at, column]:
                break
            value, usual = float(found.values[at, column]), float(found.usual[at, column])
            records.append(
                {
                    "feature": plan.names[column],
                    "value": value,
                    "usual": None if math.isnan(usual) else usual,
                    "contribution": float(found.contributions[at, column]) if is_told[at] else None,
                    "text": plan.sentences[column](value, usual),
                }
            )
    return told


def _found(
    plan: ReasonPlan,
    batch: Batch,
    rows: NDArray[np.int64],
    scores: NDArray[np.float32],
    model: Model | None,
) -> Compared:
    if plan.asks_model and model is not None:
        try:
            return contributions(model, batch.features, rows, scores, plan.usual)
        except (DeviceFailedError, ModelError) as error:
            # The alerts are decided and go out; what becomes of the model is for the next batch to find out.
            structlog.get_logger().warning("alerts go without contributions", why=first_line(error))
    return compared(batch.features, rows, plan.usual)


def _unusual(plan: ReasonPlan, found: Compared) -> NDArray[np.float64]:
    """(k, f + c) how far each value is from the mean, in standard deviations; 0: not far, or not known."""
    with np.errstate(divide="ignore", invalid="ignore"):
        far = np.abs(found.values - plan.mean) / plan.std
    return np.where((plan.std > 0) & (far > _FAR), far, 0.0)
