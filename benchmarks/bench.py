"""Penstock and its peers side by side: the same topic, Redis, model and stop watch, one after the other."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from benchmarks.jobs import fill_fraud, fraud_job, peers_job, registry
from benchmarks.machine import machine, write_result
from benchmarks.peer_env import python_of
from benchmarks.plot import draw
from benchmarks.workers import create_topics, topics_of
from tests.services import kafka_address, redis_address

HERE = Path(__file__).parent
PARTITIONS = 4
MODES = ("verify", "throughput", "latency")
HALF = "half"  # latency at half of what penstock can carry, as measured in the same run
WARM = 2000  # events before the stop watch of a latency run
AT_LEAST_ONCE = {"delivery": {"mode": "at_least_once"}}
EXACTLY_ONCE = {"delivery": {"mode": "exactly_once", "commit_interval": "100ms"}}
# The window of the hand-written loops; without one, batches are what has come while the last was scored.
WINDOW = {"batching": {"max_rows": 2048, "max_wait": "10ms", "eager": False}}
NO_WINDOW = {"batching": {"max_rows": 2048}}
Result = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One program that is measured."""

    program: str
    family: str | None  # its environment; None: ours
    job: str = "peers"  # or fraud
    settings: dict[str, str] = field(default_factory=dict)
    sections: dict[str, Any] = field(default_factory=dict)  # of Penstock's pipeline file
    modes: tuple[str, ...] = MODES


def _penstock(job: str, *sections: dict[str, Any], modes: tuple[str, ...] = ("throughput",)) -> Contender:
    laid_over = {name: values for section in sections for name, values in section.items()}
    return Contender(program="peer_penstock.py", family=None, job=job, sections=laid_over, modes=modes)


CONTENDERS = {
    "passthrough": Contender(program="peer_passthrough.py", family="ck", modes=(*MODES, HALF)),
    "penstock": _penstock("peers", AT_LEAST_ONCE, WINDOW, modes=(*MODES, HALF)),
    "penstock-nowait": _penstock("peers", AT_LEAST_ONCE, NO_WINDOW, modes=(*MODES, HALF)),
    "penstock-exactly-once": _penstock("peers", EXACTLY_ONCE, WINDOW),
    "penstock-fraud": _penstock("fraud", AT_LEAST_ONCE, WINDOW),
    "penstock-fraud-exactly-once": _penstock("fraud", EXACTLY_ONCE, WINDOW),
    "hand": Contender(program="peer_hand.py", family="ck"),
    "hand-nowait": Contender(program="peer_hand.py", family="ck", settings={"WINDOW_MS": "0"}),
    "bytewax": Contender(program="peer_bytewax.py", family="bytewax"),
    "quix-lowlevel": Contender(program="peer_quix_lowlevel.py", family="quix"),
    "quix-batch": Contender(program="peer_quix_batch.py", family="quix"),
    "faust": Contender(program="peer_faust.py", family="faust"),
    "naive": Contender(program="peer_naive.py", family="ck"),
    "quix": Contender(program="peer_quix.py", family="quix"),
}


