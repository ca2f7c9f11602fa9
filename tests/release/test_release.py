"""A wheel holds what its packages need and no more, and its dependencies have licences that we take."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

from tests.release.licences import ALLOWED, Licence, closure, licence
from tests.release.parts import ROOT, build, names_in_sdist, names_in_wheel, source_files, wanted_in_wheel
from worker import __version__


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Wheel and sdist of a copy of the sources, so that nothing is left in the clone."""
    clean = tmp_path_factory.mktemp("clean")
    for path in source_files():
        copy = clean / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    (clean / "tests").mkdir()
    (clean / "tests" / "test_not_to_be_packed.py").touch()
    sdist, wheel = build(clean, tmp_path_factory.mktemp("dist"), "--no-isolation")[::-1]
    assert (wheel.suffix, sdist.suffix) == (".whl", ".gz")
    return wheel, sdist


def test_the_wheel_holds_every_file_of_its_packages_and_nothing_else(built: tuple[Path, Path]) -> None:
    assert names_in_wheel(built[0]) == wanted_in_wheel()


def test_the_wheel_holds_schemas_pipelines_and_models(built: tuple[Path, Path]) -> None:
    """Named here by hand, so that a mistake in how the list above is made is seen."""
    assert {
        "schemas/score.avsc",
        "schemas/kernels.py",
        "worker/pipeline.schema.json",
        "loadgen/shipped/pipelines/fraud.yaml",
        "loadgen/shipped/models/fraud/2/model.onnx",
        "loadgen/shipped/models/fraud/2/golden.npz",
    } <= names_in_wheel(built[0])


def test_neither_file_holds_tests(built: tuple[Path, Path]) -> None:
    names = names_in_wheel(built[0]) | names_in_sdist(built[1])

    assert [name for name in names if name.startswith("tests/")] == []
    assert "LICENSE" in names


def test_the_wheel_finds_its_pipelines_where_nothing_else_is(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    """Unpacked and run from another folder, as an installed one is; the libraries are those of the tests."""
    site = tmp_path / "site"
    shutil.unpack_archive(built[0], site, "zip")
    (tmp_path / "empty").mkdir()
    validate = "import sys; from loadgen.demo import _PIPELINES as p; from worker.cli import main; "
    validate += "print(p); sys.exit(main(['validate', str(p / 'fraud.yaml')]))"

    done = subprocess.run(
        [sys.executable, "-c", validate],
        cwd=tmp_path / "empty", env={"PYTHONPATH": str(site)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(site / "loadgen" / "shipped" / "pipelines")


def test_the_version_is_that_of_the_wheel_and_the_changelog_knows_it(built: tuple[Path, Path]) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "worker.cli", "--version"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert said.stdout == f"penstock {__version__}\n"
    assert f"-{__version__}-" in built[0].name
    assert __version__ == released[0] or (".dev" in __version__ and __version__ > released[0])


def test_every_dependency_has_a_licence_that_we_take() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    found = [licence(package) for package in closure(wanted)]

    assert len(found) > len(wanted)  # what they bring along is asked too
    assert [of for of in found if not of.is_allowed] == []


@pytest.mark.parametrize(
    ("terms", "is_allowed"),
    [
        ("MIT", True),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("BSD-3-Clause AND (MIT OR GPL-2.0-only)", True),
        ("GPL-3.0-only", False),
        ("MIT AND GPL-3.0-only", False),
        ("GPL-2.0-only OR AGPL-3.0-only", False),
        ("not told", False),
        ("Apache", False),
    ],
)
def test_an_expression_is_allowed_when_each_part_leaves_a_choice_that_is(
    terms: str, is_allowed: bool
) -> None:
    assert Licence(package="p", version="1", terms=terms).is_allowed is is_allowed


def test_a_licence_told_in_words_is_known_by_its_name_and_one_not_told_is_refused(tmp_path: Path) -> None:
    def told(*lines: str) -> Licence:
        folder = tmp_path / f"p{len(list(tmp_path.iterdir()))}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            "\n".join(["Metadata-Version: 2.1", "Name: p", "Version: 1", *lines])
        )
        return licence(PathDistribution(folder))

    assert (
        told("License-Expression: MIT", "Classifier: License :: OSI Approved :: BSD License").terms == "MIT"
    )
    assert told("Classifier: License :: OSI Approved :: BSD License").terms in ALLOWED
    assert told("License: Apache License 2.0").is_allowed
    assert not told().is_allowed
    assert not told("License: All rights reserved").is_allowed
