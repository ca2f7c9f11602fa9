"""What a pipeline file may say of its model and of what becomes of scores, one field a key."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from worker.feature_types import SECTION
from worker.key_types import FEATURE_NAME, NAME, VERSION, DurationUs, Number, PathInFile, Text, wrong


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class ModelRef:
    """Which model version scores the events, and where it runs."""

    name: str = Field(pattern=NAME, description="Folder of the model in the repository.")
    version: str = Field(pattern=VERSION, description="Folder of the version.")
    repository: PathInFile = Field(
        default=Path("../models"),
        validate_default=True,
        description="Folder of models, relative to this file: `NAME/VERSION/model.onnx` and `model.yaml`.",
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
        """The folder of this version."""
        return self.repository / self.name / self.version


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
