"""Events of a request as columns, by the same checks as records, as if they came next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from schemas.codec import Codec
from schemas.json_values import NotOfSchemaError, compile_json
from schemas.schema import Schema
from schemas.spans import spans_of
from worker.batch import Events
from worker.decode import DecodePlan, decode
from worker.partitioners import partitions
from worker.records import Records


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why an event has no score: what its dead letter would say."""

    stage: str
    reason: str
    detail: str


class EventReader:
    """From JSON objects to events; one thread at a time."""

    def __init__(
        self, schema: Schema, plan: DecodePlan, topic: str, partitioner: str, partition_count: int
    ) -> None:
        """Compile what reads.

        Args:
            partitioner: how producers choose the partition of a key; see `partitions`.
            partition_count: of the input topic.
        """
        self._read = compile_json(schema.tree)
        self._codec = Codec(schema, "raw")
        self._plan = plan
        self._topic = topic
        self._partitioner = partitioner
        self._partition_count = partition_count
        partitions(spans_of([]), partition_count, partitioner)  # compiles it now and not at the first request

    def read(self, rows: Sequence[Any], now_us: int) -> tuple[Events, dict[int, Refusal]]:
        """Events in the order of the request, and which rows are none.

        Args:
            rows: (r,) what a JSON parser gave.
            now_us: wall clock, which stands for the time of their records.

        Returns:
            (n,) events, whose `records.offset` is their place among the rows and `records.partition` the
            one that producers would choose; and the other rows, each with its reason.
        """
        refused: dict[int, Refusal] = {}
        values, keys, places = [], [], []
        for place, row in enumerate(rows):
            try:
                event = self._read(row, "")
            except NotOfSchemaError as error:
                refused[place] = Refusal(stage="decode", reason=error.reason, detail=str(error))
                continue
            values += self._codec.encode_rows([event], trusted=True)
            key = event[self._plan.key]
            keys.append(None if key is None else str(key).encode())
            places.append(place)
        n = len(values)
        held = spans_of(keys)
        records = Records(
            topic=self._topic,
            values=spans_of(values),
            keys=held,
            headers=spans_of([None] * n),
            partition=np.zeros(n, np.int32),
            offset=np.array(places, np.int64),
            produced_ms=np.full(n, now_us // 1000, np.int64),
        )
        events, rejected = decode(records, self._codec, self._plan, now_us)
        for reject in rejected:
            refused[reject.record.offset] = Refusal(
                stage=reject.stage, reason=reject.reason, detail=reject.detail
            )
        lanes = partitions(events.records.keys, self._partition_count, self._partitioner)
        return replace(events, records=replace(events.records, partition=lanes)), refused
