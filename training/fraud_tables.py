"""Writes the handbook's transactions, and their labels a week later, as Parquet files that commands read.

python -m training.fraud_tables --data DIR --first 2018-06-18 --last 2018-08-14 FOLDER
"""

from collections.abc import Iterator
from datetime import date, timedelta
from itertools import tee
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from loadgen.events import Stream
from loadgen.sources import stored

WARM_UP = "2018-06-18"  # 37 days before the training week: every window of it is full
LAST_DAY = "2018-08-14"
FILES: dict[Stream, str] = {"transactions": "transactions.parquet", "labels": "labels.parquet"}


def tables(data: Path, first: str, last: str, stream: Stream) -> Iterator[pa.RecordBatch]:
    """The events of one stream that belong to transactions of the days first..last, in event-time order."""
    source = stored(
        data / "fraud" / "transactions.parquet",
        from_date=date.fromisoformat(first),
        until_date=date.fromisoformat(last) + timedelta(days=1),
        all_labels=True,
    )
    for slab in source.slabs:
        yield from (events.table for events in slab.streams if events.stream == stream and len(events))


def write(data: Path, first: str, last: str, folder: Path) -> dict[Stream, Path]:
    """Write both files into the folder; returns where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for stream, name in FILES.items():
        batches, ahead = tee(tables(data, first, last, stream))
        with pq.ParquetWriter(folder / name, next(ahead).schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
    return {stream: folder / name for stream, name in FILES.items()}


def main() -> None:
    """Write the files."""
    from training.fraud_data import data_folder

    parser = data_folder(__doc__ or "")
    parser.add_argument("--first", default=WARM_UP, help="first day, default %(default)s")
    parser.add_argument("--last", default=LAST_DAY, help="last day, default %(default)s")
    parser.add_argument("folder", type=Path, help="where to write transactions.parquet and labels.parquet")
    arguments = parser.parse_args()
    for path in write(arguments.data, arguments.first, arguments.last, arguments.folder).values():
        print(path)


if __name__ == "__main__":
    main()
