"""What a pipeline file may compute: the kinds of feature, as frozen dataclasses, one field a key."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from worker.key_types import (
    FEATURE_NAME,
    UNITS_US,
    DurationMs,
    DurationUs,
    FieldName,
    Int,
    Number,
    PathInFile,
    Window,
    parse_duration_us,
    wrong,
)

Aggregate = Literal["count", "sum", "mean", "min", "max", "std", "last", "since_last", "distinct"]


def _file_key(field_name: str) -> str:
    return "schema" if field_name == "schema_ref" else re.sub(r"(_ms|_us|_)$", "", field_name)


SECTION = ConfigDict(
    extra="forbid",
    alias_generator=_file_key,
    validate_by_name=True,
    validate_by_alias=True,
)


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class FieldFeature:
    """An event field as it is."""

    kind: Literal["field"] = Field(default="field", description="An event field as it is.")
    field: FieldName = Field(description="Numeric event field.")


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class CalendarFeature:
    """What the event time (UTC) says: whether it lies in a part of the week or day, or which hour or day."""

    kind: Literal["calendar"] = Field(
        default="calendar",
        description="1 when the event time (UTC) lies in a part of the week or the day; or which one it is.",
    )
    is_: Literal["weekend"] | None = Field(default=None, description="`weekend`: Saturday or Sunday.")
    hours: tuple[Annotated[Int, Field(ge=0, le=23)], Annotated[Int, Field(ge=1, le=24)]] | None = Field(
        default=None, description="`[from, to]`: 1 when from <= hour < to."
    )
    number: Literal["hour", "weekday"] | None = Field(
        default=None,
        description="`hour`: 0 to 23; `weekday`: 0 (Monday) to 6. Give one of `is`, `hours`, `number`.",
    )

    def __post_init__(self) -> None:
        given = [k for k, v in (("is", self.is_), ("hours", self.hours), ("number", self.number)) if v]
        if len(given) != 1:
            raise wrong(" and ".join(given) or "none of them", "exactly one of is, hours, number")
        if self.hours is not None and self.hours[0] >= self.hours[1]:
            raise wrong(str(list(self.hours)), "the first hour before the second", "hours")


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class WindowFeature:
    """Aggregates of an event field over trailing event-time windows (t - w, t], per key."""

    kind: Literal["window"] = Field(
        default="window",
        description="Aggregates over trailing windows of the key's events, this one included.",
    )
    over: FieldName = Field(description="Numeric event field to aggregate.")
    windows: tuple[Window, ...] = Field(min_length=1, description="Window lengths, such as `[1d, 7d]`.")
    aggregates: tuple[Aggregate, ...] = Field(min_length=1, description="What to compute over each window.")
    capacity: Int = Field(
        default=512, ge=1, le=1 << 20, description="Events remembered per key; more of them mark the score."
    )
    allowed_lateness_us: DurationUs = Field(
        default=UNITS_US["h"], description="How late an event may come and still count."
    )

    def __post_init__(self) -> None:
        if len(set(self.windows_us)) < len(self.windows):
            raise wrong("the same window twice", "different windows", "windows")
        if len(set(self.aggregates)) < len(self.aggregates):
            raise wrong("the same aggregate twice", "different aggregates", "aggregates")

    @property
    def windows_us(self) -> tuple[int, ...]:
        """The window lengths in microseconds, in the order of `windows` (their labels)."""
        return tuple(parse_duration_us(label) for label in self.windows)


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class SequenceFeature:
    """The last L readings of some event fields, per key, for models that eat a stretch of raw values."""

    kind: Literal["sequence"] = Field(
        default="sequence", description="The key's last readings, oldest first."
    )
    fields: tuple[FieldName, ...] = Field(min_length=1, description="Numeric event fields, in model order.")
    length: Int = Field(ge=1, le=1 << 16, description="Readings the model sees.")
    capacity: Int = Field(
        default=0,
        ge=1,
        le=1 << 20,
        description="Readings remembered per key, at least `length`; the rest is for late ones. "
        "Default `length` + 8. With `every` required: as many as come in `length` steps, and some more.",
    )
    every_us: Annotated[DurationUs, Field(ge=1)] | None = Field(
        default=None,
        description="Resample to this cadence: values at the event's time, one step before it, and so on.",
    )
    fill: Literal["last", "linear", "mean"] = Field(
        default="last",
        description="With `every`, what a point is: `last` reading, `linear` between two, or `mean`.",
    )
    warm_up: Literal["pad", "zero", "nan"] = Field(
        default="pad",
        description="What stands where a short history ends: its oldest value (`pad`), `zero` or `nan`.",
    )
    complete_from: Int | None = Field(
        default=None,
        ge=1,
        description="How many of `length` must be known for the score not to be `incomplete`. Default: all.",
    )

    def __post_init__(self) -> None:
        if self.every_us is not None and self.capacity == 0:
            expected = "how many readings to remember, as every is given: all that come in length steps"
            raise wrong("nothing", expected, "capacity")
        if self.every_us is None and self.fill != "last":
            raise wrong(f"{self.fill} without every", "last, or every beside it", "fill")
        if self.complete_from is not None and self.complete_from > self.length:
            raise wrong(str(self.complete_from), f"at most the length, {self.length}", "complete_from")
        if self.capacity == 0:
            object.__setattr__(self, "capacity", self.length + 8)
        if self.every_us is None and self.capacity < self.length:
            raise wrong(str(self.capacity), f"at least the length, {self.length}", "capacity")
        if len(set(self.fields)) < len(self.fields):
            raise wrong("the same field twice", "different fields", "fields")


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class LookupFeature:
    """The window features that another pipeline keeps, read as of the event's time."""

    kind: Literal["lookup"] = Field(
        default="lookup", description="Window features that another pipeline keeps."
    )
    pipeline: PathInFile = Field(description="File of the other pipeline, relative to this one.")
    group: str = Field(pattern=FEATURE_NAME, description="Name of its `window` feature.")
    key: FieldName = Field(description="Event field whose value is the other pipeline's key.")
    max_age_us: DurationUs = Field(
        default=UNITS_US["d"], description="Values further behind the event than this are not used."
    )
    when_behind: Literal["use", "wait"] = Field(
        default="use",
        description="When the other pipeline lags: `use` what it has and say its age, or `wait` for it.",
    )
    wait_at_most_ms: DurationMs = Field(default=30_000, description="How long `wait` waits before it uses.")
    default: Number = Field(default=0.0, description="Value when the other pipeline has none to use.")


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class ProfileFeature:
    """A row of numbers per key that a batch job has loaded into the store; read-only here."""

    kind: Literal["profile"] = Field(
        default="profile", description="A row of numbers per key that a batch job has loaded; read-only."
    )
    fields: tuple[Annotated[str, Field(pattern=FEATURE_NAME)], ...] = Field(
        min_length=1, description="Names of the numbers, in the order of the row."
    )
    key: FieldName | None = Field(
        default=None, description="Event field that names the row. Default: the record key."
    )
    prefix: str = Field(
        min_length=1, description="What stands before the key in the store: the row of `C7` is `PREFIXC7`."
    )
    dtype: Literal["float32", "float64"] = Field(
        default="float32", description="A row is that many little-endian numbers of this type."
    )
    default: Number = Field(default=0.0, description="Value of every field when there is no row.")

    def __post_init__(self) -> None:
        if len(set(self.fields)) < len(self.fields):
            raise wrong("the same field twice", "different fields", "fields")


Feature = Annotated[
    FieldFeature | CalendarFeature | WindowFeature | SequenceFeature | LookupFeature | ProfileFeature,
    Field(discriminator="kind"),
]
