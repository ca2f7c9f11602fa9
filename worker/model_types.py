"""What a pipeline file may say of its model and of what becomes of scores, one field a key."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from worker.feature_types import SECTION
from worker.key_types import FEATURE_NAME, NAME, VERSION, DurationUs, Flag, Number, Repository, Text, wrong
from worker.repository import fetch, version_folder


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class ModelRef:
    """Which model version scores the events, and where it runs."""

    name: str = Field(pattern=NAME, description="Folder of the model in the repository.")
    version: str = Field(pattern=VERSION, description="Folder of the version.")
    repository: Repository = Field(
        default=Path("../models"),
        validate_default=True,
        description="Models, `NAME/VERSION/model.yaml` and what it names: a folder, relative to this file, "
        "or a URL of `s3://`, `gs://`, `https://`, `file://`.",
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|(cuda|tensorrt):[0-9]{1,3})$",
        description="`auto`, `cpu`, `cuda:N` or `tensorrt:N`; not `auto`: fails when it cannot run there.",
    )
    when_device_fails: Literal["stop", "cpu"] = Field(
        default="stop",
        description="When the GPU fails while running: `stop` (exit code 9), or go on on the `cpu`.",
    )
    when_model_fails: Literal["stop", "rules"] = Field(
        default="stop",
        description="When the model stops working while running: `stop` (exit code 4), or score by `rules`.",
    )
    rules: Text | None = Field(
        default=None,
        description="What stands in for the model: comparisons of features, `amount > 220 or night > 0`.",
    )
    rules_score: tuple[Number, Number] = Field(
        default=(0.0, 1.0),
        description="Score of an event where `rules` do not hold, and where they do.",
    )

    def __post_init__(self) -> None:
        if self.when_model_fails == "rules" and self.rules is None:
            raise wrong("nothing", "the rules that stand in, as when_model_fails is rules", "rules")

    @property
    def folder(self) -> Path:
        """The folder of this version, which has to be fetched first where it comes from a URL."""
        return version_folder(self.repository, self.name, self.version)

    def fetched(self) -> Path:
        """The same, with everything in it.

        Raises:
            RepositoryError: see `fetch`.
        """
        return fetch(self.repository, self.name, self.version)


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class DecisionRule:
    """What an expression over features and score does to the severity that the score asks for."""

    when: Text = Field(description="Comparisons of features and `score`, `amount < 5 and score < 0.95`.")
    combine: Literal["and", "or", "override"] = Field(
        description="Where `when` holds, and else not: `and` lets the score alert, `or` alerts whatever the "
        "score, `override` has the last word."
    )
    severity: str | None = Field(
        default=None,
        pattern=FEATURE_NAME,
        description="`or`: at least this one. `override`: this one, or `none`. `and`: this one and worse "
        "ones need the rule; by default all do.",
    )

    def __post_init__(self) -> None:
        if self.severity is None and self.combine != "and":
            raise wrong("nothing", f"the severity, as combine is {self.combine}", "severity")


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class Decision:
    """When a score becomes an alert."""

    alert_when: Literal["above", "below"] = Field(
        default="above", description="Which side of a threshold raises: at or `above`, at or `below`."
    )
    severities: dict[Annotated[str, Field(pattern=FEATURE_NAME)], Number] = Field(
        min_length=1, description="Threshold of each severity, the least urgent first."
    )
    cooldown_us: DurationUs | None = Field(
        default=None,
        description="One alert per key within this event time, unless the severity rises.",
    )
    clear_margin: Annotated[Number, Field(ge=0)] | None = Field(
        default=None,
        description="Raise once, clear when the score is back by this much. Either this or `cooldown`.",
    )
    on: Literal["score", "low", "high"] = Field(
        default="score",
        description="What meets the thresholds: the `score`, or the `low` or `high` end of its interval.",
    )
    needs_complete: Flag = Field(
        default=False,
        description="An event whose features are `incomplete` is scored, but neither raises nor clears.",
    )
    rules: dict[Annotated[str, Field(pattern=FEATURE_NAME)], DecisionRule] = Field(
        default_factory=dict, description="Expressions beside the model, by name: what they do to a severity."
    )

    reasons: Literal["model", "deviation"] = Field(
        default="model",
        description="Why an alert: what the `model` makes of each feature; or only its `deviation` from the "
        "usual, for which the model does not run again.",
    )

    def __post_init__(self) -> None:
        for (before, low), (name, high) in pairwise(self.severities.items()):
            if high <= low if self.alert_when == "above" else high >= low:
                side = "above" if self.alert_when == "above" else "below"
                raise wrong(
                    "", f"a threshold {side} {low}, that of the less urgent {before}", "severities", name
                )
        if (self.cooldown_us is None) == (self.clear_margin is None):
            found = "neither" if self.cooldown_us is None else "both"
            raise wrong(f"{found} of cooldown and clear_margin", "exactly one of them")
        for name, rule in self.rules.items():
            known = [*self.severities, *(["none"] if rule.combine == "override" else [])]
            if rule.severity is not None and rule.severity not in known:
                raise wrong(f'"{rule.severity}"', f"one of {', '.join(known)}", "rules", name, "severity")
        if self.rules and "none" in self.severities:
            raise wrong("none", "another name, as a rule says none where nothing is to alert", "severities")
