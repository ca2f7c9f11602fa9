"""Several models as one version: an ensemble, a cascade, or one model for each segment of the events.

Like any version it is promoted, compared and taken back as a whole; what each member is asked depends on the
event alone, so an event has the same score in every batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass as checked

from worker.batch import Features
from worker.infer import Model, check_golden, infer, load_model, seconds_for, settle
from worker.interval import Interval
from worker.key_types import NAME, VERSION, Number, Text, wrong
from worker.model_file import CARD_FILE, SECTION, Reference, check_sha256, load_model_card, read_card
from worker.plan import FeaturePlan
from worker.rules import RuleError, parse_rule
from worker.typed_yaml import parse

_MEMBER = f"^{NAME.strip('^$')}/{VERSION.strip('^$')}$"


@checked(frozen=True, slots=True, kw_only=True, config=SECTION)
class Member:
    """One of the models."""

    model: Annotated[str, Field(pattern=_MEMBER)]  # NAME/VERSION in the same repository
    weight: Annotated[Number, Field(gt=0)] = 1.0  # of an ensemble
    when: Text | None = None  # of segments: a comparison of features; None: every other event


@checked(frozen=True, slots=True, kw_only=True, config=SECTION)
class CompositeOutput:
    """What the score means."""

    meaning: Literal["probability", "remaining_life"]


@checked(frozen=True, slots=True, kw_only=True, config=SECTION)
class CompositeCard:
    """A version that is made of others: models/NAME/VERSION/model.yaml, checked."""

    name: Annotated[str, Field(pattern=NAME)]
    version: Annotated[str, Field(pattern=VERSION)]
    description: Text
    combine: Literal["ensemble", "cascade", "segments"]
    members: Annotated[tuple[Member, ...], Field(min_length=2)]
    above: Number | None = None  # of a cascade: a first score from here on is asked of the second model
    output: CompositeOutput
    reference: Mapping[str, Reference] = Field(default_factory=dict)
    interval: Interval | None = None
    trained_on: Any = None
    metrics: Any = None
    folder: Path

    def __post_init__(self) -> None:
        if (self.above is None) == (self.combine == "cascade"):
            found = "nothing" if self.above is None else f"{self.above:g}"
            raise wrong(found, "a score for a cascade, and nothing for others", "above")
        if self.combine == "cascade" and len(self.members) != 2:
            raise wrong(f"{len(self.members)} models", "two: the first one, and the one above", "members")
        open_ended = [at for at, member in enumerate(self.members) if member.when is None]
        if self.combine == "segments" and open_ended != [len(self.members) - 1]:
            raise wrong("", "`when` at every member but the last, which has the rest", "members")
        if self.combine != "segments" and len(open_ended) < len(self.members):
            raise wrong("a member with `when`", "none, as combine is not segments", "members")

    @property
    def sha256(self) -> str:
        """Of the card and of all that it is made of."""
        whole = hashlib.sha256((self.folder / CARD_FILE).read_bytes())
        for folder in self.folders:
            whole.update(load_model_card(folder).sha256.encode())
        return whole.hexdigest()

    @property
    def folders(self) -> tuple[Path, ...]:
        """Of the members, in their order."""
        return tuple(self.folder.parent.parent / member.model for member in self.members)


CARD: TypeAdapter[CompositeCard] = TypeAdapter(CompositeCard)


def is_composite(folder: Path) -> bool:
    """Whether the version in this folder is made of others.

    Raises:
        ConfigError: there is no card.
    """
    return "combine" in (read_card(folder).value or {})


def load_composite_card(folder: Path) -> CompositeCard:
    """Read and check the card, and those of its members.

    Raises:
        ConfigError: one line, `FOLDER/model.yaml:LINE: key.path: found X, expected Y`.
    """
    document = read_card(folder)
    card = parse(document, CARD, folder=folder)
    for at, member in enumerate(card.folders):
        if not (member / CARD_FILE).is_file():
            found = card.members[at].model
            raise document.error(("members", at, "model"), found, "a version in the same repository")
        of_member = load_model_card(member)
        if of_member.output.meaning != card.output.meaning:
            found = f"{card.members[at].model}, whose score is a {of_member.output.meaning}"
            raise document.error(("members", at, "model"), found, f"a {card.output.meaning}")
        check_sha256(of_member)
    return card


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Composite:
    """Its loaded, checked and warm members."""

    card: CompositeCard
    members: tuple[Model, ...]
    holds: tuple[Callable[[NDArray[np.float64]], NDArray[np.bool_]] | None, ...]  # of each, see Member.when
    asked: NDArray[np.int64]  # (members,) events that each was asked for, counted up

    @property
    def device(self) -> str:
        """Where the first one runs."""
        return self.members[0].device


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


def load_version(folder: Path, plan: FeaturePlan, device: str) -> Model | Composite:
    """Load whatever the version is: see `load_model` and `load_composite`."""
    return load_composite(folder, plan, device) if is_composite(folder) else load_model(folder, plan, device)


def scores_by(version: Model | Composite, features: Features) -> NDArray[np.float32]:
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


def check_version(version: Model | Composite) -> None:
    """See `check_golden`: of every member."""
    for model in (version,) if isinstance(version, Model) else version.members:
        check_golden(model)


def settle_version(version: Model | Composite) -> Model | Composite:
    """See `settle`: of every member."""
    if isinstance(version, Model):
        return settle(version)
    return replace(version, members=tuple(settle(model) for model in version.members))


def seconds_of(version: Model | Composite, plan: FeaturePlan, rows: int) -> float:
    """See `seconds_for`; of a composite at most, when every member is asked for every event."""
    if isinstance(version, Model):
        return seconds_for(version, plan, rows)
    return sum(seconds_for(model, plan, rows) for model in version.members)
