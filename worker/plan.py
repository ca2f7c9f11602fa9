"""A pipeline file as what each step of the line needs to know."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from feature_cache.layout import Group, Layout, SequenceGroup, WindowGroup
from feature_cache.order import ORDERS, TimePolicy
from feature_cache.profiles import ProfileTable
from schemas.registry import RegistrySettings
from schemas.schema import Schema
from worker.batcher import BatchPolicy
from worker.config import (
    CalendarFeature,
    FieldFeature,
    LookupFeature,
    Pipeline,
    ProfileFeature,
    SequenceFeature,
    WindowFeature,
    feature_names,
    load_pipeline,
    profile_names,
)
from worker.decide import DecisionPolicy
from worker.decision_rules import parse_decision_rule
from worker.decode import DecodePlan, time_unit_us
from worker.quality import QualityPlan, quality_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupPlan:
    """A lookup, and what the other pipeline's rows look like."""

    feature: LookupFeature
    column: int
    owner: Pipeline
    layout: Layout
    group: WindowGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfilePlan:
    """A profile's columns, and which rows feed them."""

    column: int
    key: str | None  # event field; None: the record key
    table: ProfileTable


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturePlan:
    """Which feature is computed how, and into which column."""

    names: tuple[str, ...]  # (f,) scalar columns, in the order of the file
    layout: Layout
    keeps_rows: bool  # False: nothing depends on what the entity did before, so nothing is remembered of it
    times: TimePolicy
    fields: tuple[tuple[int, str], ...]  # column, event field
    calendars: tuple[tuple[int, CalendarFeature], ...]
    windows: tuple[tuple[int, WindowGroup, str], ...]  # first column, group, event field
    sequences: tuple[SequenceGroup, ...]
    lookups: tuple[LookupPlan, ...]
    profiles: tuple[ProfilePlan, ...]
    finite: tuple[str, ...]  # event fields that must not be null, NaN or infinite
    quality: QualityPlan | None = None  # how readings are judged before features see them


def window_group(name: str, feature: WindowFeature) -> WindowGroup:
    """The remembered events behind a window feature; windows ascending, whatever the file's order."""
    by_length = sorted(zip(feature.windows_us, feature.windows, strict=True))
    return WindowGroup(
        name=name,
        over=feature.over,
        windows_us=tuple(length_us for length_us, _ in by_length),
        window_labels=tuple(label for _, label in by_length),
        aggregates=tuple(feature.aggregates),
        capacity=feature.capacity,
        allowed_lateness_us=feature.allowed_lateness_us,
    )


def row_layout(pipeline: Pipeline) -> Layout:
    """The rows that a pipeline keeps."""
    groups: list[Group] = []
    for name, feature in pipeline.features.items():
        if isinstance(feature, WindowFeature):
            groups.append(window_group(name, feature))
        elif isinstance(feature, SequenceFeature):
            groups.append(
                SequenceGroup(
                    name=name,
                    fields=tuple(feature.fields),
                    length=feature.length,
                    capacity=feature.capacity,
                    every_us=feature.every_us,
                    fill=feature.fill,
                    warm_up=feature.warm_up,
                    complete_from=feature.complete_from,
                )
            )
    return Layout(groups=tuple(groups))


def keeps_rows(pipeline: Pipeline, layout: Layout) -> bool:
    """Whether an outcome can depend on earlier events: by features, alerts, or the order of times."""
    times = time_policy(pipeline)
    is_judged = pipeline.watch is not None and bool(pipeline.watch.quality)  # alerts are told of by row
    return bool(
        layout.groups or pipeline.decision or is_judged or any(times.refuses) or times.clock_back_events
    )


def time_policy(pipeline: Pipeline) -> TimePolicy:
    """The section source.time."""
    source, time = pipeline.source, pipeline.source.time
    refused = {"EQUAL": time.equal, "OUT_OF_ORDER": time.out_of_order, "LATE": time.late}
    return TimePolicy(
        refuses=tuple(refused.get(order) == "dead_letter" for order in ORDERS),
        max_future_us=source.max_future_us if time.future == "score" else None,  # else decode refuses it
        clock_back_us=time.clock_back_by_us,
        clock_back_events=time.clock_back_events if time.clock_back == "reset" else 0,
    )


