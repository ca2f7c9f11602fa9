"""The parts of one pipeline's line, opened and checked, as the loop uses them."""

from __future__ import annotations

from dataclasses import dataclass

from feature_cache.lanes import Lanes
from schemas.codec import Codec
from worker.batcher import Batcher
from worker.breaker import DeadLetterBreaker
from worker.decide import DecisionPolicy
from worker.decode import DecodePlan
from worker.encode import Stamp
from worker.lookups import Lookup
from worker.metrics import Meter
from worker.ownership import Ownership
from worker.plan import FeaturePlan
from worker.profiles import Profile
from worker.reasons import PlanReasons
from worker.rollout import Rollout
from worker.router import Router
from worker.sink import Sink
from worker.source import Source
from worker.tracing import Tracing
from worker.watch import Watcher


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Line:
    """The parts of one pipeline's line, each with its one owner: the thread that runs the loop."""

    name: str
    topic: str
    source: Source
    codec: Codec
    decode_plan: DecodePlan
    feature_plan: FeaturePlan
    lanes: Lanes
    owned: Ownership
    lookups: tuple[Lookup | Profile, ...]
    batcher: Batcher
    router: Router | None  # None: the pipeline only keeps features
    rollout: Rollout | None  # None: the version of the file serves for as long as the worker runs
    decision: DecisionPolicy | None
    reasons: PlanReasons | None  # None: nothing is scored, or scores raise no alerts
    stamp: Stamp
    score_codec: Codec | None
    alert_codec: Codec | None
    scores_topic: str
    alerts_topic: str
    shadow_topic: str
    watcher: Watcher | None
    watch_codec: Codec | None
    watch_topic: str
    sink: Sink
    breaker: DeadLetterBreaker
    meter: Meter
    commit_interval_ms: float
    write_interval_ms: float
    tracing: Tracing | None = None  # None: nothing is traced
