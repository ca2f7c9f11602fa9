"""Small real things that tests are made of: records, events, features, a pipeline file, a tiny model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from schemas.columns import Columns
from schemas.schema import Schema, parse_schema
from schemas.table import to_table
from worker.batch import Batch, Events, Features
from worker.config import Pipeline, load_pipeline
from worker.metrics import Meter
from worker.records import Records, records_of

NOW_US = 1_600_000_000_000_000  # the wall clock of tests: 2020-09-13
NOW_MS = NOW_US // 1000
METER = Meter("tests", CollectorRegistry())
Headers = list[tuple[str, bytes | None]] | None


def event_schema(
    time: str = "timestamp-millis", key: str = "string", amount: Any = "double", extra: Sequence[Any] = ()
) -> Schema:
    """An event of four fields; time "long" is a plain integer of milliseconds."""
    kind = "long" if time == "long" else {"type": "long", "logicalType": time}
    fields = [
        {"name": "id", "type": "string"},
        {"name": "time", "type": kind},
        {"name": "card", "type": key},
        {"name": "amount", "type": amount},
        *extra,
    ]
    return parse_schema(json.dumps({"type": "record", "name": "Event", "fields": fields}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A record as the Kafka client hands it out."""

    record_value: bytes | None
    record_key: bytes | None = None
    record_headers: Headers = None
    record_partition: int = 0
    record_offset: int = 0

    def value(self) -> bytes | None:
        """The value, untouched."""
        return self.record_value

    def key(self) -> bytes | None:
        """The key, untouched."""
        return self.record_key

    def headers(self) -> Headers:
        """The headers in their order; None when there are none."""
        return self.record_headers

    def error(self) -> None:
        """A record is no error."""

    def topic(self) -> str:
        """The input topic."""
        return "in"

    def timestamp(self) -> tuple[int, int]:
        """Its kind (the producer's clock), and milliseconds."""
        return 1, NOW_MS

    def partition(self) -> int:
        """Where it came from."""
        return self.record_partition

    def offset(self) -> int:
        """Where it stood there."""
        return self.record_offset


def records(messages: Sequence[Message]) -> Records:
    """What one poll of these messages would bring."""
    return records_of("in", list(messages))


def events(
    *,
    time_us: Sequence[int],
    keys: Sequence[bytes] | None = None,
    amount: Sequence[float] | None = None,
    partition: Sequence[int] | None = None,
    offset: Sequence[int] | None = None,
    next_offsets: dict[int, int] | None = None,
    complete_us: dict[int, int] | None = None,
    schema: Schema | None = None,
    columns: dict[str, Any] | None = None,
) -> Events:
    """Events of `event_schema("timestamp-micros")`; offsets count from 0 unless given."""
    n = len(time_us)
    keys = list(keys) if keys is not None else [b"c"] * n
    partition = list(partition) if partition is not None else [0] * n
    offset = list(offset) if offset is not None else list(range(n))
    if next_offsets is None:
        next_offsets = {}
        for p, o in zip(partition, offset, strict=True):
            next_offsets[p] = max(next_offsets.get(p, 0), o + 1)
    table = to_table(
        schema or event_schema("timestamp-micros"),
        {
            "id": [f"e{o}" for o in offset],
            "time": np.array(time_us, np.int64),
            "card": [key.decode() for key in keys],
            "amount": np.array(amount if amount is not None else [1.0] * n, np.float64),
            **(columns or {}),
        },
        rows=n,
    )
    return Events(
        columns=Columns(table),
        records=records(
            [
                Message(record_value=b"v", record_key=k, record_partition=p, record_offset=o)
                for k, p, o in zip(keys, partition, offset, strict=True)
            ]
        ),
        event_us=np.array(time_us, np.int64),
        next_offsets=next_offsets,
        complete_us=complete_us or {},
    )


def features(
    scalars: NDArray[np.float64],
    *,
    sequences: dict[str, NDArray[np.float32]] | None = None,
    lookup_age_ms: Sequence[int] | None = None,
    late: Sequence[bool] | None = None,
    time_order: Sequence[int] | None = None,
    refused: Sequence[bool] | None = None,
    incomplete: Sequence[bool] | None = None,
    degradation: Sequence[int] | None = None,
) -> Features:
    """Features with every flag down unless given."""
    n = len(scalars)
    down = [False] * n
    return Features(
        scalars=scalars,
        sequences=sequences or {},
        slots=np.arange(n, dtype=np.int64),
        is_muted=np.zeros(n, np.bool_),
        late=np.array(down if late is None else late, np.bool_),
        time_order=np.zeros(n, np.uint8) if time_order is None else np.array(time_order, np.uint8),
        refused=np.array(down if refused is None else refused, np.bool_),
        clock_reset=np.zeros(n, np.bool_),
        incomplete=np.array(down if incomplete is None else incomplete, np.bool_),
        degradation=np.array(down if degradation is None else degradation, np.uint8),
        lookup_age_ms=np.array([-1] * n if lookup_age_ms is None else lookup_age_ms, np.int64),
    )


def batch(time_us: Sequence[int], **columns: Any) -> Batch:
    """A batch whose one scalar feature is the event time."""
    made = events(time_us=time_us, **columns)
    return Batch(events=made, features=features(np.array(time_us, np.float64).reshape(-1, 1)))


EVENT_AVSC = {
    "type": "record",
    "name": "Event",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "time", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "card", "type": "string", "pii": True},
        {"name": "terminal", "type": "string"},
        {"name": "amount", "type": "double"},
        {"name": "speed", "type": "double"},
    ],
}


