"""What Kafka says that no waiting mends: the worker ends, and says what to do."""

from __future__ import annotations

from confluent_kafka import KafkaError

from worker.exits import Exit, StopWorker
from worker.rights import unauthorized
from worker.transaction_errors import HOPELESS, TOO_LARGE


def stop_if_hopeless(said: KafkaError, *, topic: str, pipeline: str, transactional_id: str) -> None:
    """Return where another try may help.

    Args:
        said: of outputs.
        topic: that the outputs were for; empty where it is not known.

    Raises:
        StopWorker: it does not.
    """
    if said.code() in TOO_LARGE:
        raise StopWorker(
            Exit.KAFKA,
            f"an output{f' to {topic!r}' if topic else ''} is larger than Kafka takes ({said.str()}): "
            f"set max.message.bytes of that topic to that of the input, and some KiB more for headers",
        )
    if said.code() in HOPELESS:
        missing = unauthorized(
            said,
            topic=topic or f"{pipeline}'s outputs",
            group=f"{pipeline}'s",
            transactional_id=transactional_id,
        )
        raise StopWorker(Exit.KAFKA, missing or f"Kafka refuses the outputs: {said.str()}")
