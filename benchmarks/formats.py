"""What 1,000 transactions cost to decode and encode in each format: `python -m benchmarks.formats`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.machine import write_result
from schemas.codec import Codec
from schemas.form import FORMATS, Format
from schemas.schema import load_schema
from schemas.spans import spans_of
from schemas.table import to_table

_EVENTS = 1_000
_ROUNDS = 300
TRANSACTION = load_schema("transaction")


def transactions() -> pa.RecordBatch:
    """Ids of eight characters, amounts in cents, and one of ten without a channel."""
    random = np.random.default_rng(0)
    return to_table(
        TRANSACTION,
        {
            "transaction_id": [f"t{number:07d}" for number in range(_EVENTS)],
            "event_time": 1_700_000_000_000 + np.arange(_EVENTS) * 37,
            "customer_id": [f"c{number:05d}" for number in random.integers(0, 5000, _EVENTS)],
            "terminal_id": [f"m{number:05d}" for number in random.integers(0, 10_000, _EVENTS)],
            "amount": np.round(random.gamma(2.0, 30.0, _EVENTS), 2),
            "channel": [
                ("POS", "ECOM", "ATM", None)[n] for n in random.choice(4, _EVENTS, p=[0.5, 0.3, 0.1, 0.1])
            ],
        },
    )


def measure(form: Format, table: pa.RecordBatch) -> dict[str, Any]:
    """Bytes a record, and us an event of each way: median and best of the rounds."""
    codec = Codec(TRANSACTION, "raw", format=form)
    values = codec.encode(table)
    held = spans_of(values)
    columns = dict(zip(table.schema.names, table.columns, strict=True))
    assert codec.decode(held).table.equals(table)
    one_bad = spans_of([values[0][:-1], *values[1:]])
    return {
        "bytes_a_record": round(sum(map(len, values)) / _EVENTS, 1),
        "decode_us": _timed(lambda: codec.decode(held)),
        "decode_with_a_bad_one_us": _timed(lambda: codec.decode(one_bad)),
        "encode_us": _timed(lambda: codec.encode_columns(columns, _EVENTS)),
    }


def _timed(work: Callable[[], Any]) -> dict[str, float]:
    work()
    took = []
    for _ in range(_ROUNDS):
        began_s = time.perf_counter()
        work()
        took.append((time.perf_counter() - began_s) / _EVENTS * 1e6)
    return {"median": round(float(np.median(took)), 3), "best": round(min(took), 3)}


def main() -> int:
    """Measure, print and write the result."""
    table = transactions()
    found = {form: measure(form, table) for form in FORMATS}
    for form, result in found.items():
        print(f"{form:<10}", result)
    print(write_result("formats", {"events": _EVENTS, "rounds": _ROUNDS, "formats": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
