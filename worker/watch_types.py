"""What a pipeline file may say of drift and of readings that no sensor can mean, one field a key."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from worker.feature_types import SECTION
from worker.key_types import DurationUs, FieldName, Int, Number, Text, wrong


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class DriftOptions:
    """How far what the model is given may be from what it was trained on; see docs/watch.md."""

    window_events: Int = Field(
        default=10_000, ge=1_000, le=10_000_000, description="Events that shares, means and PSI are over."
    )
    psi: Annotated[Number, Field(gt=0)] = Field(
        default=0.25, description="Raise when a feature's PSI reaches this; clear below half of it."
    )
    tolerance: Annotated[Number, Field(gt=0, le=0.4)] = Field(
        default=0.05,
        description="A mean rank, or a share of events, this far from the training rows' is no drift.",
    )
    score_tolerance: Annotated[Number, Field(gt=0, le=0.4)] = Field(
        default=0.1,
        description="The same for the mean rank of the score, which also moves with the hour and the weekday "
        "where the model reads them.",
    )
    false_alarm_events: Annotated[Number, Field(ge=10_000)] = Field(
        default=10_000_000,
        description="The test of one feature raises without cause once in so many events, or less often.",
    )
    features: tuple[Text, ...] | None = Field(
        default=None,
        description="Which features. Default: all that the card has a reference of, but the calendar's.",
    )


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class Reading:
    """What a sensor's reading can be; at least one check."""

    min: Number | None = Field(default=None, description="A reading below is out of range.")
    max: Number | None = Field(default=None, description="A reading above is out of range.")
    max_jump: Annotated[Number, Field(gt=0)] | None = Field(
        default=None, description="A reading further than this from the one before is a jump."
    )
    accept_after: Annotated[Int, Field(ge=1)] = Field(
        default=10, description="With `mask`, a jump that has lasted for so many readings is the new level."
    )
    stuck_events: Annotated[Int, Field(ge=2)] | None = Field(
        default=None, description="So many equal readings in a row: the value is stuck."
    )
    flat_for_us: Annotated[DurationUs, Field(ge=1)] | None = Field(
        default=None,
        description="No reading further than `flat_within` from this one for so long: a flat line.",
    )
    flat_within: Annotated[Number, Field(ge=0)] = Field(
        default=0.0, description="How far readings of a flat line may be apart."
    )
    max_gap_us: Annotated[DurationUs, Field(ge=1)] | None = Field(
        default=None, description="No reading for longer than this is a gap; what is beyond it is no jump."
    )
    policy: Literal["flag", "mask", "refuse"] = Field(
        default="flag",
        description="A bad reading: `flag` it only, `mask` it by the last good one, or `refuse` the event.",
    )

    def __post_init__(self) -> None:
        if not (self.has_range or self.needs_history):
            raise wrong("nothing to check", "one of min, max, max_jump, stuck_events, flat_for, max_gap")
        if self.min is not None and self.max is not None and self.min >= self.max:
            raise wrong(f"{self.min:g} to {self.max:g}", "a min below max", "min")
        if self.policy == "refuse" and self.max_jump is not None and self.max_gap_us is None:
            # A refused reading is not remembered: without an end, a new level would be refused for good.
            raise wrong("nothing", "a duration, after which a jump is the new level", "max_gap")

    @property
    def has_range(self) -> bool:
        """Whether a reading is judged by itself."""
        return self.min is not None or self.max is not None

    @property
    def needs_history(self) -> bool:
        """Whether a reading is judged by those before it."""
        return any(
            limit is not None
            for limit in (self.max_jump, self.stuck_events, self.flat_for_us, self.max_gap_us)
        )


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class WatchOptions:
    """What is watched beside the scores; each has alerts of its own on `outputs.watch`."""

    drift: DriftOptions | None = Field(
        default=None, description="Features and scores against the reference of the model's card."
    )
    quality: dict[FieldName, Reading] = Field(
        default_factory=dict, description="By event field, what a sensor's reading can be."
    )

    def __post_init__(self) -> None:
        if self.drift is None and not self.quality:
            raise wrong("neither", "drift, quality or both")
