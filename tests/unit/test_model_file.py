"""The card of a model version is read exactly, or refused with one line."""

import copy
import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from worker.config import ConfigError, SequenceFeature, load_pipeline
from worker.feeds import model_feeds
from worker.model_file import check_sha256, load_model_card

ROOT = Path(__file__).parent.parent.parent
STATISTICS = ["mean", "std", "p01", "p50", "p99"]
ONNX = b"\x08\x08"  # an ONNX file that says its version and nothing else
CARD: dict[str, Any] = {
    "name": "rul",
    "version": "1",
    "description": "A sequence model.",
    "file": "model.onnx",
    "sha256": hashlib.sha256(ONNX).hexdigest(),
    "inputs": [{"tensor": "readings", "dtype": "float32", "shape": ["n", 30, 2], "sequence": "last"}],
    "output": {"tensor": "life", "column": None, "meaning": "remaining_life"},
    "trained_on": "nothing",
    "metrics": {"rmse": 12.5, "rows": 100},
}


def save(folder: Path, card: Mapping[str, Any]) -> Path:
    version = folder / "rul" / "1"
    version.mkdir(parents=True, exist_ok=True)
    (version / "model.onnx").write_bytes(ONNX)
    (version / "model.yaml").write_text(yaml.safe_dump(dict(card), sort_keys=False))
    return version


def test_the_shipped_cards_load_and_fit_their_files() -> None:
    cards = sorted(ROOT.glob("models/*/*/model.yaml"))

    assert cards
    for file in cards:
        card = load_model_card(file.parent)
        check_sha256(card)
        assert card.onnx_file.is_file()


def test_a_card_says_what_it_says(tmp_path: Path) -> None:
    card = load_model_card(save(tmp_path, CARD))

    assert card.inputs[0].sequence == "last"
    assert card.inputs[0].shape == ("n", 30, 2)
    assert card.output.column is None
    assert card.metrics == {"rmse": 12.5, "rows": 100}
    check_sha256(card)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("version",), "2", 'version: found "2", expected the name of its folder'),
        (("version",), 1, "version: found 1, expected text"),
        (("name",), "life", 'name: found "life", expected the name of its folder'),
        (("file",), "other.onnx", 'file: found "other.onnx", expected a file beside model.yaml'),
        (("sha256",), "abc", 'sha256: found "abc", expected 64 hexadecimal digits'),
        (("inputs",), [], "inputs: found an empty list, expected at least 1 item"),
        (("inputs", 0, "dtype"), "int8", 'inputs[0].dtype: found "int8", expected one of float32, float64'),
        (
            ("inputs", 0, "sequence"),
            None,
            "inputs[0]: found neither, expected exactly one of features",
        ),
        (
            ("inputs", 0, "features"),
            ["a"],
            "inputs[0]: found both, expected exactly one of features",
        ),
        (("inputs", 0, "shape"), ["n", 30], "inputs[0].shape: found [n, 30], expected [n, length, fields]"),
        (
            ("inputs", 0, "shape"),
            ["n", 0, 2],
            "inputs[0].shape[1]: found 0, expected a whole number of",
        ),
        (("inputs", 0, "fields"), ["a"], "inputs[0].shape: found [n, 30, 2], expected 1 at the end"),
        (("output", "meaning"), "risk", 'found "risk", expected one of probability, remaining_life'),
        (("output", "colum"), 1, "output.colum: found an unknown key, expected column"),
        (
            ("interval",),
            {"coverage": 0.9, "edges": [2, 1], "low": [0, 0, 0], "high": [1, 1, 1]},
            "interval.edges: found numbers that do not rise, expected rising numbers",
        ),
        (
            ("interval",),
            {"coverage": 0.9, "edges": [1], "low": [0], "high": [1, 1]},
            "interval.low: found 1 numbers, expected 2, one more than there are edges",
        ),
        (
            ("interval",),
            {"coverage": 0.9, "edges": [1], "low": [2, 0], "high": [1, 1]},
            "interval.low[0]: found 2, expected at most the high end, 1",
        ),
        (
            ("interval",),
            {"coverage": 1.0, "edges": [], "low": [0], "high": [1]},
            "interval.coverage: found 1.0, expected ",
        ),
        (
            ("reference",),
            {"a": dict.fromkeys(STATISTICS, 0.0)},
            'found "a", expected',
        ),
    ],
)
def test_a_wrong_card_is_one_line(
    tmp_path: Path, path: tuple[str | int, ...], value: Any, message: str
) -> None:
    card = copy.deepcopy(CARD)
    inner: Any = card
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value

    with pytest.raises(ConfigError) as caught:
        load_model_card(save(tmp_path, card))

    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/rul/1/model.yaml:")
    assert len(str(caught.value).splitlines()) == 1


def test_a_channel_of_a_sequence_may_be_described(tmp_path: Path) -> None:
    (entry,) = CARD["inputs"]
    told = dict.fromkeys(STATISTICS, 1.0)
    card = {**CARD, "inputs": [{**entry, "fields": ["s02", "s03"]}], "reference": {"last.s03": told}}

    assert load_model_card(save(tmp_path, card)).reference["last.s03"].p50 == 1.0
    with pytest.raises(ConfigError, match=r"reference\.last\.s04: found .* SEQUENCE\.FIELD"):
        load_model_card(save(tmp_path, {**card, "reference": {"last.s04": told}}))


def test_a_folder_without_a_card_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.yaml:1: found no such file, expected the card"):
        load_model_card(tmp_path)


def test_another_onnx_file_than_the_card_was_written_for_is_refused(tmp_path: Path) -> None:
    card = load_model_card(save(tmp_path, CARD))
    card.onnx_file.write_bytes(ONNX + b"!")

    with pytest.raises(ConfigError, match=r"model\.yaml:5: sha256: found "):
        check_sha256(card)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, ""),
        ({"shape": ["n", "t", "f"]}, ""),
        ({"fields": ["s02", "s03"]}, ""),
        (
            {"shape": ["n", 20, 2]},
            "inputs[0].shape: found [n, 20, 2], expected [n, 30, 2], the sequence",
        ),
        (
            {"shape": ["n", 30, 3]},
            "inputs[0].shape: found [n, 30, 3], expected [n, 30, 2], the sequence",
        ),
        ({"fields": ["s03", "s02"]}, "inputs[0].fields: found s03, s02, expected the fields of last"),
        ({"sequence": "lasts"}, 'inputs[0].sequence: found "lasts", expected a sequence of '),
    ],
)
def test_a_sequence_feeds_only_the_shape_and_order_it_has(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    card = copy.deepcopy(CARD)
    card["inputs"][0] |= change
    save(tmp_path / "models", card)
    shutil.copytree(ROOT / "pipelines", tmp_path / "pipelines")
    file = tmp_path / "pipelines" / "maintenance.yaml"
    text = file.read_text().replace("  readings:  ", "  last:  ")
    fields = text[text.index("fields: [") : text.index("]", text.index("fields: [")) + 1]
    file.write_text(text.replace(fields, "fields: [s02, s03]"))
    pipeline = load_pipeline(file, {})
    assert isinstance(pipeline.features["last"], SequenceFeature)
    loaded = load_model_card(tmp_path / "models" / "rul" / "1")

    if not message:
        assert [feed.feature for feed in model_feeds(pipeline, loaded, {})] == ["last.s02", "last.s03"]
        return
    with pytest.raises(ConfigError) as caught:
        model_feeds(pipeline, loaded, {})
    assert message in str(caught.value)
