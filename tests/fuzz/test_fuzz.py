"""A few hundred damaged inputs at every place where bytes come in; `make fuzz` does it for minutes."""

from __future__ import annotations

import pytest

from tests.fuzz.fuzzing import fuzz
from tests.fuzz.targets import Target, targets

INPUTS = 250
NAMES = [
    "codec",
    "json",
    "protobuf",
    "schema",
    "pipeline file",
    "model card",
    "onnx file",
    "stored row",
    "rule",
    "redis address",
    "http",
]


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    """The targets by name."""
    return {target.name: target for target in targets(tmp_path_factory.mktemp("fuzz"))}


def test_every_target_has_its_turn(every: dict[str, Target]) -> None:
    assert sorted(every) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_damaged_input_neither_crashes_nor_hangs_nor_fills_the_memory(
    every: dict[str, Target], name: str
) -> None:
    report = fuzz(every[name], seconds=0, first_seed=1, inputs=INPUTS)

    assert report.inputs >= INPUTS
