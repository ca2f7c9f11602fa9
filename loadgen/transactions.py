"""Card transactions with fraud, day by day without end, after the handbook's published generator.

The model of the world is that of Le Borgne, Siblini, Lebichot, Bontempi, "Reproducible Machine Learning for
Credit Card Fraud Detection - Practical Handbook" (ULB 2022), chapter 3; the code is our own.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DAY_S = 86_400
HANDBOOK_START_S = 1_522_540_800  # 2018-04-01T00:00:00Z, the first day of the published dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Who pays where, and how often something is stolen; the defaults are the handbook's."""

    customers: int = 5_000
    terminals: int = 10_000
    radius: float = 5.0  # a customer uses the terminals within this distance, on a 100 x 100 map
    large_amount: float = 220.0  # scenario 1: everything above is fraud
    terminals_a_day: int = 2  # scenario 2: newly compromised each day
    terminal_days: int = 28
    customers_a_day: int = 3  # scenario 3: newly leaked cards each day
    customer_days: int = 14
    leaked_share: float = 1 / 3  # of a leaked card's transactions are the thief's
    leaked_factor: float = 5.0
    start_s: int = HANDBOOK_START_S
    seed: int = 0
    first_number: int = 0  # id of the first transaction; ids are consecutive

    def __post_init__(self) -> None:
        if self.customers < self.customers_a_day or self.terminals < max(1, self.terminals_a_day):
            raise ValueError(f"world too small: {self.customers} customers, {self.terminals} terminals")
        if self.radius <= 0:
            raise ValueError(f"radius must be above 0, got {self.radius}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Transactions:
    """Transactions in event-time order, as columns."""

    number: NDArray[np.int64]  # (n,) the id, consecutive over the whole stream
    event_time_s: NDArray[np.int64]  # (n,) seconds since 1970, whole
    customer: NDArray[np.int64]  # (n,) index
    terminal: NDArray[np.int64]  # (n,) index
    amount: NDArray[np.float64]  # (n,) currency units, whole cents
    scenario: NDArray[np.int8]  # (n,) 0 genuine, 1 large amount, 2 bad terminal, 3 leaked card

    def __len__(self) -> int:
        return len(self.number)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Profiles:
    mean_amount: NDArray[np.float64]  # (c,)
    daily_rate: NDArray[np.float64]  # (c,) expected transactions a day
    first: NDArray[np.int64]  # (c + 1,) where a customer's terminals start in `reachable`
    reachable: NDArray[np.int64]  # terminal indices, customer after customer


def days(world: World) -> Iterator[Transactions]:
    """Yield one day of transactions after the other, without end; the same world gives the same days."""
    rng = np.random.default_rng(world.seed)
    profiles = _draw_profiles(world, rng)
    terminal_until = np.zeros(world.terminals, np.int64)  # first day on which the terminal is clean again
    customer_until = np.zeros(world.customers, np.int64)
    number, day = world.first_number, 0
    while True:
        # The handbook draws the day's victims without regard to earlier ones; an earlier end never wins.
        terminals = rng.choice(world.terminals, world.terminals_a_day, replace=False)
        customers = rng.choice(world.customers, world.customers_a_day, replace=False)
        terminal_until[terminals] = day + world.terminal_days
        customer_until[customers] = day + world.customer_days
        genuine = _draw_day(world, profiles, rng, day, number)
        yield _with_fraud(
            world,
            rng,
            genuine,
            terminal_until[genuine.terminal] > day,
            customer_until[genuine.customer] > day,
        )
        number, day = number + len(genuine), day + 1


def _draw_profiles(world: World, rng: np.random.Generator) -> _Profiles:
    place = rng.uniform(0, 100, (world.customers, 2))
    mean_amount = rng.uniform(5, 100, world.customers)
    daily_rate = rng.uniform(0, 4, world.customers)
    first, reachable = within_radius(place, rng.uniform(0, 100, (world.terminals, 2)), world.radius)
    # A customer without any terminal in reach makes no transaction, as in the handbook.
    daily_rate[np.diff(first) == 0] = 0.0
    return _Profiles(mean_amount=mean_amount, daily_rate=daily_rate, first=first, reachable=reachable)


def within_radius(
    origins: NDArray[np.float64], targets: NDArray[np.float64], radius: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find, for every origin, the targets nearer than `radius`.

    Args:
        origins, targets: (n, 2) and (m, 2) places.
        radius: in the unit of the places.

    Returns:
        (n + 1,) bounds and target indices: origin i has indices[bounds[i] : bounds[i + 1]], ascending.
    """
    # Cell by cell: 5,000 x 10,000 distances at once would take 400 MB.
    cell_of = np.floor(np.concatenate([origins, targets]) / radius).astype(np.int64)
    cell_of -= cell_of.min(axis=0)
    width = int(cell_of[:, 1].max()) + 3
    code = (cell_of[:, 0] + 1) * width + cell_of[:, 1] + 1
    origin_code, target_code = code[: len(origins)], code[len(origins) :]
    by_cell = np.argsort(target_code, kind="stable")
    sorted_code = target_code[by_cell]
    found: list[NDArray[np.int64]] = [np.empty(0, np.int64)] * len(origins)
    for cell in np.unique(origin_code):
        rows = cell + np.array([-width, 0, width])
        low, high = (
            np.searchsorted(sorted_code, rows - 1, "left"),
            np.searchsorted(sorted_code, rows + 1, "right"),
        )
        near = np.sort(np.concatenate([by_cell[a:b] for a, b in zip(low, high, strict=True)]))
        members = np.flatnonzero(origin_code == cell)
        squared = ((origins[members, None, :] - targets[None, near, :]) ** 2).sum(axis=2)
        for member, hits in zip(members, squared < radius**2, strict=True):
            found[member] = near[hits]
    counts = np.fromiter(map(len, found), np.int64, len(found))
    return np.concatenate([[0], np.cumsum(counts)]), np.concatenate(found)


def _draw_day(
    world: World, profiles: _Profiles, rng: np.random.Generator, day: int, first_number: int
) -> Transactions:
    customer = np.repeat(np.arange(world.customers), rng.poisson(profiles.daily_rate))
    second = rng.normal(DAY_S / 2, 20_000, len(customer)).astype(np.int64)
    inside = (second > 0) & (second < DAY_S)  # the handbook drops the tails rather than moving them
    customer, second = customer[inside], second[inside]
    order = np.argsort(second, kind="stable")
    customer, second = customer[order], second[order]
    mean = profiles.mean_amount[customer]
    drawn = rng.normal(mean, mean / 2)
    amount = _cents(np.where(drawn < 0, rng.uniform(0, 2 * mean), drawn))
    low, high = profiles.first[customer], profiles.first[customer + 1]
    return Transactions(
        number=np.arange(first_number, first_number + len(customer)),
        event_time_s=world.start_s + day * DAY_S + second,
        customer=customer,
        terminal=profiles.reachable[rng.integers(low, high)],
        amount=amount,
        scenario=np.zeros(len(customer), np.int8),
    )


def _with_fraud(
    world: World,
    rng: np.random.Generator,
    genuine: Transactions,
    at_bad_terminal: NDArray[np.bool_],
    by_leaked_card: NDArray[np.bool_],
) -> Transactions:
    # Order as published: a later scenario overwrites the number of an earlier one, and the amounts of
    # scenario 3 grow after scenario 1 has looked.
    stolen = by_leaked_card & (rng.random(len(genuine)) < world.leaked_share)
    scenario = np.where(genuine.amount > world.large_amount, 1, 0)
    scenario = np.where(at_bad_terminal, 2, scenario)
    scenario = np.where(stolen, 3, scenario).astype(np.int8)
    return Transactions(
        number=genuine.number,
        event_time_s=genuine.event_time_s,
        customer=genuine.customer,
        terminal=genuine.terminal,
        amount=_cents(np.where(stolen, genuine.amount * world.leaked_factor, genuine.amount)),
        scenario=scenario,
    )


def _cents(amount: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.round(amount, 2), np.float64)