class Rig:
    """The services, the filled topics, and one contender at a time."""

    def __init__(self, kafka: str, redis_url: str, registry_url: str, folder: Path) -> None:
        self.kafka, self.redis_url, self.registry_url, self.folder = kafka, redis_url, registry_url, folder
        self.prefix = f"bench{time.time_ns()}."
        self.environment = {
            **os.environ,
            "BOOTSTRAP": kafka,
            "REDIS_URL": redis_url,
            "PENSTOCK_KAFKA": kafka,
            "PENSTOCK_STORE": redis_url,
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(HERE.parent),
        }
        self._runs = 0

    def helper(self, command: str, **settings: str) -> dict[str, Any]:
        """One command of peers/load.py."""
        done = subprocess.run(
            self._helper(command), env={**self.environment, **settings}, stdout=subprocess.PIPE, check=True
        )
        return dict(json.loads(done.stdout)) if done.stdout.strip().startswith(b"{") else {}

    def _helper(self, command: str) -> list[str]:
        return [str(python_of("ck")), str(HERE / "peers" / "load.py"), command]

    def topics(self, *names: str) -> None:
        """Create topics under our prefix."""
        create_topics(self.kafka, {self.prefix + name: PARTITIONS for name in names})

    def start(self, name: str, mode: str, topic: str, events: int, **settings: str) -> Run:
        """Start a contender on a topic; its outputs go to a topic of this run alone."""
        contender, self._runs = CONTENDERS[name], self._runs + 1
        out = f"{self._runs}.scores"
        self.topics(out, f"{self._runs}.alerts", f"{self._runs}.dead")
        env = {
            "MODE": mode,
            "IN_TOPIC": self.prefix + topic,
            "OUT_TOPIC": self.prefix + out,
            "GROUP": f"{self.prefix}{self._runs}",
            "N": str(events),
            **contender.settings,
            **settings,
        }
        if contender.family is None:
            env["PIPELINE"] = str(self._pipeline(contender, topic))
        python = Path(sys.executable) if contender.family is None else python_of(contender.family)
        program = [str(python), str(HERE / "peers" / contender.program)]
        return Run(name, program, {**self.environment, **env}, self.folder / f"{self._runs}.log")

    def _pipeline(self, contender: Contender, topic: str) -> Path:
        outputs = {
            "scores": f"{self.prefix}{self._runs}.scores",
            "alerts": f"{self.prefix}{self._runs}.alerts",
            "dead_letters": f"{self.prefix}{self._runs}.dead",
        }
        name, group = f"run{self._runs}", f"{self.prefix}{self._runs}"
        if contender.job == "fraud":
            return fraud_job(
                self.folder, name, prefix=self.prefix, outputs=outputs, group=group, more=contender.sections
            )
        return peers_job(
            self.folder,
            name,
            topic=self.prefix + topic,
            outputs=outputs,
            group=group,
            registry=self.registry_url,
            more=contender.sections,
        )

    def written(self, topic: str) -> int:
        """Records in a topic, control records included."""
        client = Consumer({"bootstrap.servers": self.kafka, "group.id": "bench"})
        count = sum(
            client.get_watermark_offsets(TopicPartition(topic, p), timeout=20)[1] for p in range(PARTITIONS)
        )
        client.close()
        return int(count)

    def drop_topics(self) -> None:
        """Delete every topic of ours."""
        admin = AdminClient({"bootstrap.servers": self.kafka})
        ours = [name for name in admin.list_topics(timeout=20).topics if name.startswith(self.prefix)]
        for future in admin.delete_topics(ours).values():
            future.exception(30)


class Run:
    """One contender's process."""

    def __init__(self, name: str, program: list[str], env: dict[str, str], log: Path) -> None:
        self.name, self.log, self.out_topic = name, log, env["OUT_TOPIC"]
        self._peak_kb = 0
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                program, env=env, cwd=log.parent, stdout=subprocess.PIPE, stderr=errors, text=True
            )

    def result(self, timeout_s: float = 420.0) -> Result:
        """What it printed; RuntimeError with the end of its log when it did not get there."""
        deadline_s, out = time.monotonic() + timeout_s, ""
        while True:
            with suppress(subprocess.TimeoutExpired):
                out, _ = self.process.communicate(timeout=0.5)
                break
            self._note_memory()
            if time.monotonic() > deadline_s:
                self.process.kill()
                self.process.communicate()
                break
        lines = [line for line in out.splitlines() if "{" in line]
        if not lines:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
            raise RuntimeError(f"{self.name}: exit code {self.process.returncode}\n{tail}")
        found: Result = json.loads(lines[-1][lines[-1].index("{") :])
        return {**found, "peer": self.name, "peak_memory_mb": round(self._peak_kb / 1024, 1)}

    def _note_memory(self) -> None:
        with suppress(OSError, StopIteration, ValueError):
            status = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
            self._peak_kb = int(next(line for line in status if line.startswith("VmHWM")).split()[1])


def throughput(rig: Rig, name: str, events: int) -> Result:
    """A filled topic, read from its beginning."""
    topic = "transactions" if CONTENDERS[name].job == "fraud" else "peers"
    return rig.start(name, "throughput", topic, events).result()


