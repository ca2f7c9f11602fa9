"""Where a running worker spends its time: microseconds an event by stage, and a flame graph."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.bench import CONTENDERS, PARTITIONS
from benchmarks.jobs import fill_fraud, fraud_job
from benchmarks.workers import RunningWorker, create_topics, start_worker, topics_of
from tests.services import kafka_address, redis_address

_STAGE = re.compile(r'^penstock_stage_seconds_sum\{.*stage="(\w+)".*\} (\S+)$', re.MULTILINE)


def main() -> int:
    """Fill a topic, let one worker of the fraud pipeline read it, print the stages, draw the flames."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--mode", default="at_least_once", choices=["at_least_once", "exactly_once"])
    parser.add_argument(
        "--flame", type=Path, default=Path("reports/flame.svg"), help="where the picture goes"
    )
    parser.add_argument("--json", action="store_true", help="for machines")
    arguments = parser.parse_args()
    name = "penstock-fraud" if arguments.mode == "at_least_once" else "penstock-fraud-exactly-once"
    prefix = f"profile{time.time_ns()}."
    with kafka_address() as kafka, redis_address() as url, tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        create_topics(kafka, topics_of(prefix, PARTITIONS))
        fill_fraud(kafka, url, prefix, arguments.events, folder)
        outputs = {n: f"{prefix}fraud.{n.replace('_', '-')}" for n in ("scores", "alerts", "dead_letters")}
        more = {**CONTENDERS[name].sections, "admin": {"port": 0}}
        file = fraud_job(folder, "profiled", prefix=prefix, outputs=outputs, group=f"{prefix}g", more=more)
        worker = start_worker([file], folder / "worker.log", {"PENSTOCK_KAFKA": kafka, "PENSTOCK_STORE": url})
        try:
            flames = _record(worker, arguments.flame)
            worker.wait_until_ready()
            worker.wait_until_applied(arguments.events)
            stages = stages_of(worker, arguments.events)
            flames.wait(60)
        finally:
            worker.stop()
    print(json.dumps(stages, indent=2) if arguments.json else table(stages))
    print(f"flame graph: {arguments.flame}", file=sys.stderr)
    return 0


def _record(worker: RunningWorker, path: Path) -> subprocess.Popen[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    recorder = Path(sys.executable).with_name("py-spy")
    command = [
        str(recorder),
        "record",
        "--pid",
        str(worker.process.pid),
        "--output",
        str(path),
        "--duration",
        "15",
    ]
    return subprocess.Popen([*command, "--native"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def stages_of(worker: RunningWorker, events: int) -> dict[str, float]:
    """Microseconds an event by stage of the loop, and the CPU of the whole process beside them."""
    text = worker.metrics()
    found = {stage: float(seconds) / events * 1e6 for stage, seconds in _STAGE.findall(text)}
    return {**found, "process_cpu": worker.cpu_s() / events * 1e6}


def table(stages: dict[str, float]) -> str:
    """The stages for a terminal, the dearest first."""
    lines = [f"{'stage':<14}{'us an event':>12}"]
    lines += [f"{stage:<14}{us:>12.2f}" for stage, us in sorted(stages.items(), key=lambda each: -each[1])]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
