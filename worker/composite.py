"""Several models as one version: an ensemble, a cascade, or one model for each segment of the events.

Like any version it is promoted, compared and taken back as a whole; what each member is asked depends on the
event alone, so an event has the same score in every batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.batch import Features
from worker.composite_card import CompositeCard, is_composite, load_composite_card
from worker.infer import Feed, Model, check_golden, infer, load_model, seconds_for, settle
from worker.model_file import read_card
from worker.plan import FeaturePlan
from worker.rules import RuleError, parse_rule


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Composite:
    """Its loaded, checked and warm members."""

    card: CompositeCard
    members: tuple[Model, ...]
    holds: tuple[Callable[[NDArray[np.float64]], NDArray[np.bool_]] | None, ...]  # of each, see Member.when
    asked: NDArray[np.int64]  # (members,) events that each was asked for, counted up

    trees: None = None  # what explains one model exactly; of several there is none

    @property
    def feeds(self) -> tuple[Feed, ...]:
        """Of all members."""
        return tuple(feed for model in self.members for feed in model.feeds)

    @property
    def device(self) -> str:
        """Where the first one runs."""
        return self.members[0].device


Version = Model | Composite


def load_composite(folder: Path, plan: FeaturePlan, device: str) -> Composite:
    """Load all members, each proved on its device and warm.

    Raises:
        ModelError, ConfigError: see `load_model` and `load_composite_card`.
    """
    card = load_composite_card(folder)
    holds = []
    for at, member in enumerate(card.members):
        try:
            holds.append(None if member.when is None else parse_rule(str(member.when), plan.names))
        except RuleError as error:
            raise read_card(folder).error(("members", at, "when"), error.found, error.expected) from error
    return Composite(
        card=card,
        members=tuple(load_model(each, plan, device) for each in card.folders),
        holds=tuple(holds),
        asked=np.zeros(len(card.members), np.int64),
    )


def load_version(folder: Path, plan: FeaturePlan, device: str) -> Version:
    """Load whatever the version is: see `load_model` and `load_composite`."""
    return load_composite(folder, plan, device) if is_composite(folder) else load_model(folder, plan, device)


def scores_by(version: Version, features: Features) -> NDArray[np.float32]:
    """(n,) scores; not finite where a model that was asked could not say. Raises as `infer`."""
    if isinstance(version, Model):
        return infer(version, features)
    n = len(features.scalars)
    if version.card.combine == "ensemble":
        weights = np.array([member.weight for member in version.card.members])
        version.asked[:] += n
        each = np.stack([infer(model, features) for model in version.members]).astype(np.float64)
        return np.asarray((weights @ each) / weights.sum(), np.float32)
    if version.card.combine == "cascade":
        scores = _ask(version, 0, features, np.arange(n))
        assert version.card.above is not None
        rows = np.flatnonzero(scores >= np.float32(version.card.above))
        scores[rows] = _ask(version, 1, features, rows)
        return scores
    scores, is_open = np.full(n, np.nan, np.float32), np.ones(n, np.bool_)
    for at, holds in enumerate(version.holds):
        rows = np.flatnonzero(is_open if holds is None else is_open & holds(features.scalars))
        is_open[rows] = False
        scores[rows] = _ask(version, at, features, rows)
    return scores


def _ask(version: Composite, member: int, features: Features, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    if not len(rows):
        return np.zeros(0, np.float32)
    version.asked[member] += len(rows)
    if len(rows) < len(features.scalars):
        sequences = {name: values[rows] for name, values in features.sequences.items()}
        features = replace(features, scalars=features.scalars[rows], sequences=sequences)
    return infer(version.members[member], features).copy()


def check_version(version: Version) -> None:
    """See `check_golden`: of every member."""
    for model in (version,) if isinstance(version, Model) else version.members:
        check_golden(model)


def settle_version(version: Version) -> Version:
    """See `settle`: of every member."""
    if isinstance(version, Model):
        return settle(version)
    return replace(version, members=tuple(settle(model) for model in version.members))


def seconds_of(version: Version, plan: FeaturePlan, rows: int) -> float:
    """See `seconds_for`; of a composite at most, when every member is asked for every event."""
    if isinstance(version, Model):
        # An accelerator's fixed buffers belong to the thread that scores.
        return seconds_for(replace(version, buckets=None), plan, rows)
    return sum(seconds_of(model, plan, rows) for model in version.members)
