"""Builds the wheel and the sdist, and says what each must hold."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
_LEFT_BY_RUNS = {"__pycache__", ".mypy_cache", ".ruff_cache"}
_COMPILED = {".pyc", ".nbi", ".nbc"}
# What pip needs to build, and what readers of an sdist expect.
_PROJECT_FILES = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")


def package_folders(root: Path = ROOT) -> dict[str, Path]:
    """The folder that each package of the wheel is taken from, by its dotted name."""
    options = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    moved = options.get("package-dir", {})
    return {name: root / moved.get(name, name.replace(".", "/")) for name in options["packages"]}


def source_files(root: Path = ROOT) -> list[Path]:
    """Every file that the packages and the build are made of."""
    found = [root / name for name in _PROJECT_FILES]
    for folder in package_folders(root).values():
        found += [path for path in sorted(folder.rglob("*")) if path.is_file() and _is_ours(path)]
    return sorted(set(found))


def _is_ours(path: Path) -> bool:
    return path.suffix not in _COMPILED and not _LEFT_BY_RUNS & set(path.parts)


def wanted_in_wheel(root: Path = ROOT) -> set[str]:
    """Names that the wheel must hold beside its metadata: all that lies in the folders of its packages."""
    return {
        f"{package.replace('.', '/')}/{path.relative_to(folder).as_posix()}"
        for package, folder in package_folders(root).items()
        for path in source_files(root)
        if folder in path.parents
    }


def names_in_wheel(wheel: Path) -> set[str]:
    """Names in the wheel, its metadata left out."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def names_in_sdist(sdist: Path) -> set[str]:
    """Names in the sdist as in the project's folder, folders left out."""
    with tarfile.open(sdist) as archive:
        return {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}


def build(root: Path, out: Path, *arguments: str) -> list[Path]:
    """Build what the arguments of `python -m build` ask for, and return the files.

    Raises:
        RuntimeError: the build failed; the message is the end of its output.
    """
    command = [sys.executable, "-m", "build", "--outdir", str(out), *arguments, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise RuntimeError("\n".join((done.stdout + done.stderr).splitlines()[-20:]))
    return sorted(out.glob("penstock-*"))
