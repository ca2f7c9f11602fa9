"""The card of a version that is made of others, and which models it is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass as plain
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from worker.interval import Interval
from worker.key_types import NAME, VERSION, Number, Text, wrong
from worker.model_file import (
    CARD_FILE,
    SECTION,
    ModelCard,
    ModelInput,
    Reference,
    check_sha256,
    load_model_card,
    read_card,
)
from worker.typed_yaml import parse

MEMBER = f"^{NAME.strip('^$')}/{VERSION.strip('^$')}$"


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class Member:
    """One of the models."""

    model: Annotated[str, Field(pattern=MEMBER)]  # NAME/VERSION in the same repository
    weight: Annotated[Number, Field(gt=0)] = 1.0  # of an ensemble
    when: Text | None = None  # of segments: a comparison of features; None: every other event


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class CompositeOutput:
    """What the score means."""

    meaning: Literal["probability", "remaining_life", "anomaly_score"]


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class _CompositeFile:
    """What the card of such a version says."""

    name: Annotated[str, Field(pattern=NAME)]
    version: Annotated[str, Field(pattern=VERSION)]
    description: Text
    combine: Literal["ensemble", "cascade", "segments"]
    members: Annotated[tuple[Member, ...], Field(min_length=2)]
    above: Number | None = None  # of a cascade: a first score from here on is asked of the second model
    output: CompositeOutput
    reference: Mapping[str, Reference] = Field(default_factory=dict)
    interval: Interval | None = None
    reference_score: Reference | None = None
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


@plain(frozen=True, slots=True, kw_only=True)
class CompositeCard:
    """A version that is made of others: models/NAME/VERSION/model.yaml, as it was when it was read."""

    file: _CompositeFile
    sha256: str  # of the card and of all that it is made of
    inputs: tuple[ModelInput, ...]  # of all members
    folders: tuple[Path, ...]  # of the members, in their order

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def version(self) -> str:
        return self.file.version

    @property
    def description(self) -> str:
        return str(self.file.description)

    @property
    def folder(self) -> Path:
        return self.file.folder

    @property
    def combine(self) -> str:
        return self.file.combine

    @property
    def members(self) -> tuple[Member, ...]:
        return self.file.members

    @property
    def above(self) -> float | None:
        return self.file.above

    @property
    def output(self) -> CompositeOutput:
        return self.file.output

    @property
    def reference(self) -> Mapping[str, Reference]:
        return self.file.reference

    @property
    def reference_score(self) -> Reference | None:
        return self.file.reference_score

    @property
    def interval(self) -> Interval | None:
        return self.file.interval


CARD: TypeAdapter[_CompositeFile] = TypeAdapter(_CompositeFile)


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
    written = parse(document, CARD, folder=folder)
    folders = tuple(folder.parent.parent / member.model for member in written.members)
    whole, inputs = hashlib.sha256((folder / CARD_FILE).read_bytes()), list[ModelInput]()
    for at, member in enumerate(folders):
        named = written.members[at].model
        if not (member / CARD_FILE).is_file():
            raise document.error(("members", at, "model"), named, "a version in the same repository")
        of_member = load_model_card(member)
        if of_member.output.meaning != written.output.meaning:
            found = f"{named}, whose score is a {of_member.output.meaning}"
            raise document.error(("members", at, "model"), found, f"a {written.output.meaning}")
        check_sha256(of_member)
        whole.update(of_member.sha256.encode())
        inputs += of_member.inputs
    return CompositeCard(file=written, sha256=whole.hexdigest(), inputs=tuple(inputs), folders=folders)


def read_cards(folder: Path) -> tuple[CompositeCard | None, tuple[ModelCard, ...]]:
    """The card of a version, where it is made of others, and those of the models that are asked.

    Raises:
        ConfigError: see `load_composite_card` and `load_model_card`.
    """
    if not is_composite(folder):
        return None, (load_model_card(folder),)
    card = load_composite_card(folder)
    return card, tuple(map(load_model_card, card.folders))


def check_files(folder: Path) -> None:
    """Check that a version is whole, and so is all that it is made of.

    Raises:
        ConfigError: it is not.
    """
    for card in read_cards(folder)[1]:
        check_sha256(card)


def in_words(card: CompositeCard) -> str:
    """One line for people."""
    made = {
        "ensemble": ", ".join(f"{member.model} (weight {member.weight:g})" for member in card.members),
        "cascade": f"{card.members[0].model}, from {card.above} on {card.members[-1].model}",
        "segments": "; ".join(f"{m.model} {f'when {m.when}' if m.when else 'else'}" for m in card.members),
    }[card.combine]
    return f"{card.name} version {card.version}, {card.combine} of {made}: {card.description}"
