"""How each topic that a pipeline names has to be: partitions, retention, compaction, and what differs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from worker.config import LookupFeature, Pipeline, WindowFeature, load_pipeline
from worker.key_types import UNITS_US, write_duration

DAY_MS: Final = UNITS_US["d"] // 1000
DEFAULT_PARTITIONS: Final = 6
HEADERS_BYTES: Final = 1 << 16  # more than a dead letter's own headers, and what a batch of one record adds
_BROKER_BYTES: Final = 1_048_588  # max.message.bytes unless somebody says otherwise
_OUTPUT_DAYS, _DEAD_DAYS = 7, 30
POLICY, RETENTION = "cleanup.policy", "retention.ms"
LARGEST, AHEAD = "max.message.bytes", "message.timestamp.after.max.ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One topic as it has to be."""

    name: str
    use: str  # source, lookup, scores, alerts, dead_letters, watch, shadow, control, labels, truth
    partitions: int | None  # None: as many as the input has
    config: Mapping[str, str] = field(default_factory=dict)
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing of a topic that is there, and is not as it has to be."""

    what: str  # partitions, or the name of a setting
    found: str
    wanted: str
    breaks: bool  # a promise; else it is only told
    do: str


def wanted_topics(pipeline: Pipeline) -> list[Wanted]:
    """Every topic that a pipeline reads or writes, each once, its input first."""
    found: dict[str, Wanted] = {}
    for each in _topics(pipeline):
        found[each.name] = _both(found[each.name], each) if each.name in found else each
    return list(found.values())


def _both(first: Wanted, second: Wanted) -> Wanted:
    """A topic of two uses, such as labels that are looked up as well: kept for the longer of both."""
    longest = max((each.config.get(RETENTION, "0") for each in (first, second)), key=int)
    config = {**second.config, **first.config}
    return replace(first, config=config | ({RETENTION: longest} if RETENTION in config else {}))


def _topics(pipeline: Pipeline) -> Iterator[Wanted]:
    outputs, truth, rollout = pipeline.outputs, pipeline.truth, pipeline.rollout
    yield _input(pipeline, "source")
    for feature in pipeline.features.values():
        if isinstance(feature, LookupFeature):
            yield _input(load_pipeline(feature.pipeline), "lookup")
    horizon_ms = 0 if truth is None else truth.horizon_ms + DAY_MS
    kept = _kept(max(_OUTPUT_DAYS * DAY_MS, horizon_ms))
    why = "as long as a score waits for its label, and a day" if horizon_ms > _OUTPUT_DAYS * DAY_MS else ""
    if pipeline.model is not None and outputs.scores is not None:
        yield Wanted(name=outputs.scores, use="scores", partitions=None, config=kept, why=why)
    if pipeline.decision is not None and outputs.alerts is not None:
        yield Wanted(name=outputs.alerts, use="alerts", partitions=None, config=kept, why=why)
    dead = {
        **_kept(max(_DEAD_DAYS * DAY_MS, input_retention_ms(pipeline))),
        LARGEST: str(max(_BROKER_BYTES, pipeline.source.max_record_bytes) + HEADERS_BYTES),
    }
    yield Wanted(
        name=outputs.dead_letters, use="dead_letters", partitions=1, config=dead,
        why="a dead letter is its record, as large as any, and headers",
    )  # fmt: skip
    if outputs.watch is not None and (pipeline.watch is not None or rollout is not None):
        yield Wanted(name=outputs.watch, use="watch", partitions=1, config=_kept(_DEAD_DAYS * DAY_MS))
    if rollout is not None:
        if rollout.shadow is not None:
            yield Wanted(
                name=rollout.shadow, use="shadow", partitions=None, config=_kept(_OUTPUT_DAYS * DAY_MS)
            )
        yield Wanted(
            name=rollout.control, use="control", partitions=1, config={POLICY: "compact"},
            why="one order of changes for all, and the history",
        )  # fmt: skip
    if truth is not None:
        yield Wanted(
            name=truth.labels.topic, use="labels", partitions=None,
            config=_kept(max(_OUTPUT_DAYS * DAY_MS, horizon_ms)), why=why,
        )  # fmt: skip
        yield Wanted(
            name=truth.topic, use="truth", partitions=1, config={POLICY: "compact"}, why="its newest figures"
        )


def input_retention_ms(pipeline: Pipeline) -> int:
    """How long an input is kept so that lost rows can be made again from it, in whole days."""
    windows = [each for each in pipeline.features.values() if isinstance(each, WindowFeature)]
    back_us = max((max(each.windows_us) + each.allowed_lateness_us for each in windows), default=0)
    if pipeline.decision is not None:
        back_us += pipeline.decision.cooldown_us or 0
    back_us += pipeline.source.max_future_us or 0
    days = math.ceil(back_us / UNITS_US["d"]) + 1  # a day in which to notice, and to read
    return max(_OUTPUT_DAYS, days) * DAY_MS


def _input(pipeline: Pipeline, use: Literal["source", "lookup"]) -> Wanted:
    source = pipeline.source
    config = _kept(input_retention_ms(pipeline))
    if source.max_record_bytes > _BROKER_BYTES:
        config[LARGEST] = str(source.max_record_bytes + HEADERS_BYTES)
    if source.max_future_us is not None:
        config[AHEAD] = str(max(1, source.max_future_us // 1000))
    why = "longer than the longest window and its lateness, so that lost rows can be made again"
    return Wanted(name=source.topic, use=use, partitions=None, config=config, why=why)


def _kept(retention_ms: int) -> dict[str, str]:
    return {POLICY: "delete", RETENTION: str(retention_ms)}


def differences(
    wanted: Wanted, partitions: int, found: Mapping[str, str], partitions_wanted: int | None
) -> list[Difference]:
    """What of a topic is not as it has to be; nothing of it is ever changed by us.

    Args:
        wanted: how it has to be.
        partitions: how many it has.
        found: its settings, as the broker tells them; one that is missing the broker does not know.
        partitions_wanted: how many it should have; None: any number will do.
    """
    told = [_partitions(wanted, partitions, partitions_wanted)]
    told += [
        _setting(wanted, name, value, found[name]) for name, value in wanted.config.items() if name in found
    ]
    return [each for each in told if each is not None]


def _partitions(wanted: Wanted, found: int, expected: int | None) -> Difference | None:
    if expected is None or found == expected:
        return None
    if wanted.use == "control":
        do, breaks = "make another topic for rollout.control: Kafka cannot take partitions back", True
    elif wanted.use in ("source", "lookup"):
        do, breaks = "keys would move: docs/operating.md, More partitions, says how", True
    elif wanted.partitions is not None:
        return None  # of such a topic more will do
    else:
        do, breaks = "nothing, unless readers join it with the input by partition", False
    return Difference(what="partitions", found=str(found), wanted=str(expected), breaks=breaks, do=do)


def _setting(wanted: Wanted, name: str, value: str, found: str) -> Difference | None:
    if name == POLICY:
        fits, breaks = set(found.split(",")) == {value}, True
    elif name == RETENTION:
        fits, breaks = (
            int(found) < 0 or int(found) >= int(value),
            wanted.use in ("source", "lookup", "labels"),
        )
    elif name == LARGEST:
        fits, breaks = int(found) >= int(value), True
    else:
        fits, breaks = int(found) <= int(value), False
    if fits:
        return None
    return Difference(
        what=name,
        found=shown_setting(name, found),
        wanted=shown_setting(name, value),
        breaks=breaks,
        do=f"kafka-configs.sh --bootstrap-server ... --alter --topic {wanted.name} "
        f"--add-config {name}={value}",
    )


def shown_setting(name: str, value: str) -> str:
    """A setting's value for a person: durations with their unit."""
    if name.endswith(".ms") and value.lstrip("-").isdecimal():
        at_ms = int(value)
        return "forever" if at_ms < 0 or at_ms > 36_500 * DAY_MS else write_duration(at_ms * 1000)
    return f"{int(value):,} bytes" if name == LARGEST and value.isdecimal() else value
