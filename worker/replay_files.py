"""Events of a replay from Parquet and Avro files, each row as a record of one partition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq

from feature_cache.layout import NEVER_US
from schemas.schema import Schema, load_schema
from schemas.table import to_table
from worker.config import ConfigError, Pipeline
from worker.decode import decode_table
from worker.plan import FeaturePlan, decode_plan
from worker.replay import Decoded, Feed, LaneFeed, OpenFeed

_ROWS = 1 << 15


class InputError(ConfigError):
    """A file has no events for this pipeline; the message says what is missing."""


def from_files(
    files: Mapping[str, Sequence[Path]], extra: Mapping[str, Sequence[str]] | None = None
) -> OpenFeed:
    """Feeds of these files, by the name of the pipeline that reads them.

    Args:
        files: several of a pipeline are read one after the other, as one topic.
        extra: by pipeline, further columns that its tables keep where a file has them.
    """

    def open_feed(pipeline: Pipeline, plan: FeaturePlan) -> Feed:
        paths = files.get(pipeline.name, ())
        if not paths:
            raise InputError(
                f"{pipeline.path}: found no file with its events, expected --input {pipeline.name}=FILE"
            )
        kept = (extra or {}).get(pipeline.name, ())
        events = _events(pipeline, plan, paths, kept)
        return Feed(lanes={0: LaneFeed(begin=0, forgotten_us=NEVER_US, events=events)}, lane_count=1)

    return open_feed


def from_tables(tables: Mapping[str, Iterator[pa.RecordBatch]]) -> OpenFeed:
    """Feeds of tables with the columns of each pipeline's schema, by its name; each can be opened once."""

    def open_feed(pipeline: Pipeline, plan: FeaturePlan) -> Feed:
        events = _decoded(pipeline, plan, tables[pipeline.name])
        return Feed(lanes={0: LaneFeed(begin=0, forgotten_us=NEVER_US, events=events)}, lane_count=1)

    return open_feed


def _events(
    pipeline: Pipeline, plan: FeaturePlan, paths: Sequence[Path], extra: Sequence[str]
) -> Iterator[Decoded]:
    schema = load_schema(pipeline.source.schema_ref, pipeline.base)
    return _decoded(pipeline, plan, (table for path in paths for table in read_tables(path, schema, extra)))


def _decoded(pipeline: Pipeline, plan: FeaturePlan, tables: Iterator[pa.RecordBatch]) -> Iterator[Decoded]:
    schema = load_schema(pipeline.source.schema_ref, pipeline.base)
    how, offset = decode_plan(pipeline, schema, plan.finite), 0
    for table in tables:
        yield decode_table(table, pipeline.source.topic, offset, how)
        offset += table.num_rows


def read_tables(path: Path, schema: Schema, extra: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
    """The rows of a file with the columns of the schema, some at a time.

    Args:
        path: Parquet (`.parquet`), or an Avro container file.
        schema: columns are found by name; one that is missing has the field's default.
        extra: further columns to keep where the file has them.

    Raises:
        InputError: it cannot be read, a column is missing, or does not hold what the schema says.
    """
    is_parquet = path.suffix == ".parquet"
    try:
        yield from (_parquet if is_parquet else _avro)(path, schema, extra)
    except (OSError, ValueError, pa.ArrowException, EOFError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: cannot be read as {'Parquet' if is_parquet else 'Avro'}: {error}"
        ) from error


def _parquet(path: Path, schema: Schema, extra: Sequence[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        names = set(file.schema_arrow.names)
        kept = [name for name in extra if name in names and name not in schema.arrow.names]
        wanted = [*(name for name in schema.arrow.names if name in names), *kept]
        for batch in file.iter_batches(_ROWS, columns=wanted):
            yield _conform(schema, {name: batch.column(name) for name in wanted}, kept, batch.num_rows)


def _avro(path: Path, schema: Schema, extra: Sequence[str]) -> Iterator[pa.RecordBatch]:
    with path.open("rb") as file:
        reader = fastavro.reader(file)
        while rows := list(islice(reader, _ROWS)):
            names = set(rows[0])
            kept = [name for name in extra if name in names and name not in schema.arrow.names]
            wanted = [*(name for name in schema.arrow.names if name in names), *kept]
            columns = {name: [row[name] for row in rows] for name in wanted}
            yield _conform(schema, columns, kept, len(rows))


def _conform(schema: Schema, columns: dict[str, Any], kept: Sequence[str], rows: int) -> pa.RecordBatch:
    """One batch with the columns of the schema, cast where need be, and those that are kept."""
    table = to_table(
        schema, {name: column for name, column in columns.items() if name not in kept}, rows=rows
    )
    for name in kept:
        column = columns[name]
        table = table.append_column(name, column if isinstance(column, pa.Array) else pa.array(column))
    return table
