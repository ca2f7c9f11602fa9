"""Runs the demo as it ships and keeps its summary."""

from __future__ import annotations

import argparse
import sys

from benchmarks.machine import write_result
from loadgen.demo import run_demo


def main() -> int:
    """Run it and write the result; the exit code is 3 when an event has no outcome."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    summary = run_demo(seconds=arguments.seconds, fraud_rate=5000.0, sensor_rate=2000.0, is_plain=True)
    print(write_result("demo", {"seconds": arguments.seconds, **summary}))
    return 0 if summary["unaccounted"] == 0 else 3


if __name__ == "__main__":
    sys.exit(main())
