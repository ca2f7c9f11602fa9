"""A worker tells nobody but those whom its file names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_onnx_runtime_keeps_no_id_of_this_machine_and_reports_to_nobody(tmp_path: Path) -> None:
    """It makes the id when it is imported, unless it was told before to report nothing."""
    env = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    subprocess.run(
        [sys.executable, "-c", "import worker.session"],
        env={**env, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
        timeout=120,
        check=True,
    )

    assert [file for file in tmp_path.rglob("*") if "icrosoft" in str(file)] == []
