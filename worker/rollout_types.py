"""What a pipeline file may say of how model versions are changed while it runs, one field a key."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from worker.feature_types import SECTION
from worker.key_types import DurationMs, Int, Number, Topic

Share = Annotated[Number, Field(ge=0, le=1)]


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class Guards:
    """What a canary must not do; it is taken back by itself as soon as it does. `null` leaves one out."""

    error_share: Share | None = Field(
        default=0.001, description="More of its events than this fail, or have no finite score."
    )
    slowdown: Annotated[Number, Field(gt=1)] | None = Field(
        default=5.0,
        description="It takes more times as long for its part of a batch as the serving version for all.",
    )
    alert_ratio: Annotated[Number, Field(gt=1)] | None = Field(
        default=2.0,
        description="It raises so many times more, or fewer, alerts on the same events.",
    )
    rank_correlation: Annotated[Number, Field(ge=-1, le=1)] | None = Field(
        default=None,
        description="It orders the same events unlike the serving version: Spearman's rho below this.",
    )
    score_psi: Annotated[Number, Field(gt=0)] | None = Field(
        default=None,
        description="Its scores are distributed unlike those of the serving version: PSI above this.",
    )
    precision_ratio: Annotated[Number, Field(gt=1)] | None = Field(
        default=1.5,
        description="The precision of the serving version is so many times its own, once labels tell; needs "
        "`truth`.",
    )
    min_events: Annotated[Int, Field(ge=100)] = Field(
        default=2000, description="Of the canary, before any guard speaks."
    )


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class Rollout:
    """How model versions are changed while workers run; see docs/rollout.md."""

    control: Topic = Field(
        default="penstock.control",
        description="Compacted topic of one partition that says which version serves; for all pipelines.",
    )
    shadow: Topic | None = Field(
        default=None, description="Topic of the scores of a shadowed version; without it none can be."
    )
    poll_ms: DurationMs | None = Field(
        default=None,
        description="Look for a newer version in the repository this often, and promote it; `null`: never.",
    )
    max_slowdown: Annotated[Number, Field(gt=1)] = Field(
        default=5.0,
        description="A version that takes more times as long as the one that serves is refused.",
    )
    alerts_at: Number | None = Field(
        default=None,
        description="Score from which on the guards count an alert. Default: the lowest threshold.",
    )
    guards: Guards = Field(default_factory=Guards, description="What takes a canary back by itself.")
