"""What of a pipeline's surroundings works, what does not, and what to do about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource

from feature_cache.redis_checks import CHECKS, UnfitError
from feature_cache.redis_store import RedisStore
from feature_cache.store import StoreRefusedError, StoreUnavailableError
from schemas.registry import Registry
from schemas.schema import load_schema
from worker.assemble import store_opener
from worker.codecs import message_of
from worker.composite import load_version
from worker.config import Pipeline
from worker.exits import Exit, StopWorker
from worker.plan import feature_plan, registry_settings
from worker.refusals import Refusals
from worker.rights import missing_rights
from worker.session import ModelError
from worker.source import partition_count
from worker.terminal import Paint, plain
from worker.yaml_lines import ConfigError

# Errors that say in their own words what is wrong.
_SAID = (
    KafkaException,
    StopWorker,
    StoreUnavailableError,
    StoreRefusedError,
    UnfitError,
    ModelError,
    ConfigError,
    ValueError,
)

_AHEAD_AT_MOST_MS = 86_400_000
_HEADERS_BYTES = 1 << 16  # more than ours, and what a batch of one record adds


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing examined."""

    what: str
    works: bool
    found: str
    do: str = ""  # empty when it works


def examine(pipeline: Pipeline) -> list[Finding]:
    """Check each of Kafka, its topics, the store, the registry, the device and the model; never raises."""
    findings = [_kafka(pipeline)]
    if findings[0].works:
        findings += _topics(pipeline)
    findings += examine_store(pipeline)
    if pipeline.source.registry or pipeline.outputs.registry:
        findings.append(_registry(pipeline))
    findings.append(_schema(pipeline))
    if pipeline.model is not None:
        findings.append(_model(pipeline))
    return findings


def show(findings: list[Finding], *, as_json: bool, paint: Paint = plain) -> str:
    """A line each for a person, or one JSON list."""
    if as_json:
        return json.dumps([asdict(finding) for finding in findings], indent=2)
    lines = []
    width = max((len(finding.what) for finding in findings), default=0)
    for f in findings:
        mark = paint("ok  ", "green") if f.works else paint("FAIL", "red")
        lines.append(f"{mark}  {f.what:<{width}}  {f.found}")
        if f.do:
            lines.append(f"      {'':<{width}}  -> {f.do}")
    return "\n".join(lines)


def _check(what: str, check: Callable[[], str], do: str) -> Finding:
    try:
        return Finding(what=what, works=True, found=check())
    except _SAID as error:
        return Finding(what=what, works=False, found=str(error), do=do)
    except Exception as error:
        return Finding(what=what, works=False, found=f"{type(error).__name__}: {error}", do=do)


def _admin(pipeline: Pipeline, refusals: Refusals) -> AdminClient:
    settings = {"socket.timeout.ms": 5000, "log_level": 0, "error_cb": refusals.note}
    return AdminClient({**pipeline.kafka.client_properties(), **settings})


def _kafka(pipeline: Pipeline) -> Finding:
    refusals = Refusals()

    def check() -> str:
        admin = _admin(pipeline, refusals)
        try:
            brokers = admin.list_topics(timeout=5).brokers
        except KafkaException as error:
            admin.poll(0)  # runs error_cb
            raise StopWorker(Exit.KAFKA, refusals.reason or error.args[0].str()) from error
        return f"{len(brokers)} broker(s): " + ", ".join(f"{b.host}:{b.port}" for b in brokers.values())

    return _check(
        "kafka", check, f"is a broker at {pipeline.kafka.bootstrap!s}? Set PENSTOCK_KAFKA or kafka.bootstrap"
    )


def _topics(pipeline: Pipeline) -> list[Finding]:
    outputs = pipeline.outputs
    topics = [pipeline.source.topic, outputs.scores, outputs.alerts, outputs.dead_letters, outputs.watch]
    if pipeline.rollout is not None:
        topics.append(pipeline.rollout.shadow)
    if pipeline.truth is not None:
        topics += [pipeline.truth.labels.topic, pipeline.truth.topic]
    client = _admin(pipeline, Refusals())
    return [
        *(
            _check(
                f"topic {topic}"[:40],
                lambda t=topic: f"{partition_count(client, t)} partition(s)",  # type: ignore[misc]
                f"`penstock topics create {pipeline.path}` creates it; or name another there",
            )
            for topic in topics
            if topic
        ),
        _timestamps(pipeline, client),
        _sizes(pipeline, client),
        _rights(pipeline, client),
    ]


