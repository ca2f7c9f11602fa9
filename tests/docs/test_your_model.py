"""The page about a model of one's own is followed to the letter, from an empty folder to the first alert."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet
import pytest

from tests.docs.pages import ROOT, blocks
from worker.exits import Exit

PAGE = ROOT / "docs" / "your-model.md"
MOST_COMMANDS = 12
DATA = Path(os.environ.get("PENSTOCK_DATA", ROOT.parent / "shared" / "data")) / "skab" / "skab.parquet"


def commands() -> list[str]:
    """What the page tells a reader to type, in order."""
    return [line for block in blocks(PAGE, "sh") for line in block.text.splitlines() if line.strip()]


def command(beginning: str) -> str:
    """The one command of the page that begins like this."""
    (found,) = (line for line in commands() if line.startswith(beginning))
    return found


def test_the_walk_takes_few_commands() -> None:
    assert len(commands()) <= MOST_COMMANDS


class Reader:
    """Somebody in an empty folder, who types what the page says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        here = Path(sys.executable).parent
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
        path = f"{here}{os.pathsep}{kept['PATH']}"
        self.env = {**kept, "PATH": path, "PYTHONPATH": str(ROOT), "PENSTOCK_ADMIN_PORT": "0"}

    def types(self, line: str, timeout_s: float = 120.0) -> str:
        """What the command printed; it must succeed."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", _ours(line)],
            cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip
        assert done.returncode == Exit.OK, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def leaves_running(self, line: str) -> Iterator[Any]:
        """The command in a terminal of its own, until the block ends."""
        process = subprocess.Popen(
            ["bash", "-c", f"exec {_ours(line)}"],
            cwd=self.folder, env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def _ours(line: str) -> str:
    """The command with the interpreter of the tests, and with the code of this checkout."""
    line = re.sub(r"^(training/bin/)?python ", f"{sys.executable} ", line)
    return re.sub(r"^penstock ", f"{sys.executable} -m worker.cli ", line)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """A reader who has the data and has written the two files that the page shows."""
    pytest.importorskip("skl2onnx")
    if not DATA.exists():
        pytest.skip("the public datasets are not here: set PENSTOCK_DATA (see training/README.md)")
    folder = tmp_path_factory.mktemp("mine")
    run = pyarrow.parquet.read_table(DATA, filters=[("experiment", "=", "valve1/1")])
    run = run.rename_columns([n.replace("VolumeFlow", "Volume Flow ") for n in run.column_names])
    target = folder / "SKAB" / "data" / "valve1"
    target.mkdir(parents=True)
    as_published = pyarrow.csv.WriteOptions(delimiter=";", quoting_style="none")
    pyarrow.csv.write_csv(run.drop_columns(["experiment"]), target / "1.csv", as_published)
    (train,), (schema,) = blocks(PAGE, "python"), blocks(PAGE, "json")
    (folder / "train.py").write_text(train.text)
    (folder / "reading.avsc").write_text(schema.text)
    return Reader(folder)


def test_the_page_leads_to_an_alert(reader: Reader) -> None:
    reader.types(command("training/bin/python"))
    chosen = reader.types(command("penstock init"))
    (shown,) = (block.text for block in blocks(PAGE, "text") if block.text.startswith("chose"))
    assert _without_numbers(shown) in _without_numbers(chosen)
    assert "VolumeFlowRateRMS" in reader.types(command("penstock validate"))

    with ExitStack() as running:
        bus = running.enter_context(reader.leaves_running(command("python -m loadgen.bus")))
        address = bus.stdout.readline().strip()
        assert re.fullmatch(r"127\.0\.0\.1:\d+", address)
        exports = dict(re.findall(r"(PENSTOCK_\w+)=(\S+)", command("export")))
        reader.env |= {**exports, "PENSTOCK_KAFKA": address}
        worker = running.enter_context(reader.leaves_running(command("penstock run")))
        _wait_for(worker, "lane taken")
        assert reader.types(command("penstock send")) == "sent 1,145 events to pump.events\n"
        first = reader.types(f"{command('penstock tail alerts')} --count 1")

    assert re.search(r"(warning|critical) +raised +-0\.\d+ +valve1 +\w+ is [-\d.]+; usually", first)


def _without_numbers(text: str) -> str:
    """The text without thresholds, which move with the version of scikit-learn."""
    return re.sub(r"-?\d+\.\d+", "#", text)


def _wait_for(process: Any, said: str, within_s: float = 120.0) -> None:
    give_up_s = time.monotonic() + within_s
    while time.monotonic() < give_up_s:
        line = process.stdout.readline()
        assert line, "it has ended"
        if said in line:
            return
    raise AssertionError(f"no {said!r} within {within_s} s")
