"""Checks that the section watch fits the features and the model's card."""

from __future__ import annotations

from collections.abc import Iterator

from worker.composite_card import read_cards
from worker.feature_types import FieldFeature, SequenceFeature, WindowFeature
from worker.pipeline_types import Pipeline
from worker.yaml_lines import ConfigError, KeyPath, show


def watch_problems(pipeline: Pipeline) -> Iterator[tuple[KeyPath, str, str]]:
    """Yield where, what was found, and what was expected."""
    watch = pipeline.watch
    if watch is None:
        return
    if pipeline.model is not None and pipeline.outputs.watch is None:
        yield ("outputs", "watch"), "nothing", "a topic, as there is a watch section"
    if watch.drift is not None and pipeline.model is None:
        yield ("watch", "drift"), "drift without a model", "a model section"
    yield from _drift(pipeline)
    yield from _quality(pipeline)


def _drift(pipeline: Pipeline) -> Iterator[tuple[KeyPath, str, str]]:
    assert pipeline.watch is not None
    drift, model = pipeline.watch.drift, pipeline.model
    if drift is None or model is None or not (model.folder / "model.yaml").is_file():
        return
    try:
        composite, cards = read_cards(model.folder)
        card = composite or cards[0]
    except ConfigError:
        return  # whoever loads the model says what is wrong with it
    known = [name for name, reference in card.reference.items() if reference.shares]
    if not known:
        found = f"a model whose card has no reference with edges and shares ({card.folder / 'model.yaml'})"
        yield ("watch", "drift"), found, "one that has; see docs/watch.md"
    for at, name in enumerate(drift.features or ()):
        if known and name not in known:
            path: KeyPath = ("watch", "drift", "features", at)
            yield path, show(name), f"a feature with a reference in the card: {', '.join(known)}"


def _quality(pipeline: Pipeline) -> Iterator[tuple[KeyPath, str, str]]:
    assert pipeline.watch is not None
    features = pipeline.features.values()
    sequences = [set(feature.fields) for feature in features if isinstance(feature, SequenceFeature)]
    read = {feature.field for feature in features if isinstance(feature, FieldFeature)}
    read |= {feature.over for feature in features if isinstance(feature, WindowFeature)}
    read = read.union(*sequences)
    wanted: set[str] = set()
    for field, check in pipeline.watch.quality.items():
        at: KeyPath = ("watch", "quality", field)
        if field not in read:
            yield at, f"{show(field)}, which no feature reads", f"one of {', '.join(sorted(read)) or 'none'}"
            continue
        if not check.needs_history:
            continue
        wanted.add(field)
        if not any(wanted <= fields for fields in sequences):
            yield at, show(field), "fields of one sequence feature: it remembers the readings before"
        capacity = max(
            (f.capacity for f in features if isinstance(f, SequenceFeature) and field in f.fields), default=0
        )
        if check.stuck_events is not None and check.stuck_events > capacity + 1:
            yield (
                (*at, "stuck_events"),
                str(check.stuck_events),
                f"at most {capacity + 1}, what is remembered",
            )
