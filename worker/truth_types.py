"""What a pipeline file may say of the truth about its scores, one field a key."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from worker.feature_types import SECTION
from worker.format_types import FORMAT, UNSAID, Format, Protobuf, Wire, default_wire
from worker.key_types import (
    UNITS_US,
    DurationMs,
    DurationUs,
    FieldName,
    Flag,
    Text,
    Topic,
    write_duration,
    wrong,
)

MOST_BUCKETS = 100
OF_ALL, OF_OTHERS, OF_NOBODY = "all", "other", "unknown"  # segments of ours
_SEGMENT = r"^[A-Za-z0-9_.:-]{1,64}$"


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class TruthLabels:
    """Where the truth about an event comes from."""

    topic: Topic = Field(description="Topic of the labels.")
    schema_ref: Text = Field(
        description="Avro schema to read labels as: a bundled name, or a path relative to this file."
    )
    format: Format = Field(default="avro", description=FORMAT)
    wire: Wire = Field(default=UNSAID, description="How labels are framed, as `source.wire`.")
    protobuf: Protobuf | None = Field(
        default=None,
        description="Which message labels of format protobuf are; without it the one derived from `schema`.",
    )
    registry: Text | None = Field(
        default=None, description="Schema registry URL; needed by wire `confluent`."
    )
    event_id: FieldName = Field(description="Label field (text or integer) with the event id of the score.")
    label: FieldName = Field(
        description="Label field (boolean or number) with the truth: true, or above 0, is a positive."
    )
    time: FieldName | None = Field(
        default=None,
        description="Label field that says when the truth became known: of two labels of an event the later "
        "one counts. Default: the Kafka timestamp.",
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "wire", self.wire or default_wire(self.format))


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class TruthOptions:
    """How good the scores were, as labels come in."""

    topic: Topic = Field(description="Topic of the figures, compacted.")
    labels: TruthLabels = Field(description="Where the truth about an event comes from.")
    horizon_ms: Annotated[DurationMs, Field(ge=1000)] = Field(
        default=30 * UNITS_US["d"] // 1000,
        description="How long a score waits for its label, and a label for its score or its correction.",
    )
    window_us: Annotated[DurationUs, Field(ge=1_000_000)] = Field(
        default=30 * UNITS_US["d"],
        description="The figures are of the events of this long, by event time.",
    )
    bucket_us: Annotated[DurationUs, Field(ge=1_000_000)] = Field(
        default=UNITS_US["d"], description="The window moves in steps of this; `window` is a multiple of it."
    )
    value: Annotated[str, Field(pattern=r"^(label|alert)\.[A-Za-z_][A-Za-z0-9_.]*$")] | None = Field(
        default=None,
        description="What an event is worth: `label.FIELD`, or `alert.FEATURE` for those that raised one.",
    )
    segment: Annotated[str, Field(pattern=r"^(label|score)\.[A-Za-z_][A-Za-z0-9_]*$")] | None = Field(
        default=None, description="What figures are told apart by: `label.FIELD` or `score.FIELD`, a text."
    )
    segments: tuple[Annotated[str, Field(pattern=_SEGMENT)], ...] = Field(
        default=(), max_length=50, description="The values of `segment` to tell apart; the rest is `other`."
    )
    unlabelled: Literal["ignore", "negative"] = Field(
        default="ignore",
        description="An event without a label: `ignore` it, or count it as `negative` once `horizon` has "
        "passed, by event time.",
    )
    beside: Flag = Field(
        default=True,
        description="Join beside the scoring loop; `false`: only `penstock run FILE --only-truth` does.",
    )
    publish_interval_ms: Annotated[DurationMs, Field(ge=100)] = Field(
        default=10_000, description="Time between two looks at the figures."
    )

    def __post_init__(self) -> None:
        if self.window_us % self.bucket_us or self.window_us > MOST_BUCKETS * self.bucket_us:
            bucket = write_duration(self.bucket_us)
            found = write_duration(self.window_us)
            raise wrong(found, f"a multiple of bucket, 1 to {MOST_BUCKETS} times {bucket}", "window")
        ours = {OF_ALL, OF_OTHERS, OF_NOBODY} & set(self.segments)
        if ours:
            raise wrong(min(ours), "a value other than all, other and unknown", "segments")
        if bool(self.segments) != (self.segment is not None):
            raise wrong("one of segment and segments", "both, or neither", "segment")
