"""The Dockerfile copies what is there, and runs as nobody special."""

from __future__ import annotations

import re

from tests.deploy.compose_file import ROOT
from tests.release.parts import package_folders

DOCKERFILE = (ROOT / "Dockerfile").read_text()
STAGES = re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)


def _copied() -> set[str]:
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    return {source for line in lines for source in line.split()}


def test_everything_copied_is_in_the_repository_and_in_the_build_context() -> None:
    context = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)

    assert {source for source in _copied() if not (ROOT / source).exists()} == set()
    assert _copied() == set(context)


def test_every_stage_stands_on_an_image_or_an_earlier_stage() -> None:
    known: set[str] = set()
    for source, name in STAGES:
        assert source in known or source.startswith("python:${PYTHON}-")
        known.add(name)
    assert set(re.findall(r"^COPY --from=(\S+)", DOCKERFILE, re.MULTILINE)) <= known


def test_the_default_target_is_the_one_that_runs_anywhere() -> None:
    assert [name for _, name in STAGES][-2:] == ["cuda", "cpu"]


def test_both_targets_run_without_root() -> None:
    assert dict((name, source) for source, name in STAGES)["cpu"] == "runtime"
    assert dict((name, source) for source, name in STAGES)["cuda"] == "runtime"
    users = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert users == ["penstock"]


def test_the_image_installs_every_package_that_is_shipped() -> None:
    assert {folder.relative_to(ROOT).parts[0] for folder in package_folders().values()} <= _copied()
