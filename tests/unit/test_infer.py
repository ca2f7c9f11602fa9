"""A model serves only after it has proved itself, on the device asked for."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import DOUBLE, FLOAT, features, model_folder, onnx_bytes, pipeline
from worker.config import ConfigError, load_pipeline
from worker.infer import crossover, infer, load_model, settle
from worker.plan import FeaturePlan, feature_plan
from worker.session import ModelError

ROOT = Path(__file__).resolve().parents[2]
FRAUD = ROOT / "models" / "fraud" / "1"
NO_GPU = not list(Path("/dev").glob("nvidia[0-9]*"))
SCALARS = "  amount: {kind: field, field: amount}\n  speed: {kind: field, field: speed}"
READINGS = "  readings: {kind: sequence, fields: [amount, speed], length: 3}"
# Adds every row to itself: scores are twice a column.
DOUBLING = onnx_bytes([("Add", ["x", "x"], ["y"])], [("x", FLOAT, ["n", 2])], [("y", FLOAT, ["n", 2])])
INPUTS = "  - {tensor: x, dtype: float32, shape: [n, 2], features: [speed, amount]}"
OUTPUT = "{tensor: y, column: 1, meaning: probability}"
ROWS = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
GOLDEN = {"x": ROWS, "expected": np.array([4, 8, 12], np.float32)}


@pytest.fixture(scope="module")
def fraud_plan() -> FeaturePlan:
    """What the shipped fraud pipeline computes."""
    return feature_plan(load_pipeline(ROOT / "pipelines" / "fraud.yaml", {}))


@pytest.fixture
def plan(tmp_path: Path) -> FeaturePlan:
    """Two scalars and a sequence."""
    return feature_plan(pipeline(tmp_path, f"{SCALARS}\n{READINGS}"))


Tiny = Callable[..., Path]


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    """A function that makes the folder of a tiny model, right but for what it is told."""

    def make(onnx: bytes = DOUBLING, **changed: Any) -> Path:
        return model_folder(
            tmp_path, onnx, **{"inputs": INPUTS, "output": OUTPUT, "golden": GOLDEN, **changed}
        )

    return make


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the shipped fraud model, to damage."""
    return Path(shutil.copytree(FRAUD, tmp_path / "fraud" / "1"))


def edit(folder: Path, old: str, new: str) -> None:
    """Change the card."""
    card = folder / "model.yaml"
    text = card.read_text()
    assert old in text
    card.write_text(text.replace(old, new))


def test_the_shipped_model_loads_and_gives_its_golden_scores(fraud_plan: FeaturePlan) -> None:
    model = load_model(FRAUD, fraud_plan, "cpu")
    with np.load(FRAUD / "golden.npz") as golden:
        rows, expected = golden["features"], golden["expected"]
    in_plan_order = np.zeros((len(rows), len(fraud_plan.names)))
    for column, name in enumerate(model.card.inputs[0].features):
        in_plan_order[:, fraud_plan.names.index(name)] = rows[:, column]

    scores = infer(model, features(in_plan_order))

    assert model.device == "cpu"
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)


def test_features_reach_the_model_by_name_and_not_by_place(tiny: Tiny, plan: FeaturePlan) -> None:
    model = load_model(tiny(), plan, "cpu")

    assert plan.names == ("amount", "speed")
    assert infer(model, features(np.array([[10.0, 1.0], [20.0, 2.0]]))).tolist() == [20.0, 40.0]


def test_a_batch_of_any_size_gives_a_score_each(tiny: Tiny, plan: FeaturePlan) -> None:
    model = load_model(tiny(), plan, "cpu")

    for n in (0, 1, 7, 1500):
        assert infer(model, features(np.zeros((n, 2)))).shape == (n,)