def latency(rig: Rig, name: str, rate: float, seconds: float) -> Result:
    """Events paced at a fixed rate; the time from their production until their score is read."""
    paced, topic = int(rate * seconds), f"paced{rig._runs}"
    rig.topics(topic)
    rig.helper("fill", IN_TOPIC=rig.prefix + topic, N=str(WARM))
    run = rig.start(name, "latency", topic, WARM + paced, WARM=str(WARM))
    deadline_s = time.monotonic() + 120
    written = 0
    while written < WARM and run.process.poll() is None:
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"{name}: did not work off {WARM} events within two minutes")
        time.sleep(0.2)
        with suppress(KafkaException):  # a topic just made may have no leader yet
            written = rig.written(run.out_topic)
    env = {
        **rig.environment,
        "IN_TOPIC": rig.prefix + topic,
        "OUT_TOPIC": run.out_topic,
        "GROUP": run.out_topic,
        "N": str(paced),
        "RATE": str(rate),
        "SKIP": str(int(rate)),
        "TIMEOUT": str(seconds + 60),
    }
    measuring = subprocess.Popen(rig._helper("measure"), env=env, stdout=subprocess.PIPE)
    time.sleep(1.5)
    pacing = subprocess.run(rig._helper("pace"), env=env, stdout=subprocess.PIPE, check=True)
    seen, _ = measuring.communicate(timeout=seconds + 90)
    return {**run.result(), **json.loads(seen), **json.loads(pacing.stdout), "mode": "latency"}


def verify(rig: Rig, name: str, events: int) -> Result:
    """The same job? Every id once, the right key, the score of a reference."""
    run = rig.start(name, "verify", "verify", events)
    run.result(120.0)
    settings = {"IN_TOPIC": rig.prefix + "verify", "OUT_TOPIC": run.out_topic, "N": str(events)}
    return {"peer": name, "mode": "verify", **rig.helper("check", NAME=name, **settings)}


def medians(results: Sequence[Result]) -> dict[str, dict[str, float]]:
    """For each figure, the median of each contender over its runs."""
    figures = {
        "events_per_s": ("throughput", "events_per_s"),
        "cpu_us_per_event": ("throughput", "cpu_us_per_event"),
        "peak_memory_mb": ("throughput", "peak_memory_mb"),
        "p50_ms": ("latency", "p50_ms"),
        "p99_ms": ("latency", "p99_ms"),
        "p999_ms": ("latency", "p999_ms"),
        "paced_cpu_us_per_event": ("latency", "cpu_us_per_event"),
        "half_rate": (HALF, "rate"),
        "half_p50_ms": (HALF, "p50_ms"),
        "half_p99_ms": (HALF, "p99_ms"),
        "half_p999_ms": (HALF, "p999_ms"),
    }
    found: dict[str, dict[str, float]] = {}
    for figure, (mode, key) in figures.items():
        by_name: dict[str, list[float]] = {}
        for result in results:
            if result["mode"] == mode and result.get(key) is not None:
                by_name.setdefault(result["peer"], []).append(result[key])
        found[figure] = {name: round(statistics.median(values), 3) for name, values in by_name.items()}
    return found


def half_of_saturation(results: Sequence[Result]) -> float:
    """Events a second; RuntimeError when penstock's throughput was not measured before."""
    carried = medians(results)["events_per_s"].get("penstock")
    if carried is None:
        raise RuntimeError(
            "mode half needs the throughput of penstock from the same run: --modes throughput,half"
        )
    return round(carried / 2, -3)


def table(figures: dict[str, dict[str, float]]) -> str:
    """The medians for a terminal, and each contender's CPU as a multiple of the passthrough's."""
    head = (
        f"{'':<28}{'events/s':>11}{'CPU us':>9}{'x pass':>8}{'MB':>7}{'p50 ms':>9}{'p99 ms':>9}{'p99.9':>9}"
    )
    lines = [head]
    least = figures["cpu_us_per_event"].get("passthrough")
    for name in CONTENDERS:
        cpu = figures["cpu_us_per_event"].get(name)
        cells = [
            _cell(figures["events_per_s"].get(name), 11, ",.0f"),
            _cell(cpu, 9, ".2f"),
            _cell(cpu / least if cpu and least else None, 8, ".2f"),
            _cell(figures["peak_memory_mb"].get(name), 7, ".0f"),
            *(_cell(figures[key].get(name), 9, ".1f") for key in ("p50_ms", "p99_ms", "p999_ms")),
        ]
        if any(cell.strip() != "-" for cell in cells):
            lines.append(f"{name:<28}" + "".join(cells))
    for name, rate in figures["half_rate"].items():
        p50, p99, p999 = (figures[f"half_{p}_ms"][name] for p in ("p50", "p99", "p999"))
        lines.append(f"{name:<28}at {rate:,.0f} events/s: p50 {p50:.1f}, p99 {p99:.1f}, p99.9 {p999:.1f} ms")
    return "\n".join(lines)


