"""`penstock profiles load`: rows of a Parquet or CSV file into the store that a pipeline reads them from."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from feature_cache.profiles import ProfileTable, write_profiles
from feature_cache.store import StoreRefusedError, StoreUnavailableError
from worker.assemble import store_opener
from worker.config import Pipeline, ProfileFeature, load_pipeline
from worker.exits import Exit
from worker.plan import profile_table
from worker.progress import progress_bar

EXAMPLES = """examples:
  penstock profiles load pipelines/fraud.yaml profile rows.parquet
  penstock profiles load pipelines/fraud.yaml profile rows.csv --rows-at-once 5000
"""


class ProfileError(ValueError):
    """The file has no rows for this profile; the message says what is missing."""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the commands under `penstock profiles`."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    load = commands.add_parser("load", help="write rows into the store", description=__doc__)
    load.add_argument("pipeline", type=Path, metavar="PIPELINE", help="the pipeline file")
    load.add_argument("feature", metavar="FEATURE", help="name of its feature of kind profile")
    load.add_argument("rows", type=Path, metavar="ROWS", help=".parquet or .csv: key and fields")
    load.add_argument("--rows-at-once", type=int, default=10_000, help="default %(default)s")
    load.add_argument("--json", action="store_true", help="for machines")
    load.set_defaults(command=_load)


def _load(arguments: argparse.Namespace) -> int:
    pipeline = load_pipeline(arguments.pipeline)
    try:
        feature = _profile(pipeline, arguments.feature)
        key = feature.key or pipeline.source.key
        keys, rows = read_rows(arguments.rows, key, profile_table(feature))
        store = store_opener()(str(pipeline.state.store))
        with progress_bar("loading", "rows") as advance:
            for start in range(0, len(keys), arguments.rows_at_once):
                part = slice(start, start + arguments.rows_at_once)
                write_profiles(store, profile_table(feature), keys[part], rows[part])
                advance(len(keys[part]), len(keys))
    except ProfileError as error:
        print(error, file=sys.stderr)
        return Exit.CONFIG
    except (StoreUnavailableError, StoreRefusedError) as error:
        print(f"{error}; nothing is wrong with writing all rows again", file=sys.stderr)
        return Exit.STORE
    if arguments.json:
        said = {"rows": len(keys), "fields": list(feature.fields), "prefix": feature.prefix, "key": key}
        print(json.dumps(said))
    else:
        print(f"{len(keys):,} rows of {len(feature.fields)} fields are at {feature.prefix}<{key}>")
    return Exit.OK


def _profile(pipeline: Pipeline, name: str) -> ProfileFeature:
    feature = pipeline.features.get(name)
    if isinstance(feature, ProfileFeature):
        return feature
    known = [name for name, each in pipeline.features.items() if isinstance(each, ProfileFeature)]
    raise ProfileError(
        f"{pipeline.path}: found no profile {name!r}, expected {', '.join(known) or 'a feature of that kind'}"
    )


def read_rows(path: Path, key: str, table: ProfileTable) -> tuple[list[bytes], NDArray[Any]]:
    """Keys and (k, fields) rows of a Parquet or CSV file.

    Raises:
        ProfileError: it cannot be read, a column is missing, or a value is not a number.
    """
    try:
        read = pyarrow.csv.read_csv if path.suffix == ".csv" else pyarrow.parquet.read_table
        found = read(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ProfileError(f"{path}: cannot be read: {error}") from error
    if missing := [name for name in (key, *table.fields) if name not in found.column_names]:
        raise ProfileError(
            f"{path}: found columns {', '.join(found.column_names)}, expected also {', '.join(missing)}"
        )
    keys = found.column(key)
    if keys.null_count:
        raise ProfileError(f"{path}: found {keys.null_count} rows without {key}, expected one for each")
    rows = np.empty((found.num_rows, len(table.fields)), table.dtype)
    for column, field in enumerate(table.fields):
        try:
            values = found.column(field).cast(pa.float64()).to_numpy()
        except pa.ArrowInvalid as error:
            raise ProfileError(f"{path}: {field}: {error}; expected numbers") from error
        if not np.isfinite(values).all():
            raise ProfileError(f"{path}: {field}: found null, NaN or infinity, expected numbers")
        rows[:, column] = values
    return keys.cast(pa.string()).cast(pa.binary()).to_pylist(), rows
