"""`python -m tests.fuzz --minutes 10`: every target for its share of the time, each in its own process."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from typing import Any

from benchmarks.machine import write_result
from tests.fuzz.fuzzing import INPUT_S, MEMORY_BYTES, as_row, fuzz
from tests.fuzz.targets import ROOT, scratch, targets


def main() -> int:
    """Fuzz one target here, or all of them in children; 1 when one of them broke a promise."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--target", help="only this one, in this process")
    parser.add_argument("--result", help="write benchmarks/results/NAME.json")
    given = parser.parse_args()
    folder = scratch()
    try:
        every = targets(folder)
        if given.target:
            target = next(t for t in every if t.name == given.target)
            print(json.dumps(as_row(fuzz(target, seconds=given.minutes * 60, first_seed=given.seed))))
            return 0
        found = [_in_child(t.name, given.minutes / len(every), given.seed) for t in every]
    finally:
        shutil.rmtree(folder)
    if given.result:
        limits = {"input_s": INPUT_S, "memory_mib": MEMORY_BYTES >> 20}
        write_result(given.result, {"minutes": given.minutes, "limits": limits, "targets": found})
    return int(any("failed" in row for row in found))


def _in_child(name: str, minutes: float, seed: int) -> dict[str, Any]:
    words = [
        sys.executable,
        "-m",
        "tests.fuzz",
        "--target",
        name,
        "--minutes",
        str(minutes),
        "--seed",
        str(seed),
    ]
    done = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, timeout=minutes * 60 + 600, check=False
    )
    if done.returncode == 0:
        row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name:15} {row['inputs']:>9,} inputs, slowest {row['slowest_input_s']:.3f} s", flush=True)
        return row
    print(f"{name:15} FAILED with exit code {done.returncode}\n{done.stderr[-4000:]}", flush=True)
    return {"target": name, "seed": seed, "failed": done.stderr[-2000:], "exit_code": done.returncode}


if __name__ == "__main__":
    sys.exit(main())
