"""The demo: embedded bus, workers with both pipelines, simulated traffic, and a live screen."""

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live as Screen

from loadgen.arrivals import arrivals
from loadgen.bus import FETCH_WAIT_MS, embedded_bus
from loadgen.run import Load, Target
from loadgen.screen import Glance, line, screen
from loadgen.sources import Source, simulated_fraud, simulated_maintenance

_HERE = Path(__file__).resolve().parent
# The wheel carries pipelines/ and models/ beside this file; a clone has them at its root.
_PIPELINES = (_HERE / "shipped" if (_HERE / "shipped").is_dir() else _HERE.parent) / "pipelines"
# Fraud looks up what terminal-risk keeps, and an in-memory store is one process's own.
_WORKERS = (("fraud.yaml", "terminal-risk.yaml"), ("maintenance.yaml",))
_TOPICS = {
    "transactions": 1,
    "labels": 1,
    "readings": 1,
    "fraud.scores": 1,
    "fraud.alerts": 1,
    "fraud.dead-letters": 1,
    "maintenance.scores": 1,
    "maintenance.alerts": 1,
    "maintenance.dead-letters": 1,
    "terminal-risk.dead-letters": 1,
    "penstock.console": 1,
}
CONSOLE_PORT = 8080
_BESIDE_US = """
from worker.processes import leave_with_parent
leave_with_parent()
from worker.cli import entry
entry()
"""
_READY_S = 180.0  # the first start compiles
_STOP_S = 15.0
_LAG = re.compile(r'^penstock_lag_records\{.*pipeline="([^"]+)".*\} (\S+)$', re.MULTILINE)


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


class DemoWorker:
    """The worker processes, and what can be seen of them from outside."""

    def __init__(self, processes: "Sequence[_Process]", console: "_Process") -> None:
        self._processes, self._console = processes, console

    def wait_until_ready(self, deadline_s: float) -> None:
        """Wait for every /readyz.

        Raises:
            DemoError: one ended, or was not ready in time.
        """
        waiting = list(self._processes)
        while waiting:
            self.check()
            waiting = [process for process in waiting if process.get("/readyz") is None]
            if waiting and time.monotonic() > deadline_s:
                raise DemoError(f"a worker was not ready within {_READY_S:g} s:\n{waiting[0].tail()}")
            time.sleep(0.1)

    def check(self) -> None:
        """Raise DemoError when a worker has ended."""
        for process in self._processes:
            code = process.popen.poll()
            if code is not None:
                raise DemoError(f"a worker ended with exit code {code}:\n{process.tail()}")

    def console_address(self) -> str:
        """Where the page is served; empty as long as it is not."""
        return self._console.address()

    def lag_records(self) -> dict[str, int]:
        """Records not yet polled, by pipeline."""
        lag: dict[str, int] = {}
        for process in self._processes:
            for name, value in _LAG.findall(process.get("/metrics") or ""):
                lag[name] = lag.get(name, 0) + int(float(value))
        return lag

    def memory_mb(self, which: str = "VmRSS") -> float:
        """Resident memory of the largest worker now, or with VmHWM at its peak; 0 where nobody tells."""
        return max(process.memory_mb(which) for process in self._processes)

    def cpu_s(self) -> float:
        """CPU seconds that all used so far; 0 where nobody tells."""
        return sum(process.cpu_s() for process in self._processes)


