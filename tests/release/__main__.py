"""Builds a release, installs it where nothing else is, runs the demo from it, and lists what came along."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.release.licences import Licence, licence, table
from tests.release.parts import ROOT, build, names_in_sdist, names_in_wheel, wanted_in_wheel
from worker import __version__

DIST = ROOT / "dist"
DEMO = "demo --plain --fraud-rate 1000 --sensor-rate 400 --seconds"


class NotReady(Exception):
    """This is no release; the message says what is wrong with it."""


def contents(wheel: Path, sdist: Path) -> str:
    """Check what both files hold, and say how much it is.

    Raises:
        NotReady: something is missing, or was packed that belongs to no package.
    """
    held, wanted = names_in_wheel(wheel), wanted_in_wheel()
    if held != wanted:
        raise NotReady(
            f"{wheel.name} lacks {sorted(wanted - held)}, and should not have {sorted(held - wanted)}"
        )
    if astray := {
        name for name in names_in_sdist(sdist) if name.startswith(("tests/", "docs/", "benchmarks/"))
    }:
        raise NotReady(f"{sdist.name} should not have {sorted(astray)[:5]}")
    return f"{len(held)} files; wheel {_mb(wheel)}, sdist {_mb(sdist)}"


def _mb(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"


def run(command: list[str], cwd: Path, timeout_s: float = 900.0) -> str:
    """Run a command as somebody would who has nothing of Penstock but the environment.

    Raises:
        NotReady: it failed; the message has the end of its output.
    """
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PENSTOCK_", "PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise NotReady(f"{' '.join(command)} ended with {done.returncode}:\n{said}")
    return done.stdout


def installed(wheel: Path, home: Path) -> Path:
    """Make an environment that holds nothing but the wheel and what it asks for; return its folder."""
    folder = home / "env"
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, "--retries", "10", "--timeout", "180", str(wheel)], home, 1800)
    return folder


def demonstrated(env: Path, seconds: float, home: Path) -> dict[str, Any]:
    """Run version and demo from the environment in an empty folder, and return the demo's summary.

    Raises:
        NotReady: another version answers, an event has no outcome, or a pipeline gave no scores.
    """
    empty = home / "empty"
    empty.mkdir()
    penstock = str(env / "bin" / "penstock")
    if (said := run([penstock, "--version"], empty).strip()) != f"penstock {__version__}":
        raise NotReady(f"the wheel says {said!r}, expected {__version__}")
    summary: dict[str, Any] = json.loads(run([penstock, *DEMO.split(), str(seconds)], empty).splitlines()[-1])
    silent = [name for name, stream in summary["pipelines"].items() if not stream["scores"]]
    if summary["unaccounted"] or silent:
        raise NotReady(
            f"the demo left {summary['unaccounted']} events without an outcome; no scores: {silent}"
        )
    if left := [path.name for path in empty.iterdir()]:
        raise NotReady(f"the demo left files where it was started: {left}")
    return summary


def licences_of(env: Path) -> list[Licence]:
    """What each package in the environment says of its licence; Penstock and pip left out.

    Raises:
        NotReady: one is not among those that we take.
    """
    site = next((env / "lib").glob("python3*")) / "site-packages"
    found = [licence(package) for package in distributions(path=[str(site)])]
    found = [of for of in found if of.package.lower() not in {"penstock", "pip"}]
    if refused := [f"{of.package} {of.version}: {of.terms}" for of in found if not of.is_allowed]:
        raise NotReady(f"licences that are not in tests/release/licences.py: {refused}")
    return found


def bill_of_materials(env: Path, to: Path) -> int:
    """Write a CycloneDX bill of what is in the environment; return how many components it lists."""
    command = ["environment", "--output-reproducible", "--mc-type", "application"]
    out = ["--output-format", "JSON", "--output-file", str(to), str(env / "bin" / "python")]
    run([sys.executable, "-m", "cyclonedx_py", *command, *out], ROOT)
    bill = json.loads(to.read_text())
    names = {component["name"].lower() for component in bill["components"]}
    if missing := {of.package.lower() for of in licences_of(env)} - names:
        raise NotReady(f"{to.name} lacks {sorted(missing)}")
    return len(names)


def changelog(version: str) -> str:
    """Check that the changelog has this version, or for a development version what is not released yet."""
    heading = "## [Unreleased]" if ".dev" in version else f"## [{version}]"
    if heading not in (ROOT / "CHANGELOG.md").read_text():
        raise NotReady(f"CHANGELOG.md has no {heading}")
    return heading.removeprefix("## ") + (": not a release yet" if ".dev" in version else "")


def check(seconds: float, arguments: list[str]) -> None:
    """Do all of it in order, and print what each part found and how long it took."""
    steps = Table("step", "found", "s", title=f"Penstock {__version__}")
    began_s = time.monotonic()

    def done(step: str, found: str) -> None:
        nonlocal began_s
        steps.add_row(step, found, f"{time.monotonic() - began_s:.0f}")
        began_s = time.monotonic()

    done("changelog", changelog(__version__))
    shutil.rmtree(DIST, ignore_errors=True)
    wheel, sdist = sorted(build(ROOT, DIST, *arguments), key=lambda path: path.suffix != ".whl")
    done("wheel and sdist", contents(wheel, sdist))
    with tempfile.TemporaryDirectory(prefix="penstock-release-") as made:
        home = Path(made)
        env = installed(wheel, home)
        done("installed into an empty environment", f"{len(licences_of(env))} packages beside it")
        streams = demonstrated(env, seconds, home)["pipelines"]
        scored = ", ".join(f"{name} {stream['scores']:,} scores" for name, stream in streams.items())
        done("demo from an empty folder", f"{scored}; unaccounted for: 0")
        bill = DIST / f"penstock-{__version__}.cdx.json"
        done("SBOM", f"{bill.name}: {bill_of_materials(env, bill)} components")
        listed = DIST / f"penstock-{__version__}.licences.md"
        listed.write_text(table(licences_of(env)))
        done("licences", f"{listed.name}: all allowed")
    sums = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in sorted(DIST.iterdir())
    ]
    (DIST / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    done("SHA256SUMS", f"{len(sums)} files in {DIST.name}/")
    Console().print(steps)


def main() -> int:
    """Check; exit code 0, or 1 with one message that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.release", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long the demo runs (10)")
    parser.add_argument("--no-isolation", action="store_true", help="build with the setuptools that is here")
    arguments = parser.parse_args()
    try:
        check(arguments.seconds, ["--no-isolation"] if arguments.no_isolation else [])
    except (NotReady, RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"release-check: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