def _timestamps(pipeline: Pipeline, client: AdminClient) -> Finding:
    """Event times are bounded by record timestamps: does the broker bound these by its clock?"""

    def check() -> str:
        topic = ConfigResource(ConfigResource.Type.TOPIC, pipeline.source.topic)
        try:
            configs = client.describe_configs([topic], request_timeout=5)[topic].result(10)
        except KafkaException as error:
            return f"not known: {error.args[0].str()}"  # no right to look is nothing wrong
        if configs["message.timestamp.type"].value == "LogAppendTime":
            return "records are dated by the broker"
        bound = configs.get("message.timestamp.after.max.ms") or configs.get(
            "message.timestamp.difference.max.ms"
        )
        if bound is None or int(bound.value) > _AHEAD_AT_MOST_MS:
            raise StopWorker(Exit.KAFKA, "producers may date records as far ahead as they like")
        return f"records are dated by producers, at most {int(bound.value) // 1000} s ahead of the broker"

    return _check(
        "timestamps",
        check,
        f"set message.timestamp.after.max.ms=3600000 on topic {pipeline.source.topic} (before Kafka 3.6: "
        "message.timestamp.type=LogAppendTime), or source.max_future does not hold for a wrong clock",
    )


def _sizes(pipeline: Pipeline, client: AdminClient) -> Finding:
    """A dead letter is its record and some headers: is what the input takes too large for its topic?"""
    given, dead = pipeline.source.topic, pipeline.outputs.dead_letters

    def check() -> str:
        topics = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in (given, dead)]
        try:
            found = client.describe_configs(topics, request_timeout=5)
            takes = [int(found[topic].result(10)["max.message.bytes"].value) for topic in topics]
        except KafkaException as error:
            return f"not known: {error.args[0].str()}"
        if takes[1] < takes[0] + _HEADERS_BYTES:
            raise StopWorker(
                Exit.KAFKA,
                f"{given} takes {takes[0]} bytes a record, {dead} {takes[1]}: a record of that size that "
                f"cannot be scored would stop the worker",
            )
        return f"{dead} takes whatever {given} does, and headers"

    return _check(
        "sizes", check, f"set max.message.bytes of topic {dead} to that of {given} and {_HEADERS_BYTES} more"
    )


def _rights(pipeline: Pipeline, client: AdminClient) -> Finding:
    def check() -> str:
        missing = list(missing_rights(pipeline, client))
        if missing:
            raise StopWorker(Exit.KAFKA, f"missing: {'; '.join(missing)}")
        return "may read the input and write the outputs"

    return _check(
        "rights", check, "grant them with kafka-acls.sh; docs/security.md lists all that are needed"
    )


def examine_store(pipeline: Pipeline) -> list[Finding]:
    """Check that the store answers and is fit to hold rows; never raises."""
    store = store_opener()(str(pipeline.state.store))
    answers = _check("store", store.ping, "is Redis running there? Set PENSTOCK_STORE or state.store")
    if not answers.works or not isinstance(store, RedisStore):
        return [answers]
    return [
        answers,
        *(_check(what, partial(check, store), do) for what, check, do in CHECKS),
    ]


def _registry(pipeline: Pipeline) -> Finding:
    def check() -> str:
        url = pipeline.source.registry or pipeline.outputs.registry
        assert url is not None  # examine() asks only then
        registry = Registry(registry_settings(pipeline, url))
        registry.check()
        return f"answers at {registry.url}"

    return _check("registry", check, "is the registry's URL right? Set PENSTOCK_REGISTRY or source.registry")


def _schema(pipeline: Pipeline) -> Finding:
    def check() -> str:
        source = pipeline.source
        schema = load_schema(source.schema_ref, pipeline.base)
        if source.format == "protobuf":
            message = message_of(schema, source.protobuf)
            return f"{schema.name}, as the Protobuf message {message.name}"
        how = f"fingerprint {schema.fingerprint:016x}" if source.format == "avro" else "as JSON"
        return f"{schema.name}, {how}"

    return _check("schema", check, "mend source.schema")


def _model(pipeline: Pipeline) -> Finding:
    ref = pipeline.model
    assert ref is not None

    def check() -> str:
        model = load_version(ref.fetched(), feature_plan(pipeline), ref.device)
        return f"{model.card.name} {model.card.version} on {model.device}, golden vectors equal"

    return _check("model", check, "mend the model folder, or set model.device to one that this machine has")
