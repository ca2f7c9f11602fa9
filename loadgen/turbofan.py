"""Turbofan-like run-to-failure readings: a fleet that wears out, fails and is replaced, without end.

Levels, noise and wear were fitted on the training engines of C-MAPSS FD001 (Saxena, Goebel, Simon, Eklund,
"Damage Propagation Modeling for Aircraft Engine Run-to-Failure Simulation", PHM08), one engine at a time: a
weighted sum of twelve sensors, 0 new and 1 at failure, follows a + b * exp(-remaining / tau) with a residual
of 0.05, and tau is 0.257 +- 0.038 of the life.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadgen.transactions import HANDBOOK_START_S

SENSORS = 21
SETTINGS = 3

# What a sensor shows: level of a new engine; change at failure (wear 1); standard deviation of the noise;
# share of the engine's core speed drift; pull of that drift on others; decimals. The core speed (s09, and s14
# corrected) drifts by an amount of its own in every engine, -23..158 rpm at failure; the pull is per rpm off
# the mean drift.
_MEAN_DRIFT = 42.0
_LEVEL, _CHANGE, _NOISE, _DRIFT, _PULL, _DECIMALS = np.array(
    [
        [518.67, 0.0, 0.0, 0.0, 0.0, 2],  # s01 T2
        [642.352, 1.318, 0.302, 0.0, 0.0, 2],  # s02 T24
        [1586.75, 15.14, 3.99, 0.0, 0.019, 2],  # s03 T30
        [1402.28, 26.65, 4.02, 0.0, 0.0, 2],  # s04 T50
        [14.62, 0.0, 0.0, 0.0, 0.0, 2],  # s05 P2
        [21.61, 0.0, 0.0, 0.0, 0.0, 2],  # s06 P15
        [554.02, -2.613, 0.406, 0.0, 0.0042, 2],  # s07 P30
        [2388.046, 0.2031, 0.0305, 0.0, -7.7e-4, 2],  # s08 Nf
        [9056.0, 0.0, 4.18, 1.0, 0.0, 2],  # s09 Nc
        [1.3, 0.0, 0.0, 0.0, 0.0, 2],  # s10 epr
        [47.3365, 0.8202, 0.101, 0.0, 0.0, 2],  # s11 Ps30
        [521.971, -2.236, 0.301, 0.0, 0.0, 2],  # s12 phi
        [2388.045, 0.2056, 0.0308, 0.0, -8.1e-4, 2],  # s13 NRf
        [8138.0, -8.0, 3.18, 0.9, 0.0, 2],  # s14 NRc
        [8.416, 0.1047, 0.0201, 0.0, 0.0, 4],  # s15 BPR
        [0.03, 0.0, 0.0, 0.0, 0.0, 2],  # s16 farB
        [392.218, 3.980, 0.949, 0.0, 0.0064, 0],  # s17 htBleed
        [2388.0, 0.0, 0.0, 0.0, 0.0, 0],  # s18 Nf_dmd
        [100.0, 0.0, 0.0, 0.0, 0.0, 0],  # s19 PCNfR_dmd
        [38.940, -0.4955, 0.101, 0.0, 0.0, 2],  # s20 W31
        [23.3639, -0.2976, 0.0602, 0.0, 0.0, 4],  # s21 W32
    ]
).T
_SCALE = 10.0**_DECIMALS

# Life in cycles: log-normal, with mean and deviation of the hundred engines' log lives, within their range.
_LOG_LIFE, _LOG_LIFE_STD, _LIFE_RANGE = 5.306, 0.213, (128, 360)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """How many machines run at once, and when; each gives one reading a cycle."""

    machines: int = 200
    cycle_s: int = 3_600  # event time between two cycles of a machine
    start_s: int = HANDBOOK_START_S
    staggered: bool = True  # begin with machines of every age, so that failures are spread out
    seed: int = 0
    first_number: int = 0  # id of the first reading; ids are consecutive

    def __post_init__(self) -> None:
        if self.machines < 1 or self.cycle_s < 1:
            raise ValueError(f"a fleet needs machines and time: {self.machines} machines, {self.cycle_s} s")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Readings:
    """Readings in event-time order, as columns."""

    number: NDArray[np.int64]  # (n,) the id, consecutive over the whole stream
    event_time_ms: NDArray[np.int64]  # (n,) milliseconds since 1970
    machine: NDArray[np.int64]  # (n,) unit number; a replaced machine gets a new one
    cycle: NDArray[np.int32]  # (n,) 1, 2, ... up to the life of the machine
    setting: NDArray[np.float32]  # (n, 3) altitude, Mach number, throttle resolver angle
    sensor: NDArray[np.float32]  # (n, 21) s01..s21
    remaining: NDArray[np.int32]  # (n,) true remaining cycles; 0 in the last reading

    def __len__(self) -> int:
        return len(self.number)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Engines:
    machine: NDArray[np.int64]
    life: NDArray[np.int64]
    tau: NDArray[np.float64]  # cycles in which the remaining health falls by e
    wear_new: NDArray[np.float64]  # wear of the new engine
    wear_end: NDArray[np.float64]  # and at failure
    drift: NDArray[np.float64]  # rpm of s09 at failure


def cycles(fleet: Fleet) -> Iterator[Readings]:
    """Yield one cycle of the whole fleet after the other, without end: (machines,) readings each.

    The same fleet gives the same readings. A machine whose last reading was given is replaced by a new unit.
    """
    rng = np.random.default_rng(fleet.seed)
    engines = _draw_engines(rng, np.arange(fleet.machines))
    age = rng.integers(1, engines.life) if fleet.staggered else np.ones(fleet.machines, np.int64)
    phase_ms = np.sort(rng.integers(0, fleet.cycle_s * 1000, fleet.machines))
    next_machine, turn = fleet.machines, 0
    while True:
        yield Readings(
            number=fleet.first_number + turn * fleet.machines + np.arange(fleet.machines),
            event_time_ms=(fleet.start_s + turn * fleet.cycle_s) * 1000 + phase_ms,
            machine=engines.machine.copy(),
            cycle=age.astype(np.int32),
            setting=_settings(rng, fleet.machines),
            sensor=_sensors(rng, engines, engines.life - age),
            remaining=(engines.life - age).astype(np.int32),
        )
        failed = age >= engines.life
        if failed.any():
            fresh = _draw_engines(rng, next_machine + np.arange(int(failed.sum())))
            next_machine += len(fresh.machine)
            engines = _replaced(engines, failed, fresh)
        age, turn = np.where(failed, 1, age + 1), turn + 1


def _draw_engines(rng: np.random.Generator, machine: NDArray[np.int64]) -> _Engines:
    n = len(machine)
    life = np.clip(np.exp(rng.normal(_LOG_LIFE, _LOG_LIFE_STD, n)), *_LIFE_RANGE).astype(np.int64)
    return _Engines(
        machine=machine,
        life=life,
        tau=np.asarray(life * np.clip(rng.normal(0.257, 0.038, n), 0.15, 0.32), np.float64),
        wear_new=rng.uniform(-0.3, 0.3, n),
        wear_end=np.clip(rng.normal(1.0, 0.08, n), 0.85, 1.15),
        drift=-23 + 181 * rng.beta(0.7, 1.2, n),
    )


def _replaced(engines: _Engines, failed: NDArray[np.bool_], fresh: _Engines) -> _Engines:
    columns: dict[str, Any] = {name: getattr(engines, name).copy() for name in _Engines.__slots__}
    for name, column in columns.items():
        column[failed] = getattr(fresh, name)
    return _Engines(**columns)


def _sensors(
    rng: np.random.Generator, engines: _Engines, remaining: NDArray[np.int64]
) -> NDArray[np.float32]:
    decay = np.exp(-remaining / engines.tau)
    wear = engines.wear_new + (engines.wear_end - engines.wear_new) * decay
    drift = engines.drift * decay
    pull = (engines.drift - _MEAN_DRIFT) * decay
    value = _LEVEL + np.outer(wear, _CHANGE) + np.outer(drift, _DRIFT) + np.outer(pull, _PULL)
    value += _NOISE * rng.standard_normal((len(remaining), SENSORS))
    return np.asarray(np.rint(value * _SCALE) / _SCALE, np.float32)


def _settings(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    altitude, mach = rng.normal(0, 0.0022, n), rng.normal(0, 0.0003, n)
    return np.column_stack([altitude.round(4), mach.round(4), np.full(n, 100.0)]).astype(np.float32)
