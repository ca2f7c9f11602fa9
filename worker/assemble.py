"""From a pipeline file to the parts of its line, each opened and checked before the first poll."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from confluent_kafka.admin import AdminClient
from prometheus_client import REGISTRY, CollectorRegistry

from feature_cache.key_index import distinct, keys_of, stable_hash
from feature_cache.lanes import Lanes
from feature_cache.lookup import read_lookup
from feature_cache.mirror import Mirror
from feature_cache.packing import pack, unpack
from feature_cache.redis_store import RedisStore
from feature_cache.resp import command
from feature_cache.rows import HotRows
from feature_cache.store import MemoryStore, Store
from schemas.codec import Codec
from schemas.schema import Schema, load_schema
from worker.batcher import Batcher
from worker.breaker import DeadLetterBreaker
from worker.codecs import input_codec, output_codec
from worker.composite_card import CompositeCard
from worker.config import Pipeline
from worker.decide import DecisionPolicy, decide
from worker.decode import DecodePlan, decode
from worker.encode import Stamp
from worker.features import enrich
from worker.line import Line
from worker.lookups import Lookup
from worker.metrics import Meter
from worker.model_file import ModelCard
from worker.ownership import Ownership, SkipPolicy
from worker.partitioners import partitions
from worker.plan import (
    FeaturePlan,
    batch_policy,
    decision_policy,
    decode_plan,
    feature_plan,
    worker_name,
)
from worker.privacy import Privacy, privacy_of
from worker.producer_settings import producer_config
from worker.profiles import Profile
from worker.reasons import PlanReasons, planner
from worker.rebuild import reach
from worker.rebuild_log import rebuild_start
from worker.records import records_of
from worker.rights import check_rights
from worker.scout import Scout
from worker.sink import Sink
from worker.slo import Pace
from worker.source import Source, consumer_config, partition_count
from worker.succession import Estate
from worker.timeouts import transaction_timeout_ms
from worker.traced_line import open_tracing, traced
from worker.versions import open_versions
from worker.watch import Watcher

OpenStore = Callable[[str], Store]


def store_opener() -> OpenStore:
    """Open stores by address; one address is one store, so pipelines of a process share `memory://`."""
    opened: dict[str, Store] = {}

    def open_store(address: str) -> Store:
        if address not in opened:
            opened[address] = MemoryStore() if address.startswith("memory:") else RedisStore(address)
        return opened[address]

    return open_store


def assemble(pipeline: Pipeline, open_store: OpenStore, registry: CollectorRegistry = REGISTRY) -> Line:
    """Open everything a pipeline needs; nothing is read yet.

    Raises:
        ConfigError, ModelError, SchemaError, StopWorker: what is wrong, in one line.
    """
    tracing = open_tracing(pipeline, registry)
    plan = feature_plan(pipeline)
    schema = load_schema(pipeline.source.schema_ref, pipeline.base)
    codec = input_codec(pipeline, schema)
    meter = Meter(pipeline.name, registry)
    router, rollout = open_versions(pipeline, plan, meter)
    decision = decision_policy(pipeline)
    privacy = privacy_of(pipeline, schema, plan.names)
    properties = pipeline.kafka.client_properties()
    consumer = consumer_config(
        properties,
        group=pipeline.kafka.group,
        protocol=pipeline.kafka.protocol,
        instance_id=_worker_id(pipeline) if pipeline.kafka.static_membership else None,
        waits_at_most_ms=sum(lookup.feature.wait_at_most_ms for lookup in plan.lookups),
    )
    source = Source(consumer, pipeline.source.topic)
    source.partition_count()  # a topic that does not exist stops the start
    check_rights(pipeline, AdminClient({**properties, "log_level": 0}))
    store = open_store(str(pipeline.state.store))
    may_guess = pipeline.state.when_away == "score_without"
    lanes = Lanes(
        HotRows(plan.layout, pipeline.state.hot_rows),
        store,
        pipeline.kafka.group,
        pipeline.source.topic,
        may_guess=may_guess,
    )
    lookups = tuple(
        Lookup(
            lookup,
            open_store(str(lookup.owner.state.store)),
            partition_count(source.consumer, lookup.owner.source.topic),
            may_guess=may_guess,
        )
        for lookup in plan.lookups
    )
    profiles = tuple(Profile(profile, store, may_guess=may_guess) for profile in plan.profiles)
    how = decode_plan(pipeline, schema, plan.finite)
    _warm(codec, how, plan, decision, meter)
    transactional_id = _worker_id(pipeline) if pipeline.delivery.mode == "exactly_once" else None
    sink = Sink(
        producer_config(
            properties,
            worker_id=transactional_id,
            transaction_timeout_ms=transaction_timeout_ms(pipeline),
        ),
        pipeline=pipeline.name,
        dead_letters=pipeline.outputs.dead_letters,
        privacy=privacy,
        estate=_estate(pipeline, consumer),
    )
    line = Line(
        name=pipeline.name,
        topic=pipeline.source.topic,
        source=source,
        codec=codec,
        decode_plan=how,
        feature_plan=plan,
        lanes=lanes,
        owned=Ownership(
            source,
            Scout(consumer, pipeline.source.topic, properties),
            lanes,
            SkipPolicy(
                start_at_end=pipeline.source.start == "latest",
                may_skip=pipeline.source.when_skipped == "skip_and_count",
            ),
            meter,
            lambda: time.time_ns() // 1_000_000,
            # Its own codec: looking for a place goes on beside the loop.
            partial(
                rebuild_start,
                consumer,
                input_codec(pipeline, schema),
                how,
                reach(
                    plan.layout,
                    decision,
                    plan.times,
                    pipeline.state.rebuild,
                    None if how.takes_future else pipeline.source.max_future_us,
                ),
                pipeline.source.topic,
            ),
            when_undecided=sink.undecided if transactional_id else None,
        ),
        lookups=(*lookups, *profiles),
        batcher=_batcher(pipeline, meter),
        router=router,
        rollout=rollout,
        decision=decision,
        reasons=reasons_of(pipeline, plan, schema),
        stamp=stamp_of(pipeline, plan, router.card if router else None, decision, privacy),
        score_codec=_output_codec(pipeline, "score", pipeline.outputs.scores),
        alert_codec=_output_codec(pipeline, "alert", pipeline.outputs.alerts),
        scores_topic=pipeline.outputs.scores or "",
        alerts_topic=pipeline.outputs.alerts or "",
        shadow_topic=_shadow(pipeline) or "",
        watcher=_watcher(pipeline, plan, meter, privacy),
        watch_codec=_output_codec(pipeline, "watch_alert", pipeline.outputs.watch),
        watch_topic=pipeline.outputs.watch or "",
        sink=sink,
        breaker=DeadLetterBreaker(pipeline.dead_letters.stop_share, pipeline.dead_letters.min_events),
        meter=meter,
        commit_interval_ms=pipeline.delivery.commit_interval_ms,
        write_interval_ms=pipeline.state.write_interval_ms,
    )
    return traced(line, tracing)


def _estate(pipeline: Pipeline, consumer: dict[str, Any]) -> Estate:
    outputs = pipeline.outputs
    topics = (outputs.scores, outputs.alerts, outputs.dead_letters, outputs.watch, _shadow(pipeline))
    return Estate(consumer=consumer, source=pipeline.source.topic, topics=tuple(filter(None, topics)))


def _shadow(pipeline: Pipeline) -> str | None:
    return pipeline.rollout.shadow if pipeline.rollout else None


def _output_codec(pipeline: Pipeline, schema: str, topic: str | None) -> Codec | None:
    return None if topic is None else output_codec(pipeline, schema, topic)


def _batcher(pipeline: Pipeline, meter: Meter) -> Batcher:
    policy, objective_ms = batch_policy(pipeline), pipeline.batching.latency_slo_ms
    if objective_ms is None:
        meter.paced(policy.max_rows, 0.0 if policy.eager else policy.max_wait_ms, 0.0, False)
        return Batcher(policy)
    return Batcher(policy, Pace(objective_ms, policy.max_rows, meter.paced, pipeline.name).turned)


def stamp_of(
    pipeline: Pipeline,
    plan: FeaturePlan,
    card: ModelCard | CompositeCard | None,
    decision: DecisionPolicy | None,
    privacy: Privacy | None,
) -> Stamp:
    """What outputs say of themselves."""
    return Stamp(
        source_topic=pipeline.source.topic,
        model=card.name if card else "",
        policy_version=str(pipeline.policy_version),
        event_id=pipeline.source.event_id,
        key=pipeline.source.key,
        severities=decision.severities if decision else (),
        thresholds=decision.thresholds if decision else (),
        feature_names=plan.names,
        privacy=privacy,
        rules=decision.rules if decision else (),
        on=decision.on if decision else "score",
    )


def reasons_of(pipeline: Pipeline, plan: FeaturePlan, schema: Schema) -> PlanReasons | None:
    """How the alerts of a pipeline are explained; None without a decision."""
    decision = pipeline.decision
    if decision is None:
        return None
    return planner(
        plan, schema, alert_below=decision.alert_when == "below", asks_model=decision.reasons == "model"
    )


def _watcher(pipeline: Pipeline, plan: FeaturePlan, meter: Meter, privacy: Privacy | None) -> Watcher | None:
    if pipeline.watch is None or pipeline.model is None:
        return None
    return Watcher(pipeline, plan, meter, _worker_id(pipeline), privacy)


def _worker_id(pipeline: Pipeline) -> str:
    """The transactional id: unique among live workers, stable across restarts where the file says one."""
    return f"{pipeline.kafka.group}-{worker_name(pipeline)}"


def _warm(
    codec: Codec, decode_plan: DecodePlan, plan: FeaturePlan, decision: DecisionPolicy | None, meter: Meter
) -> None:
    """Compile every kernel and load the codec before the first event, on no events."""
    empty, _ = decode(records_of("", []), codec, decode_plan, 0)
    rows = HotRows(plan.layout, 1)
    enrich(empty, plan, Lanes(rows, MemoryStore(), "warm", "warm"), (), meter)
    _warm_packing(rows)
    for lookup in plan.lookups:
        mirror, one = Mirror(MemoryStore(), ("", ""), lookup.layout), np.zeros(1, np.int64)
        _warm_packing(mirror.rows)
        read_lookup(mirror, lookup.group, [b""], one.astype(np.int32), one, one)
        partitions(empty.records.keys, 1, lookup.owner.source.partitioner)
    stable_hash(keys_of([]))  # what a canary's share goes by
    if decision is not None:
        none = np.zeros(0, np.int64)
        no = np.zeros(0, np.bool_)
        holds = np.zeros((0, len(decision.rules)), np.bool_)
        decide(np.zeros(0, np.float32), none, none, no, rows.alert_level, rows.alert_us, decision, holds)


def _warm_packing(rows: HotRows) -> None:
    keys = keys_of([b"warm"])
    firsts, _ = distinct(keys)
    keys.gathered()  # as a write does it with more keys
    command((b"GET", *keys.to_list()))
    slots = rows.add(keys.take(firsts).to_list(), 0)
    unpack(rows, slots, pack(rows, slots, 0))
    rows.drop_lane(0)