class _Process:
    """One worker process and its log."""

    def __init__(self, popen: "subprocess.Popen[bytes]", log: Path) -> None:
        self.popen = popen
        self._log = log
        self._admin = ""

    def address(self) -> str:
        """Where it can be asked, as its log says; empty as long as it does not."""
        if not self._admin and (found := re.search(r'"address": ?"([^"]+)"', self._log.read_text())):
            self._admin = found[1].rstrip("/")
        return self._admin

    def get(self, path: str) -> str | None:
        """What its admin server answers with status 200; None when it does not."""
        if not self.address():
            return None
        try:
            with urllib.request.urlopen(self._admin + path, timeout=2) as answer:
                return str(answer.read().decode())
        except OSError:
            return None

    def memory_mb(self, which: str) -> float:
        try:
            status = Path(f"/proc/{self.popen.pid}/status").read_text()
        except OSError:
            return 0.0
        found = re.search(rf"^{which}:\s+(\d+) kB", status, re.MULTILINE)
        return int(found[1]) / 1024 if found else 0.0

    def cpu_s(self) -> float:
        try:
            fields = Path(f"/proc/{self.popen.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def tail(self) -> str:
        """The end of its log."""
        return "\n".join(self._log.read_text().splitlines()[-8:])

    def stop(self) -> None:
        """Ask it to leave, and make it."""
        self.popen.terminate()
        try:
            self.popen.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


@contextmanager
def demo_worker(bootstrap: str, env: Mapping[str, str] = os.environ) -> Iterator[DemoWorker]:
    """Run all shipped pipelines on the bus, on in-memory stores, until the block ends."""
    if not _PIPELINES.is_dir():
        raise DemoError(f"no pipeline files in {_PIPELINES}: install Penstock again, or run a clone of it")
    settings = {
        "PENSTOCK_KAFKA": bootstrap,
        "PENSTOCK_STORE": "memory://",
        "PENSTOCK_DELIVERY": "at_least_once",  # the embedded bus keeps no offsets of transactions
        "PENSTOCK_ADMIN_HOST": "127.0.0.1",
        "PENSTOCK_ADMIN_PORT": "0",
        "PENSTOCK_CONSOLE_TOPIC": "penstock.console",
        "PENSTOCK_DEVICE": "cpu",
        # A laptop does more than this demo: batches of 15 ms cost less CPU than the smallest possible ones.
        "PENSTOCK_EAGER": "false",
        "PENSTOCK_MAX_WAIT": "15ms",
        "PENSTOCK_WRITE_INTERVAL": "5s",  # every row changes every second here; the store dies with the demo
        "PENSTOCK_FETCH_WAIT_MS": str(FETCH_WAIT_MS),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_HERE.parent), env.get("PYTHONPATH")])),
    }
    with tempfile.TemporaryDirectory(prefix="penstock-demo-") as folder, ExitStack() as stack:
        processes = []
        for number, files in enumerate(_WORKERS):
            process = _start(["run"], files, Path(folder) / f"worker-{number}.log", {**env, **settings})
            stack.callback(process.stop)
            processes.append(process)
        shown = _start(
            ["console", "--port", str(_free_port())],
            [file for files in _WORKERS for file in files],
            Path(folder) / "console.log",
            {**env, **settings},
        )
        stack.callback(shown.stop)
        yield DemoWorker(processes, shown)


def _free_port() -> int:
    """Of the console: the one that the docs name, or any."""
    with socket.socket() as asked:
        try:
            asked.bind(("127.0.0.1", CONSOLE_PORT))
        except OSError:
            return 0
    return CONSOLE_PORT


def _start(command: Sequence[str], files: Sequence[str], log: Path, env: Mapping[str, str]) -> _Process:
    with log.open("wb") as sink:
        popen = subprocess.Popen(
            [sys.executable, "-c", _BESIDE_US, *command, *(str(_PIPELINES / file) for file in files)],
            env=env,
            stdin=subprocess.PIPE,  # closes when we are gone, however that came about
            stderr=sink,
            stdout=sink,
            start_new_session=True,  # Ctrl-C is ours to pass on, after the traffic has stopped
        )
    return _Process(popen, log)


