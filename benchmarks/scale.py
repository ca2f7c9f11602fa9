"""What many keys cost: the fraud windows of ten thousand and of a million customers, on a real Redis."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import redis
from numpy.typing import NDArray

from benchmarks.machine import write_result
from feature_cache.lane import lane_name
from feature_cache.lanes import Lanes
from feature_cache.layout import NEVER_US, Layout, WindowGroup
from feature_cache.packing import pack
from feature_cache.recent import apply_windows
from feature_cache.redis_store import RedisStore
from feature_cache.rows import HotRows
from tests.services import redis_address

LANES = 6
BATCH = 1024
WRITE_EVERY = 50_000  # events: a second of a busy worker
REMEMBERED = 78  # transactions of a customer in the longest window, as the simulator makes them
NOW_US = 1_760_000_000_000_000
DAY_US = 86_400_000_000
GROUP = WindowGroup(
    name="customer",
    over="amount",
    windows_us=(DAY_US, 7 * DAY_US, 30 * DAY_US),
    window_labels=("1d", "7d", "30d"),
    aggregates=("count", "mean"),
    capacity=512,
    allowed_lateness_us=DAY_US // 24,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way in which keys come."""

    entities: int
    keys: str  # "uniform", "zipf", or "hot": uniform, but every other event is of one key


CASES = {
    "10k uniform": Case(entities=10_000, keys="uniform"),
    "1M uniform": Case(entities=1_000_000, keys="uniform"),
    "10k zipf": Case(entities=10_000, keys="zipf"),
    "1M zipf": Case(entities=1_000_000, keys="zipf"),
    "10k hot key": Case(entities=10_000, keys="hot"),
}
# (many, few): how much more an event may cost, as a ratio of the whole worker's cost.
BARS = {("1M uniform", "10k uniform"): 1.5, ("1M zipf", "10k zipf"): 1.5, ("10k hot key", "10k uniform"): 1.3}


def main() -> int:
    """Measure every case in a process of its own, print a table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--events", type=int, default=200_000, help="measured, after the rows in use are warm"
    )
    parser.add_argument("--hot-rows", type=int, default=100_000)
    parser.add_argument("--only", nargs="*", choices=CASES, help="these cases; nothing is written then")
    parser.add_argument("--one", nargs=2, metavar=("CASE", "REDIS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, url = arguments.one
        print(json.dumps(measure(CASES[name], url, arguments.events, arguments.hot_rows)))
        return 0
    with redis_address() as url:
        found = {name: _apart(name, url, arguments) for name in arguments.only or CASES}
    whole_us = worker_us()
    result = {
        "hot_rows": arguments.hot_rows,
        "events": arguments.events,
        "worker_us_per_event": whole_us,
        "cases": {name: {**asdict(CASES[name]), **figures} for name, figures in found.items()},
        "ratios": ratios(found, whole_us),
    }
    print(table(result))
    if not arguments.only:
        print(write_result("scale", result))
    return 0


def _apart(name: str, url: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One case in a new process, whose peak memory is then its own."""
    case = CASES[name]
    with redis.Redis.from_url(url) as client:
        client.flushdb(asynchronous=True)
    begun_s = time.monotonic()
    seed_store(url, case)
    print(f"{name}: stored {case.entities:,} rows in {time.monotonic() - begun_s:.0f} s", file=sys.stderr)
    more = ["--events", str(arguments.events), "--hot-rows", str(arguments.hot_rows)]
    return _said_by("benchmarks.scale", "--one", name, url, *more)


def _said_by(module: str, *options: str) -> dict[str, Any]:
    """What another process prints as JSON."""
    command = [sys.executable, "-m", module, *options]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, check=True, timeout=300
    )
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def shares(case: Case) -> NDArray[np.float64]:
    """(entities,) how much of the traffic is of each."""
    weights = np.ones(case.entities)
    if case.keys == "zipf":
        weights = 1.0 / np.arange(1, case.entities + 1)
    weights /= weights.sum()
    if case.keys == "hot":
        weights *= 0.5
        weights[0] += 0.5
    return weights


def seed_store(url: str, case: Case) -> None:
    """Store every entity's row as it is after a month of this traffic, and take the lanes once for it."""
    rng = np.random.default_rng(7)
    held = np.minimum(rng.poisson(shares(case) * REMEMBERED * case.entities), GROUP.capacity)
    store = RedisStore(url)
    rows = HotRows(Layout(groups=(GROUP,)), GROUP.capacity + 1)
    lanes = Lanes(rows, store, "scale", "transactions")
    for lane in range(LANES):
        lanes.take(lane, committed=0, start=0, low=0, high=1 << 60, now_ms=1)
        lanes.advance(lane, 1, NOW_US, NOW_US)
        lanes.write(lane)
    packed = _rows_of_each_size(lanes)
    prefixes = [b"ps:{%s}:" % lane_name("scale", "transactions", lane).encode() for lane in range(LANES)]
    sizes = held.tolist()
    with redis.Redis.from_url(url) as client:
        for start in range(0, case.entities, 10_000):
            chunk = range(start, min(start + 10_000, case.entities))
            client.mset({prefixes[i % LANES] + b"C%d" % i: packed[sizes[i]] for i in chunk})
    store.close()


