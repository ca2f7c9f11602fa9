"""Any number of events from a stretch of them: all of them good, none twice, in the order of their times."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.codec import Codec
from schemas.columns import numbers, texts
from schemas.schema import load_schema
from worker.capacity_events import Pool, open_pool, pool_of
from worker.capacity_values import EVENTS, generated
from worker.config import ConfigError, Pipeline, load_pipeline
from worker.decode import decode_table
from worker.model_file import load_model_card
from worker.plan import decode_plan, feature_plan

ROOT = Path(__file__).parents[2]
FILES = ("pipelines/fraud.yaml", "pipelines/maintenance.yaml", "examples/logins/logins.yaml")
AT_MOST = 200_000


@pytest.fixture(scope="module")
def made() -> Callable[[str], tuple[Pipeline, Pool]]:
    found: dict[str, tuple[Pipeline, Pool]] = {}

    def make(file: str) -> tuple[Pipeline, Pool]:
        if file not in found:
            pipeline = load_pipeline(ROOT / file, {})
            schema = load_schema(pipeline.source.schema_ref, pipeline.base)
            pool = pool_of(pipeline, schema, [generated(pipeline, schema, 500)], "made", AT_MOST)
            assert pool is not None
            found[file] = pipeline, pool
        return found[file]

    return make


@pytest.mark.parametrize("file", FILES)
def test_every_event_is_one_that_the_pipeline_takes(
    file: str, made: Callable[[str], tuple[Pipeline, Pool]]
) -> None:
    pipeline, pool = made(file)
    codec = Codec(pool.schema, "single_object")

    decoded = codec.decode(codec.encode(pool.take(EVENTS - 500, 1_000)))
    events, rejected = decode_table(
        decoded.table, "t", 0, decode_plan(pipeline, pool.schema, feature_plan(pipeline).finite)
    )

    assert (decoded.rejects, rejected) == ((), [])
    assert len(events) == 1_000


@pytest.mark.parametrize("file", FILES)
def test_ids_never_come_back_keys_do_and_time_goes_on_until_now(
    file: str, made: Callable[[str], tuple[Pipeline, Pool]]
) -> None:
    pipeline, pool = made(file)
    parts = [pool.take(first, 30_000) for first in range(0, AT_MOST - 30_000, 30_000)]
    table = pa.Table.from_batches(parts)

    ids = table.column(pool.id_field).to_pylist()
    times = table.column(pool.time_field).cast(pa.int64()).to_numpy()
    keys = {key.decode() for key in pool.keys.to_list()}

    assert [int(one) for one in ids] == list(range(len(ids)))
    assert (np.diff(times) >= 0).all()
    assert times[-1] / 1000 <= time.time()
    assert set(table.column(pool.key_field).to_pylist()) == keys
    assert pipeline.source.key == pool.key_field
    assert len(keys) == 500


def test_made_up_amounts_are_spread_as_the_card_of_the_model_says(
    made: Callable[[str], tuple[Pipeline, Pool]],
) -> None:
    pipeline, pool = made("pipelines/fraud.yaml")
    assert pipeline.model is not None
    reference = load_model_card(pipeline.model.folder).reference["amount"]

    amounts = numbers(pool.table.column("amount"))

    below = [(amounts <= edge).mean() for edge in reference.edges]
    assert below == pytest.approx(np.cumsum(reference.shares)[:-1], abs=0.01)


def test_events_of_a_file_are_sent_as_they_are_but_for_id_and_time(tmp_path: Path) -> None:
    pipeline = load_pipeline(ROOT / "examples/logins/logins.yaml", {})
    schema = load_schema(pipeline.source.schema_ref, pipeline.base)
    rows = generated(pipeline, schema, 50).slice(0, 200)
    pq.write_table(pa.Table.from_batches([rows]), tmp_path / "logins.parquet")

    pool = open_pool(pipeline, [tmp_path / "logins.parquet"], AT_MOST, 1)
    taken = pool.take(200, 200)  # the second repetition

    for name in set(schema.arrow.names) - {pool.id_field, pool.time_field}:
        assert taken.column(name).to_pylist() == rows.column(name).to_pylist()
    gaps = [np.diff(t.column(pool.time_field).cast(pa.int64()).to_numpy()) for t in (rows, taken)]
    # Their distances stay, to the tick that both ends are rounded to.
    assert np.abs(gaps[0] - gaps[1]).max() <= 1
    assert "logins.parquet" in pool.source


def test_a_file_without_a_good_event_is_refused(tmp_path: Path) -> None:
    pipeline = load_pipeline(ROOT / "examples/logins/logins.yaml", {})
    schema = load_schema(pipeline.source.schema_ref, pipeline.base)
    rows = generated(pipeline, schema, 50).slice(0, 20)
    at = rows.schema.get_field_index("distance_km")
    bad = rows.set_column(at, rows.schema.field(at), pa.array([float("nan")] * 20))
    pq.write_table(pa.Table.from_batches([bad]), tmp_path / "bad.parquet")

    with pytest.raises(ConfigError, match="--events: found no event"):
        open_pool(pipeline, [tmp_path / "bad.parquet"], AT_MOST, 1)


def test_records_are_written_with_their_keys(
    tmp_path: Path, made: Callable[[str], tuple[Pipeline, Pool]]
) -> None:
    _, pool = made("pipelines/maintenance.yaml")
    codec = Codec(pool.schema, "single_object")

    size = pool.write(tmp_path / "events.arrow", codec, 7, 100)

    with pa.memory_map(str(tmp_path / "events.arrow")) as file:
        table = pa.ipc.open_file(file).read_all()
    decoded = codec.decode(table.column("value").to_pylist()).table
    assert decoded.to_pylist() == pool.take(7, 100).to_pylist()
    keys = [key.decode() for key in table.column("key").to_pylist()]
    assert keys == texts(decoded.column(pool.key_field)).to_pylist()
    assert size >= sum(len(value) for value in table.column("value").to_pylist())
