"""A worker that is ready has compiled what it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_nothing_is_compiled_when_events_come() -> None:
    # In a process of its own: in this one other tests have compiled.
    ended = subprocess.run(
        [sys.executable, "-m", "tests.pipeline.late_kernels"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "compiled late:"
