"""A lighter version of a model is one that a worker takes, or is not written at all."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import yaml
from numpy.typing import NDArray

from tests.builders import FLOAT, features, model_folder, onnx_bytes
from worker.batch import Features
from worker.cli import main
from worker.config import load_pipeline
from worker.exits import Exit
from worker.infer import infer, load_model
from worker.model_file import load_model_card
from worker.model_rows import RowsError, read_rows
from worker.plan import feature_plan

ROOT = Path(__file__).resolve().parents[2]
PIPELINES = {"fraud/2": "fraud", "rul/1": "maintenance"}
MODELS = list(PIPELINES)
Arrays = dict[str, NDArray[Any]]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A repository with the shipped models."""
    return Path(shutil.copytree(ROOT / "models", tmp_path / "models"))


def varied(model: str, times: int = 8) -> Arrays:
    """Rows around the golden ones of a shipped model."""
    card = load_model_card(ROOT / "models" / model)
    random = np.random.default_rng(0)
    with np.load(card.folder / "golden.npz") as golden:
        rows = np.repeat(golden[card.inputs[0].tensor], times, axis=0)
    noise = random.normal(0, 0.05, rows.shape) * rows.std(axis=tuple(range(rows.ndim - 1)))
    return {card.inputs[0].tensor: (rows + noise).astype(np.float32)}


def saved(path: Path, arrays: Arrays) -> str:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return str(path)


def quantize(folder: Path, *more: str) -> int:
    return main(["models", "quantize", str(folder), *more])


def scores(folder: Path, model: str, rows: Arrays) -> NDArray[np.float32]:
    """What a worker of the shipped pipeline makes of these rows, with the version loaded as it loads it."""
    plan = feature_plan(load_pipeline(ROOT / "pipelines" / f"{PIPELINES[model]}.yaml", {}))
    loaded = load_model(folder, plan, "cpu")
    (tensor,) = rows.values()
    return infer(loaded, of_plan(loaded.feeds[0].columns, len(plan.names), tensor))


def of_plan(columns: NDArray[np.int64] | None, width: int, tensor: NDArray[Any]) -> Features:
    if columns is None:
        return features(np.zeros((len(tensor), 0)), sequences={"readings": tensor})
    scalars = np.zeros((len(tensor), width))
    scalars[:, columns] = tensor
    return features(scalars)


@pytest.mark.parametrize("model", MODELS)
def test_a_version_in_fp16_is_loaded_proved_and_scores_as_the_old_one(models: Path, model: str) -> None:
    rows = varied(model)

    assert quantize(models / model, "--to", "fp16") == Exit.OK

    old = scores(models / model, model, rows)
    new = scores(models / f"{model}-fp16", model, rows)
    assert 0 < np.abs(new - old).max() < 1e-3 * max(1.0, old.max())
    size = (models / f"{model}-fp16" / "model.onnx").stat().st_size
    assert size < 0.6 * (models / model / "model.onnx").stat().st_size


@pytest.mark.parametrize("model", MODELS)
def test_a_version_in_int8_is_loaded_proved_and_scores_nearly_as_the_old_one(
    models: Path, model: str, tmp_path: Path
) -> None:
    rows = varied(model)
    calibration = saved(tmp_path / "rows.npz", rows)

    code = quantize(
        models / model, "--to", "int8", "--calibration", calibration, "--max-loss", "20", "--version", "light"
    )

    assert code == Exit.OK
    folder = (models / model).parent / "light"
    old, new = scores(models / model, model, rows), scores(folder, model, rows)
    assert 0 < np.abs(new - old).mean() < 0.01 * np.ptp(old)
    card = load_model_card(folder)
    assert card.inputs == load_model_card(models / model).inputs
    assert card.made_from["calibration"]["rows"] == len(new) / 2


