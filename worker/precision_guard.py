"""What labels say of each version, for the guard on precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from worker.comparison import Flagged
from worker.config import Pipeline
from worker.truth_topic import figures_codec, read_figures

_ALL = "all"  # the segment of all events


def labels_of(pipeline: Pipeline) -> Callable[[], Mapping[str, Flagged]] | None:
    """A function to what the topic of the figures says (docs/truth.md); None: the pipeline has no labels.

    It raises what `read_figures` raises.
    """
    if pipeline.truth is None:
        return None
    codec = figures_codec(pipeline, writes=False)

    def read() -> Mapping[str, Flagged]:
        rows = read_figures(pipeline, codec).values()
        lowest = {row["model_version"]: row["thresholds"][0] for row in rows if row["segment"] == _ALL}
        return {version: (at["flagged"], at["right"]) for version, at in lowest.items()}

    return read