def _cell(value: float | None, width: int, spec: str) -> str:
    return f"{'-' if value is None else format(value, spec):>{width}}"


def main() -> int:
    """Measure, print the table, write benchmarks/results/NAME.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(CONTENDERS), help="some of: default all")
    parser.add_argument("--modes", default=",".join((*MODES, HALF)), help="some of: default all")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--events", type=int, default=200_000, help="of a throughput run")
    parser.add_argument("--rate", type=float, default=2000.0, help="events a second of a latency run")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of a latency run")
    parser.add_argument("--result", default="latest", help="name of the result file; empty: write none")
    parser.add_argument("--json", action="store_true", help="the medians as JSON instead of the table")
    arguments = parser.parse_args()
    names = arguments.only.split(",")
    if unknown := set(names) - set(CONTENDERS):
        parser.error(f"unknown {sorted(unknown)}, expected some of {', '.join(CONTENDERS)}")
    results: list[Result] = []
    with (
        kafka_address() as kafka,
        redis_address() as redis_url,
        registry() as registry_url,
        tempfile.TemporaryDirectory() as folder,
    ):
        rig = Rig(kafka, redis_url, registry_url, Path(folder))
        modes = arguments.modes.split(",")
        _fill(rig, names, modes, arguments.events)
        measures: dict[str, tuple[int, Callable[[str], Result]]] = {
            "verify": (1, lambda name: verify(rig, name, 5000)),
            "throughput": (arguments.repetitions, lambda name: throughput(rig, name, arguments.events)),
            "latency": (
                arguments.repetitions,
                lambda name: latency(rig, name, arguments.rate, arguments.seconds),
            ),
            HALF: (
                arguments.repetitions,
                lambda name: {
                    **latency(rig, name, half_of_saturation(results), arguments.seconds),
                    "mode": HALF,
                },
            ),
        }
        try:
            for mode in modes:
                times, measure = measures[mode]
                for repetition in range(1, times + 1):
                    for name in names:
                        if mode in CONTENDERS[name].modes:
                            results.append({**measure(name), "repetition": repetition})
                            print(json.dumps(results[-1]), file=sys.stderr, flush=True)
        finally:
            rig.drop_topics()
    figures = medians(results)
    print(json.dumps(figures, indent=2) if arguments.json else table(figures))
    if arguments.result:
        settings = {key: vars(arguments)[key] for key in ("repetitions", "events", "rate", "seconds")}
        path = write_result(arguments.result, {"settings": settings, **figures, "runs": results})
        title = f"{arguments.events:,} events, {machine()['cpu']}, {os.cpu_count()} cores"
        print(path, draw(figures, title, path.with_suffix(".svg")), sep="\n")
    return 0


def _fill(rig: Rig, names: Sequence[str], modes: Sequence[str], events: int) -> None:
    jobs = {CONTENDERS[name].job for name in names}
    rig.topics("peers", "verify")
    if "peers" in jobs:
        rig.helper("rows")
        if "throughput" in modes:
            rig.helper("fill", IN_TOPIC=rig.prefix + "peers", N=str(events))
        if "verify" in modes:
            rig.helper("fill_varied", IN_TOPIC=rig.prefix + "verify", N="5000")
    if "fraud" in jobs and "throughput" in modes:
        create_topics(rig.kafka, topics_of(rig.prefix, PARTITIONS))
        fill_fraud(rig.kafka, rig.redis_url, rig.prefix, events, rig.folder)


if __name__ == "__main__":
    sys.exit(main())
