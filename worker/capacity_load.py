"""The load generator as a program of its own, so that its CPU and its imports are not the worker's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from worker.exits import Exit, StopWorker

BEGUN, ENDED = "begun", "ended"  # lines that loadgen.measure prints between which it sends and reads


def send(order: dict[str, Any], timeout_s: float, mark: Callable[[], Any]) -> tuple[dict[str, Any], Any, Any]:
    """Have an order carried out (`loadgen.measure`); its report, and what `mark` said as it began and ended.

    Raises:
        StopWorker: it failed or took too long; with what it said last.
    """
    with tempfile.TemporaryFile("w+") as errors:
        process = _start("loadgen.measure", errors)
        timer = threading.Timer(timeout_s, process.kill)
        timer.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            with process.stdin:
                json.dump(order, process.stdin)
            marks = [mark() if process.stdout.readline().strip() == said else None for said in (BEGUN, ENDED)]
            text = process.stdout.read()
            code = process.wait()
        finally:
            timer.cancel()
            process.kill()  # does nothing to one that has ended
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        if code:
            raise _failed(code, errors)
    return json.loads(text), marks[0], marks[1]


def page(report: dict[str, Any]) -> str:
    """The HTML page of a report.

    Raises:
        StopWorker: it could not be made.
    """
    with tempfile.TemporaryFile("w+") as errors:
        process = _start("loadgen.page", errors)
        text, _ = process.communicate(json.dumps(report), timeout=60)
        if process.returncode:
            raise _failed(process.returncode, errors)
    return text


def _start(module: str, errors: IO[str]) -> subprocess.Popen[str]:
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def _failed(code: int, errors: IO[str]) -> StopWorker:
    errors.seek(0)
    last = (errors.read().strip().splitlines() or ["it said nothing"])[-1]
    why = "it did not end in time" if code < 0 else last
    return StopWorker(Exit.KAFKA, f"the load generator ended with code {code}: {why}")
