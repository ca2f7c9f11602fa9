"""A pipeline's model versions, opened: what serves at the start, and how others take its place."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import structlog

from worker.comparison import Comparison
from worker.composite import load_version, seconds_of
from worker.config import Pipeline
from worker.control import ControlError, ControlLog, ControlWriter, Routing, create_control_topic
from worker.exits import Exit, StopWorker
from worker.feeds import check_interval
from worker.metrics import Meter
from worker.plan import FeaturePlan, worker_name
from worker.precision_guard import labels_of
from worker.repository import fetch, newest
from worker.rollout import Rollout
from worker.rollout_types import Rollout as RolloutOptions
from worker.router import Router, Serving
from worker.rules import scoring_rule
from worker.scoring import Scorer
from worker.session import ModelError

_LOOKS, _BETWEEN_LOOKS_S = 5, 0.05  # before a version is called slow
_OVERHEAD_S = 0.0005  # a version may take so much longer whatever the ratio: a batch waits for other things


def open_versions(
    pipeline: Pipeline, plan: FeaturePlan, meter: Meter
) -> tuple[Router | None, Rollout | None]:
    """What scores the pipeline's events, and what changes it while it runs.

    Raises:
        ModelError, ConfigError: the version that is to serve does not prove itself. A start never degrades.
        StopWorker: the control topic does not answer.
    """
    ref, options = pipeline.model, pipeline.rollout
    if ref is None:
        return None, None
    opened = partial(open_scorer, pipeline, plan)
    if options is None:
        return Router(Serving(champion=opened(ref.version)), meter.stands_on), None
    properties = pipeline.kafka.client_properties()
    try:
        create_control_topic(properties, options.control)
    except ControlError as error:
        # Whoever may not make topics has it made; where it is missing, nothing is changed.
        structlog.get_logger(pipeline=pipeline.name).warning("no control topic of ours", why=str(error))
    log, writer = ControlLog(properties, options.control), ControlWriter(properties, options.control)
    try:
        decided = log.read_to_end()
    except ControlError as error:
        raise StopWorker(Exit.KAFKA, str(error)) from error
    change, routing = decided.routing(pipeline.name), decided.in_force(pipeline.name, ref.version)
    compare = partial(_comparison, pipeline, options)
    if routing.is_shadow and (options.shadow is None or not log.has_topic(options.shadow)):
        routing, change = (
            replace(routing, challenger=None, is_shadow=False),
            None,
        )  # told when it is tried again
    revision = change.revision if change else 0
    router = Router(_first_serving(pipeline, routing, revision, opened, compare), meter.stands_on)
    rollout = Rollout(
        pipeline.name,
        worker_name(pipeline),
        router,
        log,
        writer,
        at_start=ref.version,
        open_scorer=opened,
        compare=compare,
        check=partial(check_latency, plan, pipeline.batching.max_rows, options.max_slowdown),
        meter=meter,
        labels=labels_of(pipeline),
        precision_ratio=options.guards.precision_ratio,
        shadow=options.shadow,
        newest=partial(newest, ref.repository, ref.name),
        poll_s=None if options.poll_ms is None else options.poll_ms / 1000,
    )
    return router, rollout


def _first_serving(
    pipeline: Pipeline,
    routing: Routing,
    revision: int,
    opened: Callable[[str], Scorer],
    compare: Callable[[], Comparison],
) -> Serving:
    """What the control topic asks for; where a version was promoted that cannot serve, the one before it."""
    log = structlog.get_logger(pipeline=pipeline.name)
    is_whole, champion, challenger = True, None, None
    candidates = list(dict.fromkeys((routing.champion, *reversed(routing.before))))
    for version in candidates:
        try:
            champion = opened(version)
            break
        except Exception as error:
            if version == candidates[-1]:
                raise
            is_whole = False
            log.error("a promoted version cannot serve: the one before it", version=version, why=str(error))
    assert champion is not None
    if routing.challenger is not None and is_whole:
        try:
            challenger = opened(routing.challenger)
        except Exception as error:
            is_whole = False
            log.error("the challenger is left out", version=routing.challenger, why=str(error))
    return Serving(
        revision=revision if is_whole else 0,  # of another: it is tried again, and told
        champion=champion,
        challenger=challenger,
        is_shadow=routing.is_shadow,
        share=routing.share,
        comparison=compare() if challenger else None,
    )


def check_latency(
    plan: FeaturePlan, max_rows: int, max_slowdown: float, new: Scorer, serving: Scorer
) -> None:
    """Refuse a version that takes too long for the batches in use.

    Raises:
        ModelError: it does.
    """
    for rows in sorted({1, min(64, max_rows), max_rows}):
        new_s = old_s = math.inf
        for _ in range(_LOOKS):  # a busy machine may slow one of the two down for a while
            try:
                new_s = min(new_s, seconds_of(new.loaded, plan, rows))
                old_s = min(old_s, seconds_of(serving.loaded, plan, rows))
            except Exception as error:
                raise ModelError(
                    f"version {new.card.version} does not run on {rows} events: {error}"
                ) from error
            if new_s <= old_s * max_slowdown + _OVERHEAD_S:
                break
            time.sleep(_BETWEEN_LOOKS_S)
        else:
            raise ModelError(
                f"version {new.card.version} takes {new_s * 1000:.3g} ms for {rows} events, version "
                f"{serving.card.version} {old_s * 1000:.3g} ms: more than {max_slowdown:g} times as long "
                f"(rollout.max_slowdown)"
            )


def open_scorer(pipeline: Pipeline, plan: FeaturePlan, version: str) -> Scorer:
    """A version of the pipeline's model, loaded, checked and warm.

    Raises:
        ModelError, ConfigError: it does not prove itself.
    """
    ref = pipeline.model
    assert ref is not None
    on_cpu, by_rules = ref.when_device_fails == "cpu", ref.when_model_fails == "rules"
    scorer = Scorer(
        partial(load_version, fetch(ref.repository, ref.name, version), plan),
        ref.device,
        has_spare=on_cpu,
        rule=scoring_rule(str(ref.rules), plan.names, ref.rules_score) if by_rules else None,
        pipeline=pipeline.name,
    )
    check_interval(pipeline, scorer.card)
    return scorer


def _comparison(pipeline: Pipeline, options: RolloutOptions) -> Comparison:
    decision = pipeline.decision
    alerts_at = options.alerts_at
    if alerts_at is None:
        alerts_at = next(iter(decision.severities.values())) if decision else math.nan
    is_below = decision is not None and decision.alert_when == "below"
    return Comparison(options.guards, alerts_at, alerts_below=is_below)
