"""Which topics there are, without making any by asking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from confluent_kafka import KafkaException

from worker.config import Pipeline
from worker.exits import Exit, StopWorker

_ANSWER_S = 10.0


def topics_there(client: Any, pipeline: Pipeline) -> dict[str, int]:
    """Partitions of every topic of the cluster.

    Raises:
        StopWorker: Kafka does not answer.
    """
    try:
        # All of them: to ask for one by name may create it.
        found = client.list_topics(timeout=_ANSWER_S).topics
    except KafkaException as error:
        raise StopWorker(
            Exit.KAFKA,
            f"no broker answered within {_ANSWER_S:g} s ({error.args[0].str()}): is Kafka at "
            f"{pipeline.kafka.bootstrap!s}? Set PENSTOCK_KAFKA or kafka.bootstrap",
        ) from error
    return {name: len(topic.partitions) for name, topic in found.items()}


def require_topics(client: Any, pipeline: Pipeline, names: Sequence[str]) -> dict[str, int]:
    """The partitions of these topics.

    Raises:
        StopWorker: one of them does not exist, or Kafka does not answer.
    """
    there = topics_there(client, pipeline)
    for name in names:
        if not there.get(name):
            raise StopWorker(
                Exit.KAFKA,
                f"topic {name!r} does not exist: `penstock topics create {pipeline.path}` makes it, or mend "
                "its name in the file",
            )
    return {name: there[name] for name in names}
