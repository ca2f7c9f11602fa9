"""A worker that is ready has compiled what it needs."""

from __future__ import annotations

import subprocess
import sys


def test_nothing_is_compiled_when_events_come() -> None:
    # In a process of its own: in this one other tests have compiled.
    ended = subprocess.run(
        [sys.executable, "-m", "tests.late_kernels"], capture_output=True, text=True, timeout=300, check=False
    )

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == []
