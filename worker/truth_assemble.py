"""From the truth section of a pipeline file to its join, checked before the first poll."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from confluent_kafka import Consumer
from prometheus_client import REGISTRY, CollectorRegistry

from feature_cache.cases import Cases, MemoryCases
from feature_cache.redis_cases import RedisCases
from feature_cache.redis_store import RedisStore
from feature_cache.store import Store
from schemas.codec import Codec
from worker.assemble import OpenStore
from worker.codecs import label_codec, output_codec
from worker.config import Pipeline
from worker.exits import Exit, StopWorker
from worker.facts import FactPlan
from worker.plan import decision_policy
from worker.source import consumer_config, partition_count
from worker.truth import TruthJoin, TruthParts
from worker.truth_checks import hides_event_ids
from worker.truth_metrics import TruthMeter
from worker.truth_reader import Reader
from worker.truth_topic import FiguresTopic, figures_codec
from worker.truth_types import TruthOptions


def open_truths(pipelines: Sequence[Pipeline], open_store: OpenStore, *, only_truth: bool) -> list[TruthJoin]:
    """The joins that are to run in this process: those beside their loop, or, without loops, all of them.

    Raises:
        StopWorker: there is nothing to do; or see `open_truth`.
    """
    asked = [(pipeline, truth) for pipeline in pipelines if (truth := pipeline.truth) is not None]
    if only_truth and not asked:
        raise StopWorker(Exit.CONFIG, "--only-truth: found no pipeline with a truth section, expected one")
    return [open_truth(p, truth, open_store) for p, truth in asked if truth.beside or only_truth]


def open_truth(
    pipeline: Pipeline, truth: TruthOptions, open_store: OpenStore, registry: CollectorRegistry = REGISTRY
) -> TruthJoin:
    """The join of a pipeline.

    Raises:
        StopWorker: a topic does not exist, or Kafka cannot be reached.
        SchemaError, RegistryError: a schema is wrong, or the registry refuses.
    """
    policy = decision_policy(pipeline)
    plan = FactPlan(
        truth=truth,
        severities=policy.severities if policy else (),
        thresholds=policy.thresholds if policy else (),
        alert_below=policy is not None and policy.alert_below,
    )
    cases = _cases(open_store(str(pipeline.state.store)), pipeline, plan)
    properties = pipeline.kafka.client_properties()
    config = consumer_config(
        properties, group=f"{pipeline.kafka.group}-truth", protocol=pipeline.kafka.protocol
    )
    with closing(Consumer(config)) as client:
        for topic in (truth.labels.topic, truth.topic):
            partition_count(client, topic)
    kinds = _kinds(pipeline, truth)
    return TruthJoin(
        TruthParts(
            pipeline=pipeline.name,
            plan=plan,
            policy=policy,
            codecs={topic: _codec(pipeline, kind) for topic, kind in kinds.items()},
            kinds=kinds,
            scores_topic=str(pipeline.outputs.scores),
            cases=cases,
            meter=TruthMeter(pipeline.name, registry),
            open_reader=lambda stop: Reader(config, tuple(kinds), properties, cases, truth.horizon_ms, stop),
            figures=FiguresTopic(pipeline, figures_codec(pipeline, writes=True)),
        )
    )


def _kinds(pipeline: Pipeline, truth: TruthOptions) -> dict[str, str]:
    kinds = {str(pipeline.outputs.scores): "score", truth.labels.topic: "label"}
    if pipeline.outputs.alerts and pipeline.decision and not hides_event_ids(pipeline):
        kinds[pipeline.outputs.alerts] = "alert"
    return kinds


def _codec(pipeline: Pipeline, kind: str) -> Codec:
    return label_codec(pipeline) if kind == "label" else output_codec(pipeline, kind)


def _cases(store: Store, pipeline: Pipeline, plan: FactPlan) -> Cases:
    if not isinstance(store, RedisStore):
        return MemoryCases()
    truth, labels = plan.truth, plan.truth.labels
    # What a fact is made of; with another making all is counted anew, from one horizon back.
    making: tuple[Any, ...] = (
        *(plan.severities, plan.thresholds, plan.alert_below, truth.bucket_us),
        *(labels.topic, str(labels.schema_ref), labels.event_id, labels.label, labels.time),
        *(truth.value, truth.segment, truth.segments, pipeline.outputs.scores, pipeline.outputs.alerts),
    )
    layout = hashlib.sha256(repr(making).encode()).hexdigest()[:8]
    keep_ms = truth.window_us // 1000 + truth.horizon_ms
    return RedisCases(store, f"{pipeline.kafka.group}:truth:{layout}", keep_ms=keep_ms)
