"""Environments of the peers: each family in one of its own, as their requirements contradict each other."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

CACHE = Path.home() / ".cache" / "penstock" / "peers"
_JOB = (
    "fastavro==1.13.1",
    "onnxruntime==1.31.1",
    "numpy==2.4.6",
    "redis==8.1.0",
    "hiredis",
)
FAMILIES: dict[str, tuple[str, ...]] = {
    "ck": (*_JOB, "confluent-kafka==2.16.1"),
    "quix": (*_JOB, "quixstreams==3.28.1"),
    "bytewax": (*_JOB, "bytewax[kafka]==0.21.1", "confluent-kafka==2.16.1"),
    "faust": (*_JOB, "faust-streaming[uvloop,fast]==0.15.3", "confluent-kafka==2.16.1"),
}


def python_of(family: str) -> Path:
    """The interpreter of a family's environment, made on first use (half a minute each).

    Raises:
        subprocess.CalledProcessError: pip could not install it.
    """
    wanted = FAMILIES[family]
    folder = CACHE / f"{family}-{hashlib.sha256(' '.join(wanted).encode()).hexdigest()[:8]}"
    python, done = folder / "bin" / "python", folder / ".installed"
    if not done.exists():
        print(f"installing the peers' environment {family} into {folder}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--retries", "5", *wanted], check=True)
        done.touch()
    return python
