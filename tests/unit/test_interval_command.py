"""`penstock models interval` prints a block that model.yaml takes, from rows whose truth is known."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worker.cli import main
from worker.exits import Exit
from worker.interval import ends
from worker.model_file import load_model_card

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the shipped model whose card has no interval yet."""
    folder = tmp_path / "models" / "rul" / "1"
    shutil.copytree(ROOT / "models" / "rul" / "1", folder)
    card = folder / "model.yaml"
    card.write_text(card.read_text().split("interval:")[0])
    assert load_model_card(folder).interval is None
    return folder


@pytest.fixture
def rows(tmp_path: Path, model: Path) -> Path:
    """Made-up windows, from healthy to worn, with a truth that is off by up to ten cycles."""
    random = np.random.default_rng(2)
    with np.load(model / "golden.npz") as golden:
        readings = np.repeat(golden["readings"], 40, axis=0)
        truth = np.repeat(golden["expected"], 40) + random.uniform(-10, 10, len(readings))
    noise = random.normal(0, 1e-4, readings.shape) * readings.std(axis=(0, 1))
    order = random.permutation(len(readings))
    file = tmp_path / "held-out.npz"
    np.savez(file, readings=(readings + noise).astype(np.float32)[order], label=truth[order])
    return file


def test_what_is_printed_is_the_interval_of_the_card(
    model: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "interval", str(model), "--rows", str(rows), "--bins", "4"]) == Exit.OK
    printed = capsys.readouterr()
    with (model / "model.yaml").open("a") as card:
        card.write(printed.out)

    interval = load_model_card(model).interval

    assert interval is not None
    assert interval.coverage == 0.9
    assert len(interval.low) == 4
    assert str(interval.fitted_on).startswith("held-out.npz, 1,280 rows, sha256 ")
    low, high = ends(interval, np.array([10, 60, 100], np.float32))
    assert (high - low).tolist() == pytest.approx([18, 18, 18], abs=1.5)  # nine tenths of +-10
    assert "of every other row inside, as fitted to the rest; 90% wanted" in printed.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--label", "life"], "found no array or column 'life', expected the truth of each row"),
        (["--coverage", "1"], "--coverage: found 1.0, expected more than 0 and less than 1"),
        (["--bins", "0"], "--bins: found 0, expected at least 1"),
        (["--bins", "2000"], "expected at least 19"),
    ],
)
def test_what_cannot_be_worked_out_is_one_line(
    model: Path, rows: Path, capsys: pytest.CaptureFixture[str], options: list[Any], said: str
) -> None:
    code = main(["models", "interval", str(model), "--rows", str(rows), *options])

    printed = capsys.readouterr()
    assert code == Exit.CONFIG
    assert said in printed.err
    assert len(printed.err.splitlines()) == 1
    assert printed.out == ""