def run_demo(*, seconds: float, fraud_rate: float, sensor_rate: float, is_plain: bool) -> dict[str, Any]:
    """Run the demo and return its summary, which is also printed.

    Raises:
        DemoError: the bus or the worker did not start, or the worker ended.
    """
    console = Console(stderr=is_plain)
    sources = _sources(fraud_rate, sensor_rate)
    with embedded_bus(_TOPICS) as bootstrap, demo_worker(bootstrap) as worker:
        with console.status("starting the bus and the worker (the first start compiles, half a minute) ..."):
            worker.wait_until_ready(time.monotonic() + _READY_S)
        load = Load(Target(bootstrap=bootstrap, fetch_wait_ms=FETCH_WAIT_MS), sources)
        previous = {s: signal.signal(s, lambda *_: load.stop()) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            cpu_before_s = worker.cpu_s()
            if address := worker.console_address():
                console.print(f"the console: {address.replace('127.0.0.1', 'localhost')}", highlight=False)
            load.start(seconds)
            _watch(load, worker, console, seconds, is_plain=is_plain)
            full = load.finish()
            cpu_s = worker.cpu_s() - cpu_before_s
        finally:
            load.stop()
            for number, handler in previous.items():
                signal.signal(number, handler)
        summary = summarize(full, worker_mb=worker.memory_mb("VmHWM"), worker_cpu_s=cpu_s)
    _show_summary(console, summary)
    print(json.dumps(summary), flush=True)
    return summary


def _sources(fraud_rate: float, sensor_rate: float) -> list[Source]:
    sources = []
    if fraud_rate > 0:
        sources.append(simulated_fraud(arrivals("poisson", fraud_rate, seed=1)))
    if sensor_rate > 0:
        sources.append(simulated_maintenance(arrivals("poisson", sensor_rate, seed=2)))
    return sources


def _watch(load: Load, worker: DemoWorker, console: Console, seconds: float, *, is_plain: bool) -> None:
    """Show the run until everything is sent."""
    started_s = time.monotonic()
    every_s = 1.0 if is_plain else 0.5
    with Screen(console=console, auto_refresh=False, transient=True) as live:
        while load.is_sending():
            worker.check()
            glance = Glance(
                elapsed_s=time.monotonic() - started_s,
                seconds=seconds,
                live=load.live(),
                lag_records=worker.lag_records(),
                alerts=load.newest_alerts(),
                dead_letters={
                    name: ", ".join(f"{reason} {count}" for reason, count in outcomes.reasons.most_common(3))
                    for name, outcomes in load.outcomes.items()
                },
                worker_mb=worker.memory_mb(),
            )
            if is_plain:
                console.print(line(glance), highlight=False, soft_wrap=True)
            else:
                live.update(screen(glance), refresh=True)
            time.sleep(every_s)


def summarize(full: Mapping[str, Any], *, worker_mb: float, worker_cpu_s: float) -> dict[str, Any]:
    """The last line: every pipeline's outcome, and how many events have none."""
    pipelines = {}
    for name, stream in full["streams"].items():
        quality = {"rmse": stream["quality"].get("rmse")} if name == "maintenance" else {}
        if name == "fraud":
            quality = {"roc_auc": stream["quality"].get("roc_auc")}
        pipelines[name] = {
            **{key: stream[key] for key in ("events", "scores", "alerts", "dead_letters")},
            "events_per_s": round(stream["events_per_s"], 1),
            "p50_ms": stream["latency_ms"]["p50"],
            "p99_ms": stream["latency_ms"]["p99"],
            **{key: None if value is None else round(value, 4) for key, value in quality.items()},
        }
    events = full["records_sent"]
    return {
        "pipelines": pipelines,
        "unaccounted": full["unaccounted"],
        "worker_peak_mb": round(worker_mb, 1),
        "worker_cpu_us_per_record": round(worker_cpu_s / events * 1e6, 2) if events else None,
    }


def _show_summary(console: Console, summary: Mapping[str, Any]) -> None:
    for name, p in summary["pipelines"].items():
        quality = f"ROC AUC {p['roc_auc']}" if "roc_auc" in p else f"RMSE {p['rmse']} cycles"
        console.print(
            f"[bold]{name}[/bold]: {p['events']:,} events, {p['scores']:,} scores, {p['alerts']:,} alerts, "
            f"{p['dead_letters']:,} dead letters; p50 {p['p50_ms']} ms, p99 {p['p99_ms']} ms; {quality}",
            highlight=False,
        )
    console.print(
        f"unaccounted for: {summary['unaccounted']}; worker: peak {summary['worker_peak_mb']:.0f} MB, "
        f"{summary['worker_cpu_us_per_record']} us CPU a record",
        highlight=False,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; exit code 0, 1 when it failed, 3 when events are unaccounted for."""
    parser = argparse.ArgumentParser(prog="penstock demo", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (60)")
    parser.add_argument("--fraud-rate", type=float, default=5000.0, help="transactions a second (5000)")
    parser.add_argument("--sensor-rate", type=float, default=2000.0, help="readings a second (2000)")
    parser.add_argument("--plain", action="store_true", help="one line a second instead of the live screen")
    arguments = parser.parse_args(argv)
    try:
        summary = run_demo(
            seconds=arguments.seconds,
            fraud_rate=arguments.fraud_rate,
            sensor_rate=arguments.sensor_rate,
            is_plain=arguments.plain or not sys.stdout.isatty(),
        )
    except KeyboardInterrupt:
        print("demo: stopped before it had begun", file=sys.stderr)
        return 130
    except (DemoError, RuntimeError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0 if summary["unaccounted"] == 0 else 3


if __name__ == "__main__":
    sys.exit(main())
