"""Runs the demo and keeps one look at its screen as docs/images/demo.svg."""

import argparse
import io
import re
import time
from pathlib import Path

from rich.console import Console

from loadgen.arrivals import arrivals
from loadgen.bus import FETCH_WAIT_MS, embedded_bus
from loadgen.demo import _TOPICS, demo_worker
from loadgen.run import Load, Target
from loadgen.screen import Glance, screen
from loadgen.sources import simulated_fraud, simulated_maintenance

PICTURE = Path(__file__).parent / "demo.svg"


def look(load: Load, started_s: float, seconds: float, lag: dict[str, int], worker_mb: float) -> Glance:
    """What the live screen would show now."""
    return Glance(
        elapsed_s=time.monotonic() - started_s,
        seconds=seconds,
        live=load.live(),
        lag_records=lag,
        alerts=load.newest_alerts(),
        dead_letters={
            name: ", ".join(f"{reason} {count}" for reason, count in outcomes.reasons.most_common(3))
            for name, outcomes in load.outcomes.items()
        },
        worker_mb=worker_mb,
    )


def main() -> None:
    """Let the demo run for a while at its usual rates, take the picture, and stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--at", type=float, default=30.0, help="seconds into the run (30)")
    parser.add_argument("--fraud-rate", type=float, default=5000.0)
    parser.add_argument("--sensor-rate", type=float, default=2000.0)
    arguments = parser.parse_args()
    sources = [
        simulated_fraud(arrivals("poisson", arguments.fraud_rate, seed=1)),
        simulated_maintenance(arrivals("poisson", arguments.sensor_rate, seed=2)),
    ]
    with embedded_bus(_TOPICS) as bootstrap, demo_worker(bootstrap) as worker:
        worker.wait_until_ready(time.monotonic() + 60)
        load = Load(Target(bootstrap=bootstrap, fetch_wait_ms=FETCH_WAIT_MS), sources)
        started_s = time.monotonic()
        load.start(arguments.at + 2)
        while time.monotonic() < started_s + arguments.at:
            worker.check()
            load.live()  # the figures are of the seconds between two looks
            time.sleep(0.5)
        glance = look(load, started_s, 60, worker.lag_records(), worker.memory_mb())
        load.finish()
    console = Console(record=True, width=124, file=io.StringIO())
    console.print(screen(glance))
    svg = console.export_svg(title="make demo")
    # A picture must not fetch anything when it is looked at: the viewer's own monospace font will do.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    PICTURE.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n")
    print(f"wrote {PICTURE}")


if __name__ == "__main__":
    main()
