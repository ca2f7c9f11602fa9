"""What a pipeline file may say: its sections as frozen dataclasses, one field a key.

A field is named like its key, with the unit appended where the file writes a duration: the key
`commit_interval: 100ms` is the field `commit_interval_ms = 100`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic import WithJsonSchema as Written
from pydantic.dataclasses import dataclass

from worker.access_types import Admin, PrivacyOptions, RegistryLogin
from worker.console_types import ConsoleOptions
from worker.feature_types import SECTION, Feature
from worker.format_types import FORMAT, UNSAID, Format, Protobuf, Wire, default_wire
from worker.http_types import HttpOptions
from worker.key_types import (
    FEATURE_NAME,
    NAME,
    UNITS_US,
    DurationMs,
    DurationUs,
    FieldName,
    Flag,
    Int,
    Number,
    SizeBytes,
    Store,
    Text,
    Topic,
    WaitMs,
    write_duration,
    wrong,
)
from worker.model_types import Decision, ModelRef
from worker.rollout_types import Rollout
from worker.tracing_types import TracingOptions
from worker.truth_types import TruthOptions
from worker.watch_types import WatchOptions

RESERVED_PROPERTIES: Mapping[str, str] = {
    "bootstrap.servers": "kafka.bootstrap",
    "metadata.broker.list": "kafka.bootstrap",
    "group.id": "kafka.group",
    "group.protocol": "kafka.protocol",
    "group.instance.id": "kafka.static_membership",
    "partition.assignment.strategy": "kafka.protocol",
    "auto.offset.reset": "source.when_skipped",
    "isolation.level": "delivery.mode",
    "partitioner": "source.partitioner",
    "transactional.id": "delivery.worker_id",
    "transaction.timeout.ms": "delivery.transaction_timeout",
    "enable.auto.commit": "delivery.mode",
    "enable.auto.offset.store": "delivery.mode",
    "enable.idempotence": "delivery.mode",
    "delivery.report.only.error": "delivery.mode",
}
NOT_A_KEY = "Set by the reader"


def _properties(value: Any) -> Any:
    for name in value if isinstance(value, Mapping) else ():
        if name in RESERVED_PROPERTIES:
            raise wrong("a setting that has a key of its own", RESERVED_PROPERTIES[name], name)
    return value


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class Kafka:
    """How to reach Kafka, and as whom."""

    bootstrap: Text = Field(default="localhost:9092", description="Brokers to ask first, `host:port,...`.")
    group: str = Field(
        default="",
        pattern=r"^\S+$",
        description="Consumer group; members of one group share the partitions. Default `penstock-NAME`.",
    )
    protocol: Literal["classic", "consumer"] = Field(
        default="classic",
        description="Group protocol: `classic` (cooperative-sticky) or `consumer` (KIP-848, Kafka 4).",
    )
    static_membership: Flag = Field(
        default=False,
        description="Keep the lanes over a restart of the same `delivery.worker_id`; for fixed-size groups.",
    )
    properties: Annotated[
        dict[
            str,
            Annotated[Text, Written({"type": ["string", "number", "boolean"]})],
        ],
        BeforeValidator(_properties),
    ] = Field(
        default_factory=dict,
        description="Further librdkafka settings for all clients, such as `security.protocol`.",
    )

    def client_properties(self) -> dict[str, str]:
        """Return the settings every client starts from, secrets in the clear: never log this."""
        return {**{k: str(v) for k, v in self.properties.items()}, "bootstrap.servers": str(self.bootstrap)}


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class EventTime:
    """What becomes of events that do not come in the order of their times; see docs/time.md."""

    late: Literal["score", "dead_letter"] = Field(
        default="score",
        description="An event older than what windows remember: `score` it, changing nothing, or "
        "`dead_letter`.",
    )
    out_of_order: Literal["score", "dead_letter"] = Field(
        default="score",
        description="An event older than its key's newest: `score` it in its place, or `dead_letter`.",
    )
    equal: Literal["score", "dead_letter"] = Field(
        default="score",
        description="An event of the same time as its key's newest: `score` it, or `dead_letter`.",
    )
    future: Literal["dead_letter", "score"] = Field(
        default="dead_letter",
        description="An event further ahead than `max_future`: `dead_letter`, or `score` and mark it.",
    )
    clock_back: Literal["keep", "reset"] = Field(
        default="keep",
        description="A key whose clock was set back: `keep` its row, and all is late until the clock has "
        "caught up, or `reset` it.",
    )
    clock_back_by_us: DurationUs = Field(
        default=UNITS_US["d"],
        description="With `reset`, how far behind its newest event a key must be to have been set back.",
    )
    clock_back_events: Annotated[Int, Field(ge=1, le=100)] = Field(
        default=3, description="With `reset`, for how many events of the key in a row."
    )


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class Source:
    """Which events come in, and how they are read."""

    topic: Topic = Field(description="Topic to read.")
    schema_ref: Text = Field(
        description="Avro schema to read events as: a bundled name, or a path relative to this file."
    )
    format: Format = Field(default="avro", description=FORMAT)
    wire: Wire = Field(
        default=UNSAID,
        description="How records are framed: `single_object` (default of avro, and only its), `confluent` "
        "(schema registry), or `raw` (default of json and protobuf).",
    )
    protobuf: Protobuf | None = Field(
        default=None,
        description="Which message records of format protobuf are; without it the one derived from `schema`.",
    )
    writer_schemas: tuple[Text, ...] = Field(
        default=(), description="Further schemas that Avro producers may have written with."
    )
    registry: Text | None = Field(
        default=None, description="Schema registry URL; needed by wire `confluent`."
    )
    key: FieldName = Field(description="Event field (text or integer) that equals the record key.")
    event_id: FieldName = Field(description="Event field (text or integer) that names the event.")
    event_time: FieldName = Field(
        description="Event field with the event's time, a timestamp or milliseconds."
    )
    max_future_us: DurationUs | None = Field(
        default=UNITS_US["h"],
        description="An event further ahead of its Kafka timestamp than this is a dead letter; "
        "`null` allows any.",
    )
    time: EventTime = Field(
        default_factory=EventTime,
        description="What becomes of events that do not come in the order of their times.",
    )
    partitioner: Literal["murmur2", "crc32"] = Field(
        default="murmur2", description="How producers choose the partition of a key."
    )
    start: Literal["earliest", "latest"] = Field(
        default="earliest", description="Where a group without committed offsets begins."
    )
    when_skipped: Literal["stop", "skip_and_count"] = Field(
        default="stop",
        description="When retention removed records before they were read: `stop`, or `skip_and_count` them.",
    )
    max_record_bytes: SizeBytes = Field(
        default=1 << 20, description="A longer record is a dead letter and is not decoded."
    )
    max_key_bytes: SizeBytes = Field(
        default=1 << 10,
        description="An event whose key, or whose id, is longer is a dead letter: keys are held in memory.",
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "wire", self.wire or default_wire(self.format))


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class Outputs:
    """Where scores, alerts and dead letters go."""

    scores: Topic | None = Field(default=None, description="Topic of the scores; needed with a model.")
    alerts: Topic | None = Field(default=None, description="Topic of the alerts; needed with a decision.")
    dead_letters: Topic = Field(description="Topic of the records that could not be scored.")
    watch: Topic | None = Field(
        default=None, description="Topic of the alerts of `watch`; needed with that section and a model."
    )
    format: Format = Field(default="avro", description=f"{FORMAT[:-1]}; dead letters stay as they came.")
    wire: Wire = Field(default=UNSAID, description="How scores and alerts are framed, as `source.wire`.")
    registry: Text | None = Field(
        default=None, description="Schema registry URL; needed by wire `confluent`."
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "wire", self.wire or default_wire(self.format))


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class Batching:
    """When a batch leaves for the model."""

    max_rows: Int = Field(default=1024, ge=1, le=1 << 20, description="Leave at this many events.")
    max_bytes: SizeBytes = Field(default=1 << 20, description="Leave at this many record bytes.")
    max_wait_ms: WaitMs = Field(default=5.0, description="Leave when the oldest event has waited this long.")
    eager: Flag = Field(
        default=True, description="Leave at once when the model is idle and nothing more waits."
    )
    latency_slo_ms: WaitMs | None = Field(
        default=None,
        description="99 of 100 events within this, `1ms` to `1s`; `max_wait` and `eager` then do not count.",
    )

    def __post_init__(self) -> None:
        if self.latency_slo_ms is not None and not 1 <= self.latency_slo_ms <= 1000:
            raise wrong(write_duration(self.latency_slo_ms * 1000), "1ms to 1s, or null", "latency_slo")


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class Delivery:
    """What is promised about the outputs."""

    mode: Literal["exactly_once", "at_least_once"] = Field(
        default="exactly_once",
        description="`exactly_once` (transactions) or `at_least_once` (faster; repeats carry the same id).",
    )
    commit_interval_ms: Annotated[DurationMs, Field(ge=1)] = Field(
        default=100,
        description="Time between commits, a quarter where nothing more comes; in `exactly_once` it is added "
        "to the latency.",
    )
    transaction_timeout_ms: Annotated[DurationMs, Field(ge=1000)] | None = Field(
        default=None,
        description="The broker aborts a transaction that is open for longer. Default: `10s`, and two thirds "
        "of `session.timeout.ms` where that is less, so that it is aborted before its lanes move.",
    )
    worker_id: Text | None = Field(
        default=None,
        description="Stable name of this worker, unique in the group. Default: host and process id.",
    )


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class State:
    """Where the features of each key are kept."""

    store: Store = Field(
        default="redis://localhost:6379/0",
        description="`redis://`, `redis+cluster://`, `redis+sentinel://`, `rediss…` for TLS, or `memory://`; "
        "see [operating.md](operating.md#redis).",
    )
    hot_rows: Int = Field(default=100_000, ge=1, description="Rows kept in process memory, over all lanes.")
    write_interval_ms: DurationMs = Field(default=1_000, description="Time between writes of changed rows.")
    rebuild: Literal["auto", "windows", "beginning"] = Field(
        default="auto",
        description="Where lost rows are rebuilt from: one longest window back (`windows`), the `beginning`, "
        "or `auto`: `windows` where nothing but windows is kept.",
    )
    when_away: Literal["wait", "score_without"] = Field(
        default="wait",
        description="Store away, row not in memory: `wait`, or `score_without` it and say so.",
    )


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class DeadLetterPolicy:
    """How many dead letters stop the worker, so that a bad deploy does not pour a topic away."""

    stop_share: Annotated[Number, Field(gt=0, le=1)] = Field(
        default=0.5, description="Stop when more than this share of a minute's events are dead letters."
    )
    min_events: Int = Field(default=1000, ge=1, description="Judge a minute only from this many events on.")


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class Pipeline:
    """One pipeline file, checked."""

    name: str = Field(pattern=NAME, description="Name of the pipeline, in metrics, keys and headers.")
    policy_version: Text = Field(default="1", description="Version of the decision, stamped on every score.")
    kafka: Kafka = Field(default_factory=Kafka, description="How to reach Kafka, and as whom.")
    source: Source = Field(description="Which events come in, and how they are read.")
    features: dict[Annotated[str, Field(pattern=FEATURE_NAME)], Feature] = Field(
        min_length=1, description="What is computed for each event, by name."
    )
    model: ModelRef | None = Field(
        default=None,
        description="Which model scores the events; without it the pipeline only keeps features.",
    )
    rollout: Rollout | None = Field(
        default=None,
        description="How versions are changed while workers run; without it `model.version` serves.",
    )
    decision: Decision | None = Field(
        default=None, description="When a score becomes an alert; without it there are no alerts."
    )
    outputs: Outputs = Field(description="Where scores, alerts and dead letters go.")
    batching: Batching = Field(default_factory=Batching, description="When a batch leaves for the model.")
    delivery: Delivery = Field(default_factory=Delivery, description="What is promised about the outputs.")
    state: State = Field(default_factory=State, description="Where the features of each key are kept.")
    dead_letters: DeadLetterPolicy = Field(
        default_factory=DeadLetterPolicy, description="How many dead letters stop the worker."
    )
    watch: WatchOptions | None = Field(
        default=None,
        description="Drift, and readings that no sensor can mean; without it neither is looked at.",
    )
    registry: RegistryLogin = Field(
        default_factory=RegistryLogin, description="How to log in to the schema registries."
    )
    privacy: PrivacyOptions | None = Field(
        default=None, description="Personal fields as keyed hashes; without it they stay as they are."
    )
    truth: TruthOptions | None = Field(
        default=None, description="How good the scores were, as labels come in; without it nobody asks."
    )
    tracing: TracingOptions | None = Field(
        default=None,
        description="Spans of batches, to an OpenTelemetry collector; without it there are none.",
    )
    admin: Admin = Field(default_factory=Admin, description="Where metrics and health are served.")
    http: HttpOptions | None = Field(
        default=None, description="Scores for callers that wait for the answer; without it nobody listens."
    )
    console: ConsoleOptions = Field(
        default_factory=ConsoleOptions, description="What the web page on the admin port knows."
    )
    path: Path = Field(default=Path("pipeline.yaml"), exclude=True, description=NOT_A_KEY)
    secrets: frozenset[str] = Field(
        default=frozenset(), exclude=True, repr=False, description=f"{NOT_A_KEY}; what no log line may show."
    )

    def __post_init__(self) -> None:
        if not self.kafka.group:
            object.__setattr__(self, "kafka", replace(self.kafka, group=f"penstock-{self.name}"))

    @property
    def base(self) -> Path:
        """The folder of the file, from which its relative paths count."""
        return self.path.parent
