"""Damages good inputs at random and watches what becomes of the process: time, memory, promises."""

from __future__ import annotations

import faulthandler
import random
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from hypothesis import HealthCheck, Verbosity, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.targets import Target, dictionary

INPUT_S = 10.0  # an input that takes longer is a hang; a busy machine must not look like one
MEMORY_BYTES = 3 << 28  # more than before; with what is loaded, 1 GB in a process of its own
ROUND = 500  # inputs between two looks at clock and memory
BURST = 25  # inputs from one example: making an example costs more than most inputs do
MAX_INPUT_BYTES = 256 << 10
PIECES = dictionary()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one target went through."""

    target: str
    seed: int
    inputs: int
    seconds: float
    slowest_input_s: float
    peak_memory_mib: float  # of the process, with everything loaded


def damaged(base: bytes, rng: random.Random) -> bytes:
    """Return the bytes with one to eight random edits."""
    data = base
    for _ in range(rng.randint(1, 8)):
        at, length = rng.randint(0, len(data)), rng.randint(1, 64)
        match rng.randrange(6):
            case 0:
                data = data[:at] + bytes(b ^ length for b in data[at : at + 1]) + data[at + 1 :]
            case 1:
                data = data[:at] + rng.choice(PIECES) + data[at:]
            case 2:
                data = data[:at] + rng.randbytes(rng.randint(0, 16)) + data[at:]
            case 3:
                data = data[:at] + data[at + length :]
            case 4:
                data = data[:at] + data[at : at + length] * (length if len(data) < 1 << 14 else 2) + data[at:]
            case 5:
                data = data[at:] + data[:at]
    return data[:MAX_INPUT_BYTES]


def fuzz(target: Target, *, seconds: float, first_seed: int, inputs: int | None = None) -> Report:
    """Damage and check until the time is up, or for so many inputs.

    Raises:
        AssertionError: an input took too long, or memory grew too much; or what the target did not promise.
    """
    counted, slowest_s = 0, 0.0

    def one(data: bytes) -> None:
        nonlocal counted, slowest_s
        # A hang in native code heeds no exception: then the stacks are printed and the process ends.
        faulthandler.dump_traceback_later(INPUT_S, exit=True)
        begun_s = time.perf_counter()
        try:
            target.check(data)
        except BaseException as error:
            error.add_note(f"{target.name} was given {data[:2000]!r}")
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()
        counted, slowest_s = counted + 1, max(slowest_s, time.perf_counter() - begun_s)

    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now: other tests had theirs
    before_bytes = _memory_bytes("VmRSS")
    for good in target.seeds:
        one(good)
    begun_s, round_seed = time.monotonic(), first_seed
    while (counted < inputs) if inputs is not None else (time.monotonic() - begun_s < seconds):
        _round(target, one, round_seed, ROUND if inputs is None else min(ROUND, inputs))
        round_seed += 1
        more_bytes = _memory_bytes("VmHWM") - before_bytes
        assert more_bytes < MEMORY_BYTES, (
            f"{more_bytes >> 20} MiB more after {counted} inputs of {target.name}"
        )
    return Report(
        target=target.name,
        seed=first_seed,
        inputs=counted,
        seconds=round(time.monotonic() - begun_s, 1),
        slowest_input_s=round(slowest_s, 4),
        peak_memory_mib=round(_memory_bytes("VmHWM") / 2**20, 1),
    )


def _memory_bytes(what: str) -> int:
    """Of this process, by its name in proc(5): VmRSS now, VmHWM at most since the peak was reset."""
    found = re.search(rf"^{what}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def _round(target: Target, one: Callable[[bytes], None], round_seed: int, inputs: int) -> None:
    """So many inputs; hypothesis chooses where to begin and shrinks that when a promise is broken."""

    @seed(round_seed)
    @settings(
        max_examples=max(1, inputs // BURST),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    @given(st.sampled_from(target.seeds), st.integers(0, 1 << 32))
    def check(base: bytes, number: int) -> None:
        rng = random.Random(number)
        for _ in range(BURST):
            one(damaged(base, rng))

    check()


def as_row(report: Report) -> dict[str, object]:
    """For the result file."""
    return asdict(report)
