"""The shape of the code: who imports whom, one subject a file, names that say something."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("feature_cache", "loadgen", "schemas", "worker")
MAY_IMPORT = {
    "worker": {"worker", "feature_cache", "schemas"},
    "loadgen": {"loadgen", "schemas"},
    "feature_cache": {"feature_cache"},
    "schemas": {"schemas"},
}
SAY_NOTHING = {"utils", "util", "manager", "base", "common", "helpers", "helper", "misc"}
MAX_LINES = 400

MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.partition(".")[0]


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_package_imports_only_those_below_it(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    ours = set(_imported(ast.parse(path.read_text()))) & {*PACKAGES, "tests", "training", "benchmarks"}
    assert ours <= MAY_IMPORT[package]


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_module_opens_with_one_sentence(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring, "no docstring"
    first = " ".join(docstring.partition("\n\n")[0].split())
    assert first.endswith((".", ":")), f"not a sentence: {first!r}"
    assert ". " not in first.replace("e.g. ", "").replace("i.e. ", ""), f"more than one sentence: {first!r}"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_module_is_short_enough_to_have_one_subject(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_module_name_says_what_is_in_it(path: Path) -> None:
    assert not SAY_NOTHING & set(path.with_suffix("").relative_to(ROOT).parts)


def test_our_classes_inherit_from_each_other_only_to_be_errors() -> None:
    classes = [
        node
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    ]
    own = {node.name for node in classes}
    parents = {base.id for node in classes for base in node.bases if isinstance(base, ast.Name)} & own
    assert {name for name in parents if not name.endswith("Error")} == set()


def test_every_package_is_shipped() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(settings["tool"]["setuptools"]["packages"]) >= set(PACKAGES)


KERNEL_FILES = [path for path in MODULES if "@njit" in path.read_text()]


def _kernels(path: Path) -> dict[str, ast.FunctionDef]:
    functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    return {f.name: f for f in functions if any("njit" in ast.unparse(d) for d in f.decorator_list)}


@pytest.mark.parametrize("path", KERNEL_FILES, ids=_name)
def test_no_kernel_calls_one_of_another_file(path: Path) -> None:
    """Numba's cache knows the date of the caller's file only: a changed callee would not be compiled anew."""
    elsewhere = {name for other in KERNEL_FILES if other != path for name in _kernels(other)}
    for kernel in _kernels(path).values():
        called = {node.func.id for node in ast.walk(kernel) if _is_name_call(node)}  # type: ignore[attr-defined]
        assert called & elsewhere == set()


def _is_name_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