@pytest.mark.parametrize("part_rows", [1, 64, 1000, None])
def test_a_batch_scored_in_parts_gives_each_row_its_own_score(
    tiny: Tiny, plan: FeaturePlan, part_rows: int | None
) -> None:
    model = replace(load_model(tiny(), plan, "cpu"), part_rows=part_rows)
    rows = np.stack([np.arange(1500.0), np.ones(1500)], axis=1)

    assert infer(model, features(rows)).tolist() == (rows[:, 0] * 2).tolist()


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_row_has_the_same_score_to_the_last_bit_in_every_batch(
    fraud_plan: FeaturePlan, version: str
) -> None:
    model = load_model(ROOT / "models" / "fraud" / version, fraud_plan, "cpu")
    rows = np.random.default_rng(5).uniform(0, 50, (400, len(fraud_plan.names)))
    whole = infer(model, features(rows))

    for size in (*range(1, 40), 63, 65, 127, 200):
        parts = [infer(model, features(rows[at : at + size])) for at in range(0, len(rows), size)]
        assert np.array_equal(np.concatenate(parts), whole), size


def test_a_score_that_is_no_number_comes_out_as_it_is(tiny: Tiny, plan: FeaturePlan) -> None:
    model = load_model(tiny(), plan, "cpu")

    scores = infer(model, features(np.array([[np.inf, 0], [np.nan, 0], [1, 0]])))

    assert np.isfinite(scores).tolist() == [False, False, True]


@pytest.mark.parametrize("operators", [["Identity"], ["Identity", "Squeeze"]])
def test_an_output_may_be_a_column_or_a_line(plan: FeaturePlan, tiny: Tiny, operators: list[str]) -> None:
    names = ["x", *(f"t{i}" for i in range(len(operators) - 1)), "y"]
    shape: list[int | str] = ["n"] if "Squeeze" in operators else ["n", 1]
    folder = tiny(
        onnx_bytes(
            [(operator, [names[i]], [names[i + 1]]) for i, operator in enumerate(operators)],
            [("x", FLOAT, ["n", 1])],
            [("y", FLOAT, shape)],
        ),
        inputs="  - {tensor: x, dtype: float32, shape: [n, 1], features: [amount]}",
        output="{tensor: y, meaning: remaining_life}",
        golden={"x": ROWS[:, :1], "expected": ROWS[:, 0]},
    )

    model = load_model(folder, plan, "cpu")

    assert infer(model, features(np.array([[4.0, 0.0], [5.0, 0.0]]))).tolist() == [4.0, 5.0]
    assert infer(model, features(np.array([[4.0, 0.0]]))).tolist() == [4.0]


def test_a_sequence_reaches_the_model_oldest_first(plan: FeaturePlan, tiny: Tiny) -> None:
    onnx = onnx_bytes([("Flatten", ["x"], ["y"])], [("x", FLOAT, ["n", 3, 2])], [("y", FLOAT, ["n", 6])])
    rows = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    folder = tiny(
        onnx,
        inputs="  - {tensor: x, dtype: float32, shape: [n, 3, 2], sequence: readings}",
        output="{tensor: y, column: 5, meaning: remaining_life}",
        golden={"x": rows, "expected": np.array([5, 11], np.float32)},
    )

    model = load_model(folder, plan, "cpu")

    assert infer(model, features(np.zeros((2, 2)), sequences={"readings": rows})).tolist() == [5.0, 11.0]


def test_a_model_of_double_precision_is_fed_double_precision(plan: FeaturePlan, tiny: Tiny) -> None:
    onnx = onnx_bytes([("Add", ["x", "x"], ["y"])], [("x", DOUBLE, ["n", 2])], [("y", DOUBLE, ["n", 2])])
    folder = tiny(
        onnx, inputs=INPUTS.replace("float32", "float64"), golden={**GOLDEN, "x": ROWS.astype(np.float64)}
    )

    model = load_model(folder, plan, "cpu")

    assert infer(model, features(np.array([[2.0, 1.0]]))).tolist() == [4.0]


# What must not serve.


def test_a_file_other_than_the_one_described_does_not_serve(copy: Path, fraud_plan: FeaturePlan) -> None:
    with (copy / "model.onnx").open("ab") as file:
        file.write(b"\0")

    with pytest.raises((ModelError, ConfigError), match="sha256"):
        load_model(copy, fraud_plan, "cpu")


