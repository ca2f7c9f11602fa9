"""`penstock init` writes what `penstock validate` takes, from models and schemas that are not ours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from schemas.schema import Schema, parse_schema
from worker.cli import main
from worker.composite import load_version
from worker.config import load_pipeline
from worker.exits import Exit
from worker.init_feeds import feature_name
from worker.init_schema import InitError, roles_of
from worker.plan import feature_plan

TIME = {"type": "long", "logicalType": "timestamp-millis"}
READING = {
    "reading_id": "string", "pump": "string", "taken": TIME, "pressure": "double", "flow": "float",
    "valve_open": "boolean", "note": ["null", "string"],
}  # fmt: skip


def schema(fields: dict[str, Any], name: str = "PumpReading") -> Schema:
    """A record of these fields."""
    return parse_schema(_text(fields, name))


def _text(fields: dict[str, Any], name: str = "PumpReading") -> str:
    listed = [{"name": field, "type": kind} for field, kind in fields.items()]
    return json.dumps({"type": "record", "name": name, "fields": listed})


def nobody(_question: str, _choices: Sequence[str]) -> None:
    """No terminal."""


def graph(
    inputs: Sequence[tuple[str, list[Any]]], out: str, nodes: list[Any], weights: list[Any], width: int = 1,
    more: Sequence[Any] = (),
) -> bytes:  # fmt: skip
    """A model of float inputs with one float output (n, width), and whatever outputs more are."""
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs],
        [*more, helper.make_tensor_value_info(out, TensorProto.FLOAT, ["n", width])],
        [numpy_helper.from_array(value, name) for name, value in weights],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def linear(width: int, out: str = "score", columns: int = 1, more: Sequence[Any] = ()) -> bytes:
    """Row sums, minus what all-ones would give; with as many equal columns as asked for."""
    nodes = [helper.make_node("MatMul", ["x", "w"], [out])]
    nodes += [helper.make_node("ArgMax", [out], [m.name], axis=1, keepdims=0) for m in more]
    weights = [("w", np.tile(np.arange(1, width + 1, dtype=np.float32)[:, None], columns))]
    return graph([("x", ["n", width])], out, nodes, weights, columns, more)


LABEL = helper.make_tensor_value_info("label", TensorProto.INT64, ["n"])


class Folder:
    """A folder of somebody who tries Penstock."""

    def __init__(self, at: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.at, self._capsys = at, capsys
        self.err = ""

    def init(self, model: bytes, *words: str, fields: dict[str, Any] = READING) -> tuple[int, dict[str, Any]]:
        """Exit code and what was said as data."""
        (self.at / "reading.avsc").write_text(_text(fields))
        (self.at / "mine.onnx").write_bytes(model)
        self._capsys.readouterr()
        code = main(
            [
                "init",
                str(self.at / "reading.avsc"),
                str(self.at / "mine.onnx"),
                "--out",
                str(self.at),
                "--json",
                *words,
            ]
        )
        said = self._capsys.readouterr()
        self.err = said.err
        return code, json.loads(said.out) if said.out else {}

    def rows(self, columns: dict[str, Any], name: str = "rows.csv") -> str:
        """A CSV file of these columns."""
        lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
        (self.at / name).write_text("\n".join(lines) + "\n")
        return str(self.at / name)

    def card(self) -> Any:
        """The card that was written."""
        return yaml.safe_load((self.at / "models" / "mine" / "1" / "model.yaml").read_text())


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Folder:
    """An empty one."""
    return Folder(tmp_path, capsys)


@pytest.fixture
def typical() -> dict[str, Any]:
    """A thousand rows, in another order than the schema."""
    rng = np.random.default_rng(3)
    return {name: rng.normal(10, 1, 1000).round(4) for name in ("flow", "pressure")}


def test_what_is_written_is_taken_by_validate_and_by_a_worker(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = folder.init(linear(3))

    assert code == Exit.OK
    assert main(["validate", said["pipeline"]]) == Exit.OK
    assert "event field pressure" in capsys.readouterr().out
    pipeline = load_pipeline(Path(said["pipeline"]), {})
    assert pipeline.model is not None
    assert load_version(pipeline.model.folder, feature_plan(pipeline), "cpu").device == "cpu"
    assert said["features"] == ["pressure", "flow", "valve_open"]
    assert (said["key"], said["event_id"], said["event_time"]) == ("pump", "reading_id", "taken")


def test_rows_give_the_order_the_reference_and_the_thresholds(
    folder: Folder, typical: dict[str, Any]
) -> None:
    code, said = folder.init(linear(2), "--rows", folder.rows(typical))

    scores = typical["flow"] + 2 * typical["pressure"]
    assert code == Exit.OK
    assert said["features"] == ["flow", "pressure"]  # as the training rows have them, not as the schema does
    assert said["decision"]["alert_when"] == "above"
    assert said["decision"]["warning"] == pytest.approx(np.quantile(scores, 0.99), rel=1e-3)
    assert said["decision"]["critical"] == pytest.approx(np.quantile(scores, 0.999), rel=1e-3)
    card = folder.card()
    assert card["reference"]["flow"]["mean"] == pytest.approx(typical["flow"].mean(), rel=1e-4)
    assert card["reference_score"]["p50"] == pytest.approx(np.median(scores), rel=1e-4)
    with np.load(folder.at / "models" / "mine" / "1" / "golden.npz") as golden:
        flows = typical["flow"].astype(np.float32)
        assert np.isin(golden["x"][:, 0], flows).all()


def test_an_outlier_detector_alerts_below(folder: Folder, typical: dict[str, Any]) -> None:
    model = linear(2, out="scores", more=[LABEL])

    assert folder.init(model, "--features", "flow,pressure")[1]["decision"] == {
        "alert_when": "below", "warning": 0.0, "why": "below 0 the detector says outlier",
    }  # fmt: skip
    _, said = folder.init(model, "--rows", folder.rows(typical), "--force")
    assert said["decision"]["alert_when"] == "below"
    assert said["decision"]["critical"] < said["decision"]["warning"] < 30


def test_of_two_classes_the_second_ones_probability_is_the_score(folder: Folder) -> None:
    _, said = folder.init(linear(3, out="probabilities", columns=2, more=[LABEL]))

    assert said["output"] == {
        "tensor": "probabilities", "column": 1, "meaning": "probability",
        "why": "a classifier of two classes",
    }  # fmt: skip
    assert said["decision"]["warning"] == 0.5


def test_one_input_a_field_is_fed_by_name(folder: Folder) -> None:
    inputs = [(name, ["n", 1]) for name in ("flow", "pressure")]
    model = graph(inputs, "score", [helper.make_node("Sub", ["flow", "pressure"], ["score"])], [])

    _, said = folder.init(model)

    assert said["features"] == ["flow", "pressure"]
    assert [entry["features"] for entry in folder.card()["inputs"]] == [["flow"], ["pressure"]]


def test_a_stretch_of_readings_becomes_a_sequence(folder: Folder) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["m", "w"], ["rul"]),
    ]
    model = graph([("x", ["n", "steps", 2])], "rul", nodes, [("w", np.ones((2, 1), np.float32))])

    assert folder.init(model, "--features", "flow,pressure")[0] == Exit.CONFIG
    assert "--length" in folder.err
    code, said = folder.init(model, "--features", "flow,pressure", "--length", "5")

    assert code == Exit.OK
    assert said["output"]["meaning"] == "remaining_life"
    assert said["decision"]["alert_when"] == "below"
    assert "length: 5" in Path(said["pipeline"]).read_text()
    assert main(["validate", said["pipeline"]]) == Exit.OK


def test_nothing_is_written_over_without_force(folder: Folder) -> None:
    assert folder.init(linear(3))[0] == Exit.OK
    mine = folder.at / "mine.yaml"
    mine.write_text("# changed by hand\n")

    assert folder.init(linear(3)) == (Exit.CONFIG, {})
    assert "--force" in folder.err
    assert mine.read_text() == "# changed by hand\n"
    assert folder.init(linear(3), "--force")[0] == Exit.OK
    assert "name: mine" in mine.read_text()


@pytest.mark.parametrize(
    ("model", "words", "said"),
    [
        (b"not onnx", (), "expected an ONNX file"),
        (linear(2), (), "--features pressure,flow"),
        (linear(3), ("--features", "flow,preasure,valve_open"), "found preasure"),
        (linear(3), ("--features", "flow"), "expected 3"),
        (linear(3), ("--key", "nobody"), "--key: found 'nobody'"),
        (linear(3, columns=3), (), "--output score:0|score:1|score:2"),
        (linear(3), ("--output", "score:9"), "found column 9"),
        (linear(3), ("--rows", "nowhere.csv"), "nowhere.csv"),
        (linear(3), ("--name", "No Name"), "--name"),
        (linear(3), ("--threshold", "2", "--threshold", "2"), "decision.severities"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_cannot_be_decided_names_its_option_and_leaves_nothing(
    folder: Folder, model: bytes, words: tuple[str, ...], said: str
) -> None:
    assert folder.init(model, *words)[0] == Exit.CONFIG
    assert said in folder.err
    assert "Traceback" not in folder.err
    assert not (folder.at / "mine.yaml").exists()
    assert not (folder.at / "models" / "mine" / "1").exists()


def test_probabilities_in_dictionaries_are_told_how_to_be_exported(folder: Folder) -> None:
    pair = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    out = helper.make_value_info("p", helper.make_sequence_type_proto(pair))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["s"]),
        helper.make_node("ZipMap", ["s"], ["p"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]),
    ]
    made = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])], [out],
        [numpy_helper.from_array(np.ones((3, 2), np.float32), "w")],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=8).SerializeToString()

    assert folder.init(model)[0] == Exit.CONFIG
    assert '"zipmap": False' in folder.err


@pytest.mark.parametrize(
    ("fields", "name", "key", "event_id", "event_time"),
    [
        ({"id": "long", "card": "string", "ts": "long", "amount": "double"}, "Payment", "card", "id", "ts"),
        ({"login_id": "string", "account": "string", "at": TIME, "failed": "boolean"}, "Login",
         "account", "login_id", "at"),
        ({"transaction_id": "string", "customer_id": "string", "channel": "string", "event_time": TIME,
          "seen": TIME}, "Transaction", "customer_id", "transaction_id", "event_time"),
        ({"eventId": "string", "machineId": "int", "time": TIME, "rpm": "int"}, "Reading",
         "machineId", "eventId", "time"),
    ],
    ids=["ids", "logins", "several", "camel case"],
)  # fmt: skip
def test_fields_are_known_by_type_and_then_by_name(
    fields: dict[str, Any], name: str, key: str, event_id: str, event_time: str
) -> None:
    found = roles_of(schema(fields, name), nobody)

    assert (found.key, found.event_id, found.event_time) == (key, event_id, event_time)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"pump": "string", "taken": TIME, "flow": "double"}, "never the same twice"),
        ({"event_id": "string", "flow": "double"}, "timestamp-millis"),
        ({"event_id": "string", "taken": TIME, "flow": "double"}, '"name": "machine"'),
        ({"event_id": "string", "a": "string", "b": "string", "taken": TIME}, "--key a|b"),
        ({"event_id": ["null", "string"], "a": "string", "taken": TIME}, "--event-id a"),
    ],
    ids=["no id", "no time", "no key", "two keys", "an id that may be null"],
)
def test_a_schema_without_a_key_an_id_or_a_time_is_told_what_to_add(
    fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(InitError) as refused:
        roles_of(schema(fields, "Reading"), nobody)

    assert said in str(refused.value)


def test_what_nothing_decides_is_asked_where_somebody_is_there() -> None:
    asked = []

    def somebody(question: str, choices: Sequence[str]) -> str:
        asked.append((question, tuple(choices)))
        return "b"

    fields = {"event_id": "string", "a": "string", "b": "string", "taken": TIME}
    found = roles_of(schema(fields, "Reading"), somebody)

    assert found.key == "b"
    assert asked == [("Which field is the record key, whose past counts?", ("a", "b"))]


def test_every_field_has_a_name_as_a_feature() -> None:
    assert [feature_name(field) for field in ("flow", "_flow", "__", "_1")] == [
        "flow",
        "flow",
        "field",
        "f_1",
    ]