def test_the_card_of_a_lighter_version_says_what_it_was_made_from_and_how_it_compares(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quantize(models / "fraud" / "2", "--to", "fp16", "--json") == Exit.OK

    said = json.loads(capsys.readouterr().out)
    old = yaml.safe_load((models / "fraud" / "2" / "model.yaml").read_text())
    new = yaml.safe_load((models / "fraud" / "2-fp16" / "model.yaml").read_text())
    assert said["folder"] == str(models / "fraud" / "2-fp16")
    assert new["made_from"]["sha256"] == old["sha256"] != new["sha256"]
    assert new["metrics"] == {key: value for key, value in said.items() if key not in ("folder", "max_loss")}
    assert set(said["cpu_us_per_row"]) == {"1", "64", "1024"}
    assert {key: new[key] for key in ("name", "inputs", "output", "reference", "trained_on")} == {
        key: old[key] for key in ("name", "inputs", "output", "reference", "trained_on")
    }


def test_a_version_that_would_lose_more_than_allowed_is_not_written(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calibration = saved(tmp_path / "rows.npz", varied("fraud/2"))

    code = quantize(
        models / "fraud" / "2", "--to", "int8", "--calibration", calibration, "--max-loss", "1e-6"
    )

    assert code == Exit.MODEL
    assert "not written: one row's score differs by" in capsys.readouterr().err
    assert sorted(entry.name for entry in (models / "fraud").iterdir()) == ["1", "2"]


def test_where_the_truth_is_known_both_versions_are_measured_by_it(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = varied("fraud/2")
    truth = (scores(models / "fraud" / "2", "fraud/2", rows) > 0.5).astype(np.int8)
    given = saved(tmp_path / "rows.npz", {**rows, "is_fraud": truth})

    quantize(models / "fraud" / "2", "--to", "fp16", "--calibration", given, "--label", "is_fraud", "--json")

    said = json.loads(capsys.readouterr().out)
    assert said["auc"] == said["average_precision"] == {"old": 1.0, "new": 1.0}


def test_a_remaining_life_is_measured_in_cycles(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = varied("rul/1", times=1)
    truth = scores(models / "rul" / "1", "rul/1", rows) + 3.0
    given = saved(tmp_path / "rows.npz", {**rows, "label": truth})

    quantize(models / "rul" / "1", "--to", "fp16", "--calibration", given, "--json")

    said = json.loads(capsys.readouterr().out)
    assert said["rmse"]["old"] == pytest.approx(3.0)
    assert said["rmse"]["new"] == pytest.approx(3.0, abs=0.1)


def test_trees_are_refused_with_the_reason(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert quantize(models / "fraud" / "1", "--to", "fp16") == Exit.CONFIG

    said = capsys.readouterr().err
    assert "found TreeEnsembleClassifier, expected matrix products" in said
    assert "fewer bits would send rows to other leaves" in said


def test_int8_asks_for_the_rows_that_its_ranges_come_from(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quantize(models / "fraud" / "2", "--to", "int8") == Exit.CONFIG
    assert "int8 needs typical rows" in capsys.readouterr().err


def test_a_version_that_exists_is_never_written_over(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (models / "fraud" / "1" / "model.onnx").read_bytes()

    assert quantize(models / "fraud" / "2", "--to", "fp16", "--version", "1") == Exit.CONFIG

    assert "exists, and versions never change" in capsys.readouterr().err
    assert (models / "fraud" / "1" / "model.onnx").read_bytes() == before


def test_what_fails_on_the_way_leaves_nothing_behind(models: Path, tmp_path: Path) -> None:
    calibration = saved(tmp_path / "rows.npz", varied("fraud/2", times=1))
    (models / "fraud" / "2" / "golden.npz").unlink()

    assert quantize(models / "fraud" / "2", "--to", "fp16", "--calibration", calibration) == Exit.CONFIG

    assert sorted(entry.name for entry in (models / "fraud").iterdir()) == ["1", "2"]


def test_without_the_package_that_rewrites_graphs_it_says_how_to_get_it(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)

    assert quantize(models / "fraud" / "2", "--to", "fp16") == Exit.CONFIG
    assert "pip install 'penstock[models]'" in capsys.readouterr().err


INPUTS = "  - {tensor: x, dtype: float32, shape: [n, 2], features: [amount, balance]}"
OUTPUT = "{tensor: y, column: null, meaning: probability}"
LARGE = np.random.default_rng(1).uniform(1e5, 9e5, (32, 2)).astype(np.float32)


# Two amounts in cents, divided by a million, and then one matrix product.
SCALED = onnx_bytes(
    [("Div", ["x", "million"], ["small"]), ("MatMul", ["small", "w"], ["sum"]), ("Sigmoid", ["sum"], ["y"])],
    [("x", FLOAT, ["n", 2])],
    [("y", FLOAT, ["n", 1])],
    weights={"million": np.array([1e6], np.float32), "w": np.array([[1.5], [-2]], np.float32)},
)
GOLDEN = {"x": LARGE, "expected": (1 / (1 + np.exp(-(LARGE @ [1.5e-6, -2e-6])))).astype(np.float32)}


def test_inputs_beyond_the_end_of_fp16_are_scaled_before_anything_is_rounded(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, SCALED, inputs=INPUTS, output=OUTPUT, golden=GOLDEN)

    assert quantize(folder, "--to", "fp16", "--max-loss", "0.001") == Exit.OK


def _parquet(path: Path, table: pa.Table) -> Path:
    pyarrow.parquet.write_table(table, path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def _csv(path: Path, table: pa.Table) -> Path:
    pyarrow.csv.write_csv(table, path.with_suffix(".csv"))
    return path.with_suffix(".csv")


@pytest.mark.parametrize("write", [_parquet, _csv])
def test_tables_are_read_by_the_names_of_the_features(
    tmp_path: Path, write: Callable[[Path, pa.Table], Path]
) -> None:
    card = load_model_card(ROOT / "models" / "fraud" / "2")
    names = card.inputs[0].features
    values = {name: np.arange(20.0) + column for column, name in enumerate(names)}
    table = pa.table({"label": np.arange(20) % 2, **dict(reversed(values.items()))})

    rows = read_rows(write(tmp_path / "rows", table), card, "label")

    assert rows.tensors["features"].tolist() == np.column_stack(list(values.values())).tolist()
    assert rows.truth is not None
    assert rows.truth.sum() == 10


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"other": np.zeros((20, 15))}, "found other, expected an array 'features'"),
        ({"features": np.zeros((20, 14))}, r"found float64 \(20, 14\), expected numbers of shape \[n, 15\]"),
        ({"features": np.zeros((20, 15), "U1")}, "expected numbers"),
        ({"features": np.full((20, 15), np.nan)}, "found null, NaN or infinity"),
        ({"features": np.zeros((3, 15))}, "found 3 rows, expected the same number for all, at least 16"),
        ({"features": np.zeros((20, 15)), "label": np.zeros(19)}, "found 19, 20 rows"),
    ],
)
def test_rows_that_are_not_the_models_are_refused_in_one_line(
    tmp_path: Path, arrays: Arrays, message: str
) -> None:
    path = Path(saved(tmp_path / "rows.npz", arrays))

    with pytest.raises(RowsError, match=message):
        read_rows(path, load_model_card(ROOT / "models" / "fraud" / "2"), "label")
