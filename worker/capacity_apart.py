"""A pipeline as a capacity run loads it: on topics, a group and rows of its own, and otherwise as it is."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from worker.access_types import Admin
from worker.config import LookupFeature, Pipeline, load_pipeline
from worker.format_types import default_wire
from worker.logs import configure_logs

TOKEN_VARIABLE = "PENSTOCK_CAPACITY_TOKEN"
PREFIX = "penstock-capacity-"


def apart(pipeline: Pipeline, prefix: str, token: str) -> Pipeline:
    """The same work for the same model, touching nothing that the pipeline itself uses.

    Rows are named by the group (`feature_cache.lanes.lane_name`), so a group of its own is a place of its own
    in the store. What is only read stays as it is: the model, profiles, and the rows of pipelines that are
    looked up, for which nothing waits.

    Args:
        prefix: what its topics and its group begin with.
        token: with which it can be paused over HTTP.
    """
    outputs = pipeline.outputs

    def own(topic: str | None, name: str) -> str | None:
        return None if topic is None else f"{prefix}{name}"

    features = {
        name: replace(feature, when_behind="use") if isinstance(feature, LookupFeature) else feature
        for name, feature in pipeline.features.items()
    }
    return replace(
        pipeline,
        features=features,
        kafka=replace(pipeline.kafka, group=f"{prefix}group", static_membership=False),
        source=replace(
            pipeline.source,
            topic=f"{prefix}events",
            wire=default_wire(pipeline.source.format),
            registry=None,
            writer_schemas=(),
            start="earliest",
        ),
        outputs=replace(
            outputs,
            scores=own(outputs.scores, "scores"),
            alerts=own(outputs.alerts, "alerts"),
            dead_letters=f"{prefix}dead-letters",
            watch=own(outputs.watch, "watch"),
            wire=default_wire(outputs.format),
            registry=None,
        ),
        delivery=replace(pipeline.delivery, worker_id=None),
        rollout=None,
        truth=None,
        tracing=None,  # nobody wants to see a load that is made up
        admin=Admin(host="127.0.0.1", port=0, token=token),
    )


def topics_of(pipeline: Pipeline) -> list[str]:
    """Every topic that it reads or writes."""
    outputs = pipeline.outputs
    named = (pipeline.source.topic, outputs.scores, outputs.alerts, outputs.dead_letters, outputs.watch)
    return [topic for topic in named if topic is not None]


def main(words: list[str]) -> int:
    """Run FILE under PREFIX until SIGTERM, or until whoever holds our standard input is gone."""
    from worker.processes import leave_with_parent
    from worker.service import serve

    file, prefix = words
    pipeline = apart(load_pipeline(Path(file)), prefix, os.environ[TOKEN_VARIABLE])
    configure_logs(pipeline.secrets | {os.environ[TOKEN_VARIABLE]})
    leave_with_parent()
    return serve([pipeline])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