def test_a_version_without_golden_vectors_does_not_serve(copy: Path, fraud_plan: FeaturePlan) -> None:
    (copy / "golden.npz").unlink()

    with pytest.raises(ModelError, match=r"golden\.npz"):
        load_model(copy, fraud_plan, "cpu")


@pytest.mark.parametrize("wrong", [0.001, float("nan"), float("inf")])
def test_a_version_that_misses_one_golden_score_does_not_serve(
    copy: Path, fraud_plan: FeaturePlan, wrong: float
) -> None:
    with np.load(copy / "golden.npz") as golden:
        arrays = dict(golden)
    arrays["expected"][7] += wrong
    np.savez(copy / "golden.npz", **arrays)

    with pytest.raises(ModelError, match="differ"):
        load_model(copy, fraud_plan, "cpu")


@pytest.mark.parametrize(
    "golden",
    [
        {"expected": GOLDEN["expected"][:2], "x": ROWS},
        pytest.param({"x": ROWS}),
        pytest.param({"expected": GOLDEN["expected"]}),
        pytest.param({"expected": GOLDEN["expected"], "x": ROWS[:, :1]}),
        pytest.param({"expected": np.zeros(0, np.float32), "x": ROWS[:0]}),
    ],
    ids=["fewer scores", "no scores", "no inputs", "narrow inputs", "no rows"],
)
def test_golden_vectors_that_cannot_be_used_are_an_error_of_the_model(
    tiny: Tiny, plan: FeaturePlan, golden: dict[str, Any]
) -> None:
    with pytest.raises(ModelError, match=r"golden\.npz"):
        load_model(tiny(golden=golden), plan, "cpu")


def test_a_damaged_golden_file_is_an_error_of_the_model(copy: Path, fraud_plan: FeaturePlan) -> None:
    (copy / "golden.npz").write_bytes((copy / "golden.npz").read_bytes()[:100])

    with pytest.raises(ModelError, match=r"golden\.npz"):
        load_model(copy, fraud_plan, "cpu")


def test_a_file_that_is_no_model_is_an_error_of_the_model(tiny: Tiny, plan: FeaturePlan) -> None:
    with pytest.raises(ModelError, match=r"model\.onnx"):
        load_model(tiny(b"\x08\x08"), plan, "cpu")


def test_bytes_that_are_no_onnx_file_never_reach_onnx_runtime(tiny: Tiny, plan: FeaturePlan) -> None:
    with pytest.raises(ConfigError, match=r"expected an ONNX file"):
        load_model(tiny(b"not a model at all"), plan, "cpu")


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("tensor: features", "tensor: wrong_in", "wrong_in"),
        ("tensor: probabilities", "tensor: wrong_out", "wrong_out"),
    ],
)
def test_a_card_that_names_other_tensors_does_not_serve(
    copy: Path, fraud_plan: FeaturePlan, old: str, new: str, match: str
) -> None:
    edit(copy, old, new)

    with pytest.raises(ModelError, match=match):
        load_model(copy, fraud_plan, "cpu")


def test_a_card_that_names_a_column_too_many_does_not_serve(tiny: Tiny, plan: FeaturePlan) -> None:
    with pytest.raises(ModelError, match="column"):
        load_model(tiny(output="{tensor: y, column: 2, meaning: probability}"), plan, "cpu")


def test_a_feature_that_the_pipeline_does_not_compute_is_named(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"customer\.count_1d"):
        load_model(copy, feature_plan(pipeline(tmp_path, SCALARS)), "cpu")


def test_a_sequence_that_the_pipeline_does_not_keep_is_named(tmp_path: Path, tiny: Tiny) -> None:
    onnx = onnx_bytes([("Flatten", ["x"], ["y"])], [("x", FLOAT, ["n", 3, 2])], [("y", FLOAT, ["n", 6])])
    folder = tiny(onnx, inputs="  - {tensor: x, dtype: float32, shape: [n, 3, 2], sequence: vibration}")

    with pytest.raises(ModelError, match="vibration"):
        load_model(folder, feature_plan(pipeline(tmp_path, READINGS)), "cpu")


