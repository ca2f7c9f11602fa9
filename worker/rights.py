"""What the pipeline's Kafka user must be allowed to do, checked before the first event is read."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AclOperation, AdminClient

from worker.exits import Exit, StopWorker
from worker.pipeline_types import Pipeline

_ANSWER_S = 10.0
_UNAUTHORIZED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "topic",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "group",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "transactional id",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "cluster",
}


def check_rights(pipeline: Pipeline, admin: AdminClient) -> None:
    """Check that the topics of a pipeline may be read and written; those that do not exist are passed over.

    The group and the transactional id show themselves when they are first used (`unauthorized`).

    Raises:
        StopWorker: names the topic and every right that is missing.
    """
    missing = list(missing_rights(pipeline, admin))
    if missing:
        raise StopWorker(Exit.KAFKA, f"missing rights in Kafka: {'; '.join(missing)}")


def missing_rights(pipeline: Pipeline, admin: AdminClient) -> Iterator[str]:
    """Yield one sentence for each topic with a right missing; none where the broker does not say."""
    outputs = pipeline.outputs
    # With transactions outputs are also read: after an outage, whether what was committed is there.
    is_read = pipeline.delivery.mode == "exactly_once"
    of_outputs = (AclOperation.WRITE, AclOperation.READ) if is_read else (AclOperation.WRITE,)
    shadow = pipeline.rollout.shadow if pipeline.rollout else None
    topics = (outputs.scores, outputs.alerts, outputs.dead_letters, outputs.watch, shadow)
    wanted = {topic: of_outputs for topic in topics if topic}
    wanted[pipeline.source.topic] = (AclOperation.READ,)
    if pipeline.rollout is not None:
        wanted[pipeline.rollout.control] = (AclOperation.READ, AclOperation.WRITE)
    if pipeline.truth is not None:
        joined = {t: (AclOperation.WRITE, AclOperation.READ) for t in (outputs.scores, outputs.alerts) if t}
        wanted |= {**joined, pipeline.truth.topic: (AclOperation.WRITE, AclOperation.READ)}
        wanted.setdefault(pipeline.truth.labels.topic, (AclOperation.READ,))
    asked = admin.describe_topics(
        TopicCollection(list(wanted)), include_authorized_operations=True, request_timeout=_ANSWER_S
    )
    for topic, answer in asked.items():
        missing = [right.name.title() for right in wanted[topic] if not _may(answer, right)]
        if missing:
            yield f"{' and '.join(missing)} on topic {topic!r}"


def _may(answer: Future[Any], right: AclOperation) -> bool:
    try:
        allowed = answer.result(_ANSWER_S + 1).authorized_operations
    except KafkaException as error:
        return bool(error.args[0].code() != KafkaError.TOPIC_AUTHORIZATION_FAILED)
    # Empty: a broker too old to say, as whoever may see a topic at all has at least Describe.
    return not allowed or right in allowed


def unauthorized(error: Any, *, topic: str = "", group: str = "", transactional_id: str = "") -> str | None:
    """Return the missing right in a sentence; None when the error is about something else.

    Args:
        error: a KafkaError.
        topic: the topic that the failed call was about, and so on; only what the error is about is named.
    """
    kind = _UNAUTHORIZED.get(error.code())
    if kind is None:
        return None
    grant = {
        "topic": f"Read (inputs) or Write (outputs) on topic {topic!r}",
        "group": f"Read on group {group!r}",
        "transactional id": f"Write and Describe on transactional id {transactional_id!r}",
        "cluster": "IdempotentWrite on the cluster",
    }[kind]
    return f"missing rights in Kafka: {grant} ({error.str()})"