def feature_plan(pipeline: Pipeline) -> FeaturePlan:
    """Lay out the scalar columns and name what feeds them."""
    names: list[str] = []
    fields: list[tuple[int, str]] = []
    calendars: list[tuple[int, CalendarFeature]] = []
    windows: list[tuple[int, WindowGroup, str]] = []
    sequences: list[SequenceGroup] = []
    lookups: list[LookupPlan] = []
    profiles: list[ProfilePlan] = []
    finite: list[str] = []
    layout = row_layout(pipeline)
    for name, feature in pipeline.features.items():
        column = len(names)
        match feature:
            case FieldFeature():
                fields.append((column, feature.field))
                finite.append(feature.field)
                names.append(name)
            case CalendarFeature():
                calendars.append((column, feature))
                names.append(name)
            case WindowFeature():
                group = window_group(name, feature)
                windows.append((column, group, feature.over))
                finite.append(feature.over)
                names += [f"{name}.{label}" for label in group.columns]
            case SequenceFeature():
                group_of_row = layout.group(name)
                assert isinstance(group_of_row, SequenceGroup)
                sequences.append(group_of_row)
                finite += feature.fields
            case ProfileFeature():
                profiles.append(ProfilePlan(column=column, key=feature.key, table=profile_table(feature)))
                finite += [feature.key] if feature.key is not None else []
                names += profile_names(name, feature)
            case LookupFeature():
                lookup = _lookup_plan(feature, column)
                lookups.append(lookup)
                finite.append(feature.key)
                names += [f"{name}.{label}" for label in lookup.group.columns]
    return FeaturePlan(
        names=tuple(names),
        layout=layout,
        keeps_rows=keeps_rows(pipeline, layout),
        times=time_policy(pipeline),
        fields=tuple(fields),
        calendars=tuple(calendars),
        windows=tuple(windows),
        sequences=tuple(sequences),
        lookups=tuple(lookups),
        profiles=tuple(profiles),
        finite=tuple(dict.fromkeys(finite)),
        quality=quality_plan(pipeline.watch.quality if pipeline.watch else {}, tuple(sequences)),
    )


def decode_plan(pipeline: Pipeline, schema: Schema, finite: tuple[str, ...]) -> DecodePlan:
    """The section source, and which fields features read."""
    source = pipeline.source
    return DecodePlan(
        key=source.key,
        event_time=source.event_time,
        time_unit_us=time_unit_us(schema.arrow.field(source.event_time).type),
        max_future_us=source.max_future_us,
        takes_future=source.time.future == "score",
        finite=finite,
        event_id=source.event_id,
        max_key_bytes=source.max_key_bytes,
    )


def profile_table(feature: ProfileFeature) -> ProfileTable:
    """The rows that a profile feature reads."""
    return ProfileTable(
        prefix=feature.prefix.encode(),
        fields=tuple(feature.fields),
        dtype=np.dtype(feature.dtype).newbyteorder("<"),
        default=feature.default,
    )


def _lookup_plan(feature: LookupFeature, column: int) -> LookupPlan:
    owner = load_pipeline(feature.pipeline)
    layout = row_layout(owner)
    group = layout.group(feature.group)
    assert isinstance(group, WindowGroup)  # the reader of the file has checked it
    return LookupPlan(feature=feature, column=column, owner=owner, layout=layout, group=group)


def batch_policy(pipeline: Pipeline) -> BatchPolicy:
    """The batching section; with an objective this is how it begins, before anything is known."""
    batching = pipeline.batching
    if batching.latency_slo_ms is not None:
        return BatchPolicy(
            max_rows=batching.max_rows, max_bytes=batching.max_bytes, max_wait_ms=0.0, eager=False
        )
    return BatchPolicy(
        max_rows=batching.max_rows,
        max_bytes=batching.max_bytes,
        max_wait_ms=batching.max_wait_ms,
        eager=batching.eager,
    )


def registry_settings(pipeline: Pipeline, url: str) -> RegistrySettings:
    """How to reach the registry of this URL, with the login of the registry section."""
    login = pipeline.registry
    return RegistrySettings(
        url=str(url),
        username=str(login.username or ""),
        password=str(login.password or ""),
        ca_file=_text(login.ca_file),
        cert_file=_text(login.certificate_file),
        key_file=_text(login.key_file),
    )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def decision_policy(pipeline: Pipeline) -> DecisionPolicy | None:
    """The decision section; None when scores raise no alerts."""
    decision = pipeline.decision
    if decision is None:
        return None
    names = feature_names(pipeline) if decision.rules else []
    return DecisionPolicy(
        severities=tuple(decision.severities),
        thresholds=tuple(decision.severities.values()),
        alert_below=decision.alert_when == "below",
        cooldown_us=decision.cooldown_us,
        clear_margin=decision.clear_margin,
        on=decision.on,
        needs_complete=decision.needs_complete,
        rules=tuple(
            parse_decision_rule(
                name,
                str(rule.when),
                rule.combine,
                rule.severity,
                names=names,
                severities=tuple(decision.severities),
            )
            for name, rule in decision.rules.items()
        ),
    )


def worker_name(pipeline: Pipeline) -> str:
    """What this worker is called within its group: as the file says, else by host and process."""
    return str(pipeline.delivery.worker_id or f"{socket.gethostname()}-{os.getpid()}")
