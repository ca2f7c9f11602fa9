"""Plausible events for a schema that nobody has sent any of yet."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.schema import Schema
from schemas.slow import to_batch
from schemas.tree import Node, nullable
from worker.composite_card import read_cards
from worker.config import FieldFeature, LookupFeature, Pipeline, SequenceFeature, WindowFeature
from worker.model_file import Reference

EVENTS = 50_000
HELD_PER_KEY = 64  # events that a key has in its longest window, or half of `capacity` where that is less
_STEP_US = 1_000_000  # between two readings of a key, where there are no windows
_TEXTS = 100
_LOOKED_UP = 10_000
_SEED = 7


def generated(pipeline: Pipeline, schema: Schema, keys: int) -> pa.RecordBatch:
    """(EVENTS,) events in the order of their time.

    Keys come equally often, at a pace that leaves HELD_PER_KEY events in the longest window. Numbers are
    spread as the model's card says that their feature was, else like amounts (log-normal); a null is one in
    twenty, a flag is set as often.
    """
    rng = np.random.default_rng(_SEED)
    source, references = pipeline.source, _references(pipeline)
    looked_up = {f.key for f in pipeline.features.values() if isinstance(f, LookupFeature)}
    step_us = _step_us(pipeline) / keys
    times_us = time.time_ns() // 1000 + (np.arange(EVENTS) * step_us).astype(np.int64)
    made: dict[str, list[Any]] = {}
    for field in schema.tree.fields:
        name, node = field.name, field.node
        if name == source.event_time:
            micros = node.logical == "timestamp-micros"
            made[name] = (times_us if micros else times_us // 1000).tolist()
        elif name == source.event_id:
            made[name] = _named(node, "", np.arange(EVENTS))
        elif name == source.key:
            made[name] = _named(node, "k", rng.integers(0, keys, EVENTS))
        elif name in looked_up:
            made[name] = _named(node, "l", rng.integers(0, _LOOKED_UP, EVENTS))
        else:
            made[name] = _values(node, rng, references.get(name), EVENTS)
    return to_batch(schema, [dict(zip(made, row, strict=True)) for row in zip(*made.values(), strict=True)])


def _step_us(pipeline: Pipeline) -> float:
    """Event time between two events of a key."""
    windows = [f for f in pipeline.features.values() if isinstance(f, WindowFeature)]
    return min(
        (max(f.windows_us) / max(1, min(HELD_PER_KEY, f.capacity // 2)) for f in windows), default=_STEP_US
    )


def _references(pipeline: Pipeline) -> Mapping[str, Reference]:
    """How event fields were distributed over the training rows, as far as the model's card says."""
    if pipeline.model is None:
        return {}
    found: dict[str, Reference] = {}
    for card in read_cards(pipeline.model.fetched())[1]:
        for name, feature in pipeline.features.items():
            if isinstance(feature, FieldFeature) and name in card.reference:
                found[feature.field] = card.reference[name]
            elif isinstance(feature, SequenceFeature):
                known = {f: card.reference.get(f"{name}.{f}") for f in feature.fields}
                found |= {f: reference for f, reference in known.items() if reference is not None}
    return found


def _named(node: Node, prefix: str, number: NDArray[np.int64]) -> list[Any]:
    """Texts or integers that tell entities apart."""
    kind = (nullable(node) or (node, 0))[0].kind
    return [f"{prefix}{n}" for n in number.tolist()] if kind == "string" else list(number.tolist())


def _values(  # noqa: PLR0911 a line a type
    node: Node, rng: np.random.Generator, reference: Reference | None, n: int
) -> list[Any]:
    optional = nullable(node)
    if optional is not None:
        inner = _values(optional[0], rng, reference, n)
        return [None if gone else value for gone, value in zip(rng.random(n) < 0.05, inner, strict=True)]
    if node.logical:
        return [time.time_ns() // (1000 if node.logical == "timestamp-micros" else 1_000_000)] * n
    if node.kind in {"float", "double"}:
        return list(_numbers(rng, reference, n).tolist())
    if node.kind in {"int", "long"}:
        return list(np.rint(_numbers(rng, reference, n)).astype(np.int64).tolist())
    if node.kind == "boolean":
        return list((rng.random(n) < 0.05).tolist())
    if node.kind == "string":
        return [f"value{i}" for i in rng.integers(0, _TEXTS, n).tolist()]
    if node.kind == "enum":
        return [node.symbols[i] for i in rng.integers(0, len(node.symbols), n).tolist()]
    if node.kind in {"bytes", "fixed"}:
        return [rng.bytes(node.size or 16)] * n
    if node.kind == "array":
        return [[value] for value in _values(node.inner, rng, None, n)]
    if node.kind == "map":
        return [{"value": value} for value in _values(node.inner, rng, None, n)]
    if node.kind == "record":
        parts = {field.name: _values(field.node, rng, None, n) for field in node.fields}
        return [dict(zip(parts, row, strict=True)) for row in zip(*parts.values(), strict=True)]
    if node.kind == "union":
        return _values(next(b for b in node.branches if b.kind != "null"), rng, reference, n)
    return [None] * n


def _numbers(rng: np.random.Generator, reference: Reference | None, n: int) -> NDArray[np.float64]:
    """(n,) numbers with the quantiles of the reference; without one, log-normal around 50."""
    if reference is None:
        return np.round(rng.lognormal(np.log(50.0), 0.8, n), 2)
    shares, at = [0.01, 0.5, 0.99], [reference.p01, reference.p50, reference.p99]
    if len(reference.edges) > 1 and reference.shares:
        inner = np.cumsum(reference.shares)[:-1]
        known = sorted({*zip(shares, at, strict=True), *zip(inner.tolist(), reference.edges, strict=True)})
        shares, at = [s for s, _ in known], np.maximum.accumulate([v for _, v in known]).tolist()
    return np.asarray(np.interp(rng.random(n), shares, at))