# Devices.


@pytest.mark.skipif(not NO_GPU, reason="there is a GPU here")
@pytest.mark.parametrize("device", ["cuda:0", "cuda:7", "tensorrt:0"])
def test_a_device_that_is_not_here_is_an_error_and_never_a_silent_cpu(
    tiny: Tiny, plan: FeaturePlan, device: str
) -> None:
    with pytest.raises(ModelError, match=device):
        load_model(tiny(), plan, device)


@pytest.mark.skipif(not NO_GPU, reason="there is a GPU here")
def test_auto_takes_the_cpu_where_there_is_nothing_else_and_says_so(tiny: Tiny, plan: FeaturePlan) -> None:
    assert load_model(tiny(), plan, "auto").device == "cpu"


def test_auto_runs_trees_on_the_cpu_wherever_it_is(fraud_plan: FeaturePlan) -> None:
    assert b"TreeEnsemble" in (FRAUD / "model.onnx").read_bytes()
    assert load_model(FRAUD, fraud_plan, "auto").device == "cpu"


@pytest.mark.parametrize("device", ["cuda:0", "tensorrt:0"])
def test_trees_do_not_run_on_an_accelerator_and_nobody_pretends_so(
    fraud_plan: FeaturePlan, device: str
) -> None:
    with pytest.raises(ModelError, match=device):
        load_model(FRAUD, fraud_plan, device)


@pytest.mark.gpu
@pytest.mark.skipif(NO_GPU, reason="there is no GPU here")
def test_a_model_runs_on_the_gpu_asked_for(tiny: Tiny, plan: FeaturePlan) -> None:
    model = load_model(tiny(), plan, "cuda:0")

    assert model.device == "cuda:0"
    assert infer(model, features(np.array([[10.0, 1.0]]))).tolist() == [20.0]


@pytest.mark.gpu
@pytest.mark.skipif(NO_GPU, reason="there is no GPU here")
def test_on_a_gpu_graphs_and_fixed_buffers_give_the_scores_of_the_cpu(fraud_plan: FeaturePlan) -> None:
    folder = ROOT / "models" / "fraud" / "2"
    on_cpu, on_gpu = (settle(load_model(folder, fraud_plan, device)) for device in ("cpu", "cuda:0"))
    given = np.random.default_rng(5).uniform(0, 50, (5000, len(fraud_plan.names)))

    assert on_gpu.session.has_graphs
    for n in (1, 31, 32, 33, 1024, 2048, 2049, 5000):
        np.testing.assert_allclose(
            infer(on_gpu, features(given[:n])), infer(on_cpu, features(given[:n])), rtol=1e-4, atol=1e-6
        )


def test_a_model_on_the_cpu_needs_no_preparation(tiny: Tiny, plan: FeaturePlan) -> None:
    model = load_model(tiny(), plan, "cpu")

    assert settle(model) is model


@pytest.mark.parametrize(
    ("gpu_s", "from_rows"),
    [
        ((9.0, 9.0, 9.0), None),
        ((1.0, 1.0, 1.0), 64),
        ((9.0, 2.0, 3.0), 256),
        ((1.0, 9.0, 3.0), 1024),
        ((1.0, 1.0, 8.0), None),
    ],
    ids=["never", "always", "larger batches", "the largest, after a dent", "not for a full batch"],
)
def test_auto_takes_the_gpu_where_it_scores_a_full_batch_sooner(
    gpu_s: tuple[float, float, float], from_rows: int | None
) -> None:
    took_s = dict(zip((64, 256, 1024), zip((2.0, 4.0, 8.0), gpu_s, strict=True), strict=True))

    assert crossover(took_s) == from_rows


def test_the_handmade_models_are_what_their_cards_say(tiny: Tiny) -> None:
    folder = tiny()

    assert hashlib.sha256(DOUBLING).hexdigest() in (folder / "model.yaml").read_text()