def pipeline(
    folder: Path, features: str, *, name: str = "p", rest: str = "", topic: str = "in", time: str = "{}"
) -> Pipeline:
    """A pipeline file over EVENT_AVSC in this folder, loaded; features, rest and source.time are YAML."""
    (folder / "event.avsc").write_text(json.dumps(EVENT_AVSC))
    path = folder / f"{name}.yaml"
    path.write_text(
        f"name: {name}\n"
        f"source: {{topic: {topic}, schema: event.avsc, time: {time}, "
        f"key: card, event_id: id, event_time: time}}\n"
        f"features:\n{features}\n"
        f"outputs: {{scores: {name}.scores, alerts: {name}.alerts, dead_letters: {name}.dead}}\n"
        f"{rest}\n"
    )
    return load_pipeline(path, {})


@dataclass(slots=True)
class Clock:
    """Seconds that pass only when somebody looks or says so."""

    now_s: float = 0.0
    step_s: float = 0.0
    asked: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        """The time; each look costs one step."""
        self.asked.append(self.now_s)
        self.now_s += self.step_s
        return self.now_s


# A tiny ONNX model, written by hand: the package `onnx` is needed to train, not to test.

FLOAT, DOUBLE = 1, 11  # TensorProto.DataType


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field_number(tag: int, value: int) -> bytes:
    """A protobuf field that holds a number."""
    return _varint(tag << 3) + _varint(value)


def field_bytes(tag: int, value: bytes | str) -> bytes:
    """A protobuf field that holds bytes, text or a message."""
    data = value.encode() if isinstance(value, str) else value
    return _varint(tag << 3 | 2) + _varint(len(data)) + data


def _value_info(name: str, kind: int, shape: Sequence[int | str]) -> bytes:
    dims = b"".join(
        field_bytes(1, field_number(1, d) if isinstance(d, int) else field_bytes(2, d)) for d in shape
    )
    tensor = field_bytes(1, field_number(1, kind) + field_bytes(2, dims))
    return field_bytes(1, name) + field_bytes(2, tensor)


def _attribute(name: str, value: int) -> bytes:
    return field_bytes(1, name) + field_number(3, value) + field_number(20, 2)  # AttributeProto.INT


def _weights(name: str, values: NDArray[Any]) -> bytes:
    kind = {"float32": FLOAT, "float64": DOUBLE, "int64": 7}[values.dtype.name]
    shape = b"".join(field_number(1, size) for size in values.shape)
    return shape + field_number(2, kind) + field_bytes(8, name) + field_bytes(9, values.tobytes())


def onnx_bytes(
    nodes: Sequence[tuple[str, Sequence[str], Sequence[str]]],
    inputs: Sequence[tuple[str, int, Sequence[int | str]]],
    outputs: Sequence[tuple[str, int, Sequence[int | str]]],
    *,
    attributes: dict[str, dict[str, int]] | None = None,
    weights: dict[str, NDArray[Any]] | None = None,
    graph_extra: bytes = b"",
) -> bytes:
    """An ONNX file of these nodes (operator, inputs, outputs).

    Args:
        attributes: whole numbers, by operator and name.
        weights: constants of the graph, float32, float64 or int64, by name.
    """

    def node(op: str, ins: Sequence[str], outs: Sequence[str]) -> bytes:
        given = (attributes or {}).get(op, {})
        wires = b"".join(field_bytes(1, i) for i in ins) + b"".join(field_bytes(2, o) for o in outs)
        return (
            wires + field_bytes(4, op) + b"".join(field_bytes(5, _attribute(k, v)) for k, v in given.items())
        )

    graph = b"".join(field_bytes(1, node(*one)) for one in nodes)
    graph += field_bytes(2, "tiny")
    graph += b"".join(field_bytes(5, _weights(*one)) for one in (weights or {}).items())
    graph += b"".join(field_bytes(11, _value_info(*i)) for i in inputs)
    graph += b"".join(field_bytes(12, _value_info(*o)) for o in outputs)
    graph += graph_extra
    return field_number(1, 8) + field_bytes(7, graph) + field_bytes(8, field_number(2, 13))


def table_model(table: NDArray[np.float32], width: int) -> bytes:
    """A model that looks its last column up in a table, and breaks on a value outside of it.

    The score is the table's entry at the whole part of x[:, -1], times x[:, 0].
    """
    return onnx_bytes(
        [
            ("Slice", ["x", "last", "end", "one"], ["wanted"]),
            ("Cast", ["wanted"], ["index"]),
            ("Gather", ["table", "index"], ["found"]),
            ("Slice", ["x", "zero", "one", "one"], ["first"]),
            ("Mul", ["found", "first"], ["y"]),
        ],
        [("x", FLOAT, ["n", width])],
        [("y", FLOAT, ["n", 1])],
        attributes={"Cast": {"to": 7}},
        weights={
            "table": table,
            "zero": np.array([0]),
            "one": np.array([1]),
            "last": np.array([width - 1]),
            "end": np.array([width]),
        },
    )


def model_folder(
    folder: Path,
    onnx: bytes,
    *,
    inputs: str,
    output: str,
    golden: dict[str, Any] | None,
    sha256: str | None = None,
) -> Path:
    """models/tiny/1 under this folder: the file, its card and (unless None) its golden vectors."""
    version = folder / "tiny" / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(onnx)
    (version / "model.yaml").write_text(
        f'name: tiny\nversion: "1"\ndescription: for tests\nfile: model.onnx\n'
        f"sha256: {sha256 or hashlib.sha256(onnx).hexdigest()}\n"
        f"inputs:\n{inputs}\noutput: {output}\n"
    )
    if golden is not None:
        np.savez(version / "golden.npz", **{"rtol": np.float64(0), "atol": np.float64(1e-6), **golden})
    return version


def table_rows(table: pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows of a table as dictionaries."""
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
