"""What is noted in passing is what a metric would have counted at once."""

import threading

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram

from worker.tally import Tally, add_up, counts, counts_each, first_in, observes, observes_waits

BOUNDS = (0.1, 0.5, 2.0)
NOW_MS = 1_790_000_000_000


def samples(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    """Every sample but the times of creation, by name and bucket."""
    return {
        (sample.name, sample.labels.get("le", sample.labels.get("step", ""))): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if not sample.name.endswith("_created")
    }


@given(st.lists(st.lists(st.floats(0, 5) | st.sampled_from(BOUNDS), max_size=5), max_size=20))
def test_a_histogram_has_what_it_would_have_observed_one_by_one(batches: list[list[float]]) -> None:
    noted, plain = CollectorRegistry(), CollectorRegistry()
    first_in(noted)
    tally = Tally(noted)
    each, whole = (Histogram(name, "", buckets=BOUNDS, registry=noted) for name in ("a", "b"))
    add_each, add_whole = observes(each), observes_waits(whole)
    expected = [Histogram(name, "", buckets=BOUNDS, registry=plain) for name in ("a", "b")]

    for batch in batches:
        milliseconds = np.array([0, *(NOW_MS - round(value * 1000) for value in batch)], np.int64)
        tally.note(add_whole, (NOW_MS * 1000, milliseconds))
        for value in batch:
            tally.note(add_each, value)
            expected[0].observe(value)
            expected[1].observe(round(value * 1000) / 1000)

    found, wanted = samples(noted), samples(plain)
    assert found.keys() == wanted.keys()
    assert all(abs(found[key] - wanted[key]) < 1e-9 for key in found)


def test_an_index_is_counted_by_its_own_counter_and_one_without_by_none() -> None:
    registry = CollectorRegistry()
    first_in(registry)
    tally, family = Tally(registry), Counter("c", "", ["step"], registry=registry)
    add = counts_each([None, family.labels("one"), family.labels("two")])

    tally.note(add, np.array([0, 1, 1], np.uint8))
    tally.note(add, np.array([2, 1], np.uint8))

    assert samples(registry) == {("c_total", "one"): 3, ("c_total", "two"): 1}


def test_nothing_is_lost_or_counted_twice_while_others_look() -> None:
    registry = CollectorRegistry()
    first_in(registry)
    tally, counter = Tally(registry), Counter("c", "", registry=registry)
    add, is_over = counts(counter), threading.Event()

    def look() -> None:
        while not is_over.is_set():
            samples(registry)

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for looker in lookers:
        looker.start()
    for _ in range(30_000):
        tally.note(add, 1)
    is_over.set()
    for looker in lookers:
        looker.join(10)

    assert samples(registry) == {("c_total", ""): 30_000}


def test_what_was_counted_counts_when_nobody_holds_the_tally_any_more() -> None:
    registry = CollectorRegistry()
    first_in(registry)
    counter = Counter("c", "", registry=registry)
    Tally(registry).note(counts(counter), 3)

    add_up(registry)

    assert [s.value for metric in counter.collect() for s in metric.samples if s.name == "c_total"] == [3]


def test_notes_that_nobody_asks_for_do_not_pile_up() -> None:
    registry = CollectorRegistry()
    first_in(registry)
    tally, add = Tally(registry), counts(Counter("c", "", registry=registry))

    for _ in range(5000):
        tally.note(add, 1)

    assert len(tally._notes) <= 1000