def _rows_of_each_size(lanes: Lanes) -> list[bytes]:
    """Packed rows that hold 0, 1, ... events spread over the longest window."""
    rng = np.random.default_rng(1)
    sizes = np.arange(GROUP.capacity + 1)
    keys = [b"%d" % n for n in sizes.tolist()]
    slots, _, _ = lanes.load(keys, np.zeros(len(keys), np.int32))
    which = np.repeat(slots, sizes)
    event_us = np.concatenate([np.sort(rng.integers(NOW_US - 30 * DAY_US, NOW_US, n)) for n in sizes])
    for start in range(0, len(which), BATCH):
        apply(lanes, which[start : start + BATCH], event_us[start : start + BATCH])
    return pack(lanes.rows, slots, lanes[0].generation)


def apply(lanes: Lanes, slots: NDArray[np.int64], event_us: NDArray[np.int64]) -> None:
    """The windows of each event, as the worker asks for them."""
    n = len(slots)
    apply_windows(
        lanes.rows.groups[0],
        slots,
        event_us,
        event_us % 1000 / 10.0,
        np.zeros(n, np.bool_),
        np.full(n, NEVER_US, np.int64),
        np.empty((n, len(GROUP.columns))),
        np.zeros(n, np.bool_),
        np.zeros(n, np.bool_),
    )
    lanes.changed(slots)


def measure(case: Case, url: str, events: int, hot_rows: int) -> dict[str, Any]:
    """Process CPU an event of loading rows, applying events and writing, once the rows in use are warm."""
    import worker.cli  # noqa: F401 a worker's libraries, so that the memory is that of a worker

    base_mb = _peak_mb()
    rng = np.random.default_rng(3)
    warm = min(case.entities * 3, 250_000)
    total = -(-(warm + events) // BATCH) * BATCH
    who = np.searchsorted(np.cumsum(shares(case)), rng.random(total)).clip(max=case.entities - 1)
    # At this pace an entity of average traffic keeps as many events in its longest window as it had.
    step_us = 30 * DAY_US / (REMEMBERED * case.entities)
    event_us = NOW_US + (np.arange(total) * step_us).astype(np.int64)
    partitions = (who % LANES).astype(np.int32)
    lanes = Lanes(HotRows(Layout(groups=(GROUP,)), hot_rows), RedisStore(url), "scale", "transactions")
    for lane in range(LANES):
        lanes.take(lane, committed=1, start=0, low=0, high=1 << 60, now_ms=1)
    spent = dict.fromkeys(("load", "apply", "write"), 0.0)
    measured = missed = written = 0
    keys_of = [b"C%d" % i for i in who.tolist()]
    since_write = 0
    for start in range(0, total, BATCH):
        part = slice(start, start + BATCH)
        at_s = [time.process_time()]
        slots, loaded, _ = lanes.load(keys_of[part], partitions[part])
        at_s.append(time.process_time())
        apply(lanes, slots, event_us[part])
        at_s.append(time.process_time())
        since_write += BATCH
        rows = 0
        if since_write >= WRITE_EVERY:
            since_write = 0
            for lane in range(LANES):
                lanes.advance(lane, start + 2, int(event_us[start]), int(event_us[start]))
                rows += lanes.write(lane)
        at_s.append(time.process_time())
        if start >= warm:
            for name, took in zip(spent, np.diff(at_s).tolist(), strict=True):
                spent[name] += took
            measured, missed, written = measured + BATCH, missed + loaded, written + rows
    return {
        "us_per_event": {name: round(s / measured * 1e6, 2) for name, s in spent.items()},
        "total_us_per_event": round(sum(spent.values()) / measured * 1e6, 2),
        "loaded_per_event": round(missed / measured, 3),
        "written_per_event": round(written / measured, 3),
        "hot_rows_in_use": len(lanes.rows),
        "base_mb": round(base_mb),
        "peak_mb": round(_peak_mb()),
    }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def worker_us() -> float:
    """CPU an event of the whole worker on the fraud pipeline, on this machine, now."""
    options = ["--only", "penstock-fraud", "--modes", "throughput", "--repetitions", "5", "--result", ""]
    return float(_said_by("benchmarks.bench", *options, "--json")["cpu_us_per_event"]["penstock-fraud"])


def ratios(found: dict[str, dict[str, Any]], whole_us: float) -> dict[str, dict[str, float]]:
    """What an event of the whole worker costs in one case over another, and the most that it may."""
    answer = {}
    for (many, few), bar in BARS.items():
        if many in found and few in found:
            more_us = found[many]["total_us_per_event"] - found[few]["total_us_per_event"]
            answer[f"{many} / {few}"] = {"ratio": round(1 + more_us / whole_us, 2), "bar": bar}
    return answer


def table(result: dict[str, Any]) -> str:
    """The figures for a terminal."""
    head = f"{'us an event':<14}{'load':>8}{'apply':>8}{'write':>8}{'total':>8}"
    lines = [head + f"{'loaded':>9}{'written':>9}{'rows':>9}{'peak MB':>9}"]
    for name, case in result["cases"].items():
        costs = [*case["us_per_event"].values(), case["total_us_per_event"]]
        lines.append(
            f"{name:<14}"
            + "".join(f"{us:>8.2f}" for us in costs)
            + f"{case['loaded_per_event']:>9.3f}{case['written_per_event']:>9.3f}"
            + f"{case['hot_rows_in_use']:>9,}{case['peak_mb']:>9}"
        )
    for name, figures in result["ratios"].items():
        lines.append(f"{name}: {figures['ratio']:.2f}x of the whole worker, at most {figures['bar']}x")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
