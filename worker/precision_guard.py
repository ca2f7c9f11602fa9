"""The guard on precision: what labels say of a challenger, beside the version that serves."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from confluent_kafka import KafkaException

from worker.comparison import Trip, precision_trip
from worker.config import Pipeline
from worker.exits import StopWorker
from worker.rollout_types import Rollout
from worker.truth_topic import Row, figures_codec, read_figures

_ALL = "all"  # the segment of all events


def precision_of(pipeline: Pipeline, options: Rollout) -> Callable[[str, str], Trip | None]:
    """A function of two versions, the one that serves first, to the guard if it is broken.

    It reads the topic of the figures (docs/truth.md). Where there are no labels, or nobody answers, it is
    never broken: this guard speaks late or not at all, the others do not wait for it.
    """
    most = options.guards.precision_ratio
    if pipeline.truth is None or most is None:
        return lambda _old, _new: None
    codec = figures_codec(pipeline, writes=False)

    def broken(old: str, new: str) -> Trip | None:
        try:
            rows = read_figures(pipeline, codec).values()
        except (KafkaException, StopWorker) as error:
            structlog.get_logger(pipeline=pipeline.name).warning("no figures to judge by", error=str(error))
            return None
        of_all = {row["model_version"]: row for row in rows if row["segment"] == _ALL}
        if old not in of_all or new not in of_all:
            return None
        return precision_trip(_flagged(of_all[old]), _flagged(of_all[new]), most)

    return broken


def _flagged(row: Row) -> tuple[int, int]:
    """Events with a label that reached the lowest threshold, and those that were right."""
    lowest = row["thresholds"][0] if row["thresholds"] else {"flagged": 0, "right": 0}
    return lowest["flagged"], lowest["right"]
