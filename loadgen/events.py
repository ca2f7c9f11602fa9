"""Simulated and stored columns as events of a schema: table, key, number, time and truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from loadgen.transactions import Transactions
from loadgen.turbofan import Readings
from schemas.schema import Schema

Stream = Literal["transactions", "labels", "readings"]
SCHEMA_OF: dict[Stream, str] = {
    "transactions": "transaction",
    "labels": "label",
    "readings": "sensor_reading",
}
CHANNELS = ("POS", "ECOM", "ATM")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Events:
    """Events of one stream in event-time order, as columns."""

    stream: Stream
    table: pa.RecordBatch  # (n,) columns of the stream's schema
    key: list[bytes]  # (n,) record keys
    number: NDArray[np.int64]  # (n,) the event id as an integer
    event_time_ms: NDArray[np.int64]  # (n,) ascending
    truth: NDArray[np.float64]  # (n,) 1.0 fraud, 0.0 genuine; remaining cycles; NaN unknown

    def __len__(self) -> int:
        return len(self.number)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Names:
    """Names of numbered entities, made once: as an Arrow column to take from, and as record keys."""

    text: pa.Array  # (m,) string
    key: NDArray[np.object_]  # (m,) bytes


def numbered_names(prefix: str, count: int) -> Names:
    """Name entities 0..count-1 by a prefix and their number."""
    text = [f"{prefix}{i}" for i in range(count)]
    key = np.empty(count, np.object_)
    key[:] = [name.encode() for name in text]
    return Names(text=pa.array(text, pa.string()), key=key)


def transaction_events(
    transactions: Transactions, customers: Names, terminals: Names, schema: Schema
) -> Events:
    """Card transactions as events, keyed by customer."""
    time_ms = transactions.event_time_s * 1000
    # The handbook knows no channel: a terminal has one, most of them are points of sale.
    kind = np.minimum(np.maximum(transactions.terminal % 10 - 7, 0), 2)
    return Events(
        stream="transactions",
        table=_table(
            schema,
            transaction_id=_digits(transactions.number),
            event_time=time_ms,
            customer_id=customers.text.take(pa.array(transactions.customer)),
            terminal_id=terminals.text.take(pa.array(transactions.terminal)),
            amount=transactions.amount,
            channel=pa.array(CHANNELS, pa.string()).take(pa.array(kind)),
        ),
        key=customers.key[transactions.customer].tolist(),
        number=transactions.number,
        event_time_ms=time_ms,
        truth=(transactions.scenario > 0).astype(np.float64),
    )


def label_events(
    transactions: Transactions, customers: Names, terminals: Names, delay_s: int, schema: Schema
) -> Events:
    """The truth about transactions as events of the moment it becomes known, keyed by terminal."""
    time_ms = (transactions.event_time_s + delay_s) * 1000
    fraud = transactions.scenario > 0
    return Events(
        stream="labels",
        table=_table(
            schema,
            event_id=_digits(transactions.number),
            event_time=time_ms,
            customer_id=customers.text.take(pa.array(transactions.customer)),
            terminal_id=terminals.text.take(pa.array(transactions.terminal)),
            fraud=fraud,
        ),
        key=terminals.key[transactions.terminal].tolist(),
        number=transactions.number,
        event_time_ms=time_ms,
        truth=fraud.astype(np.float64),
    )


def reading_events(readings: Readings, prefix: str, schema: Schema) -> Events:
    """Sensor readings as events, keyed by machine; a machine is named by the prefix and its unit number."""
    machine = [f"{prefix}{unit}" for unit in readings.machine.tolist()]
    settings = {f"setting_{i + 1}": np.ascontiguousarray(readings.setting[:, i]) for i in range(3)}
    sensors = {f"s{i + 1:02d}": np.ascontiguousarray(readings.sensor[:, i]) for i in range(21)}
    return Events(
        stream="readings",
        table=_table(
            schema,
            reading_id=_digits(readings.number),
            event_time=readings.event_time_ms,
            machine_id=pa.array(machine, pa.string()),
            cycle=readings.cycle,
            **settings,
            **sensors,
        ),
        key=[name.encode() for name in machine],
        number=readings.number,
        event_time_ms=readings.event_time_ms,
        truth=readings.remaining.astype(np.float64),
    )


def together(parts: Sequence[Events]) -> Events:
    """Join chunks of one stream, in order."""
    return Events(
        stream=parts[0].stream,
        table=pa.Table.from_batches([part.table for part in parts]).combine_chunks().to_batches()[0],
        key=[key for part in parts for key in part.key],
        number=np.concatenate([part.number for part in parts]),
        event_time_ms=np.concatenate([part.event_time_ms for part in parts]),
        truth=np.concatenate([part.truth for part in parts]),
    )


def part(events: Events, rows: slice) -> Events:
    """Return some of the rows, without copying the table."""
    first, last, _ = rows.indices(len(events))
    return Events(
        stream=events.stream,
        table=events.table.slice(first, last - first),
        key=events.key[rows],
        number=events.number[rows],
        event_time_ms=events.event_time_ms[rows],
        truth=events.truth[rows],
    )


def _digits(number: NDArray[np.int64]) -> pa.Array:
    # Decimal ids turn back into integers in bulk, so that outcomes are counted by array index.
    return pa.array(number).cast(pa.string())


def _table(schema: Schema, **columns: object) -> pa.RecordBatch:
    def column(name: str, kind: pa.DataType) -> pa.Array:
        values = columns[name]
        array = values if isinstance(values, pa.Array) else pa.array(values)
        return array if array.type == kind else array.cast(kind)

    arrays = [column(field.name, field.type) for field in schema.arrow]
    return pa.RecordBatch.from_arrays(arrays, schema=schema.arrow)
