"""The console in a real browser, on real workers: every view, what changes, what is wrong, who may look."""

from __future__ import annotations

import json
import signal
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml
from confluent_kafka import Producer

from benchmarks.workers import RunningWorker, create_topics, start_worker, topics_of
from schemas.codec import Codec
from schemas.schema import load_schema
from schemas.table import to_table
from tests.conftest import or_missing
from tests.pipeline.streams import SOON_MISSED, START_MS, alone, fill, transactions
from tests.services.browser import Browser, start_browser

pytestmark = pytest.mark.kafka
PARTITIONS = 4
EVENTS = 3200
TOKEN = "a-token-of-the-tests-0123"
EVIL = "<img src=x onerror=document.title='stolen'>"
VIEWS = ("overview", "alerts", "letters", "entity", "models", "workers")
WITHIN_S = 60.0


@dataclass(slots=True)
class Fleet:
    """Two workers of one pipeline, and what can be sent to them."""

    kafka: str
    prefix: str
    name: str
    workers: list[RunningWorker] = field(default_factory=list)
    sent: int = 0

    def url(self, worker: int = 0) -> str:
        """Where a worker serves its page."""
        return str(self.workers[worker].address())

    def send(self, count: int) -> None:
        """So many events more, later than all before."""
        keys, values = transactions(count, seed=700 + self.sent)
        fill(self.kafka, f"{self.prefix}transactions", keys, values)
        self.sent += count

    def ask(self, what: str) -> Any:
        """What the page would be told."""
        with urllib.request.urlopen(f"{self.url()}/console/api/{what}", timeout=15) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def fleet(kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder, prefix = tmp_path_factory.mktemp("console"), f"console{time.time_ns()}."
    watch = f"{prefix}fraud.watch"
    create_topics(kafka_bootstrap, {**topics_of(prefix, PARTITIONS), watch: 1})
    file = alone(
        folder,
        prefix,
        kafka={"bootstrap": kafka_bootstrap, **SOON_MISSED},
        state={"store": "memory://"},
        delivery={"mode": "at_least_once"},
        # Whatever is scored raises an alert, so that a thousand come soon.
        decision={"severities": {"warning": 1e-9, "critical": 0.6}, "cooldown": "1s"},
        outputs={"watch": watch},
        watch={"drift": {"window_events": 1000}},
        rollout={"control": f"{prefix}control"},
        console={"topic": f"{prefix}console"},
        admin={"port": 0, "token": "${PENSTOCK_ADMIN_TOKEN}"},
    )
    document = {**yaml.safe_load(file.read_text()), "name": "fraud"}
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    made = Fleet(kafka_bootstrap, prefix, "fraud")
    env = {"PENSTOCK_DEVICE": "cpu", "PENSTOCK_ADMIN_TOKEN": TOKEN}
    for number in range(2):
        made.workers.append(start_worker([file], folder / f"worker-{number}.log", env))
    try:
        for worker in made.workers:
            worker.wait_until_ready()
        made.send(EVENTS)
        _send_odd(made)
        yield made
    finally:
        for worker in made.workers:
            if worker.process.poll() is None:
                worker.stop(60.0)


def _send_odd(fleet: Fleet) -> None:
    """An entity whose name is a trap, and records that cannot be read."""
    schema = load_schema("transaction")
    columns = {
        "transaction_id": [f"odd-{i}" for i in range(12)],
        "event_time": [START_MS + i * 3_600_000 for i in range(12)],
        "customer_id": [EVIL] * 12,
        "terminal_id": ["T1"] * 12,
        "amount": [10.0 * (i + 1) for i in range(12)],
    }
    values = Codec(schema, "single_object").encode(to_table(schema, columns))
    fill(fleet.kafka, f"{fleet.prefix}transactions", [EVIL.encode()] * 12, values)
    producer = Producer({"bootstrap.servers": fleet.kafka, "partitioner": "murmur2_random"})
    producer.produce(f"{fleet.prefix}transactions", b"\x00\x01" + EVIL.encode(), b"C1")
    producer.produce(f"{fleet.prefix}transactions", values[0][:-5], EVIL.encode())
    assert producer.flush(30) == 0
    fleet.sent += 14


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # A name of another host that leads to this one, as a rebound name does.
    yield from or_missing(
        "Chromium", lambda: start_browser("--host-resolver-rules=MAP elsewhere.test 127.0.0.1")
    )


@pytest.fixture
def page(fleet: Fleet, browser: Browser) -> Iterator[Browser]:
    """The overview, in a window of usual size; nothing may go wrong in it, and nobody else be asked."""
    browser.look(1280, 900)
    browser.complaints.clear()
    browser.requests.clear()
    go(browser, fleet, "overview")
    yield browser
    assert browser.complaints == []
    assert {url for url in browser.requests if not url.startswith((fleet.url(), "data:"))} == set()


def go(browser: Browser, fleet: Fleet, view: str, argument: str = "") -> None:
    """Open a view of the first worker's page anew."""
    browser.open("about:blank")
    browser.wait("location.href === 'about:blank'")
    browser.open(f"{fleet.url()}/#/{view}/{fleet.name}{argument}")
    browser.wait(f"document.querySelector('nav a[aria-current]')?.dataset.view === '{view}'", WITHIN_S)
    browser.wait("document.querySelector('#live').textContent === 'live'", WITHIN_S)


def has(browser: Browser, text: str, selector: str = "body") -> None:
    """Wait until it is to be read there."""
    browser.wait(
        f"(document.querySelector({json.dumps(selector)})?.innerText ?? '').includes({json.dumps(text)})",
        WITHIN_S,
    )


def test_the_overview_says_in_a_sentence_what_goes_on_and_counts_every_event_of_both_workers(
    fleet: Fleet, page: Browser
) -> None:
    has(page, "2 workers read")
    has(page, "with fraud 2")
    has(page, f"{fleet.sent - 2:,} since the start", "#tiles")  # two of them could not be read
    has(page, "2 since the start", "#tiles")
    assert page.get("document.querySelectorAll('#c-rate path').length") > 0
    assert page.get("document.querySelectorAll('#c-lag tbody tr').length") == PARTITIONS


def test_what_comes_in_while_the_page_is_open_is_shown(fleet: Fleet, page: Browser) -> None:
    has(page, f"{fleet.sent - 2:,} since the start", "#tiles")

    fleet.send(100)

    has(page, f"{fleet.sent - 2:,} since the start", "#tiles")


def test_a_thousand_alerts_are_listed_and_one_tells_its_reasons_and_features(
    fleet: Fleet, page: Browser
) -> None:
    go(page, fleet, "alerts")

    page.wait("document.querySelectorAll('.alerts details').length === 1000", WITHIN_S)
    page.get("document.querySelector('.alerts summary').click()")
    has(page, "against", ".alerts .inside")
    assert page.get("document.querySelectorAll('.alerts .features div').length") >= 10
    fleet.send(30)
    has(page, "New ones wait until the open row is closed.", ".tools")
    page.get("document.querySelector('.alerts details[open] summary').click()")
    page.wait("document.querySelectorAll('.alerts .fresh').length >= 20", WITHIN_S)
    assert page.get("document.querySelectorAll('.alerts details').length") == 1000


def test_alerts_can_be_searched_and_what_a_record_says_is_text_and_never_markup(
    fleet: Fleet, page: Browser
) -> None:
    go(page, fleet, "alerts")
    page.wait("document.querySelectorAll('.alerts details').length > 0", WITHIN_S)

    fill(fleet.kafka, f"{fleet.prefix}transactions", *_evil_again(fleet))
    has(page, EVIL, ".alerts")
    page.get("document.querySelector('input[type=search]').focus()")
    page.type("onerror")

    page.wait(
        "[...document.querySelectorAll('.alerts details')].filter(d => !d.hidden).length < 20", WITHIN_S
    )
    assert page.get("document.querySelectorAll('main img').length") == 0
    assert "stolen" not in page.get("document.title")


def _evil_again(fleet: Fleet) -> tuple[list[bytes], list[bytes]]:
    schema = load_schema("transaction")
    row = {
        "transaction_id": [f"again-{fleet.sent}"],
        "event_time": [START_MS + 50 * 3_600_000],
        "customer_id": [EVIL],
        "terminal_id": [EVIL],
        "amount": [77.0],
    }
    fleet.sent += 1
    return [EVIL.encode()], Codec(schema, "single_object").encode(to_table(schema, row))


def test_a_dead_letter_shows_its_bytes_and_its_fields_as_far_as_they_go(fleet: Fleet, page: Browser) -> None:
    go(page, fleet, "letters")

    has(page, "bad_magic", ".letters")
    has(page, "truncated", ".letters")
    page.get(
        "[...document.querySelectorAll('.letters summary')]"
        ".find(row => row.innerText.includes('truncated')).click()"
    )
    has(page, "transaction_id", ".letters .inside")
    has(page, "odd-0", ".letters .inside")
    assert page.get("document.querySelectorAll('pre.hex .bad').length") > 0
    assert page.get("document.querySelectorAll('main img').length") == 0


def test_one_entity_is_followed_through_its_events_scores_and_features(fleet: Fleet, page: Browser) -> None:
    go(page, fleet, "entity")
    has(page, "Give the key of an entity")

    page.get("document.querySelector('#key').focus()")
    page.type(EVIL)
    page.press("Enter")

    has(page, "all there are")
    has(page, "customer.count_1d")
    found = fleet.ask(f"entity?pipeline=fraud&key={urllib.parse.quote(EVIL)}")
    amounts, scores = found["fields"]["amount"], found["scores"]
    assert amounts[:12] == [10.0 * (i + 1) for i in range(12)]
    assert None not in scores
    # The engine's own window over these events: all of them lie within a day.
    assert found["features"]["customer.count_1d"][:12] == list(range(1, 13))
    assert page.get("document.querySelectorAll('.plots svg').length") > 5


def test_an_entity_that_is_not_there_is_said_not_to_be(fleet: Fleet, page: Browser) -> None:
    go(page, fleet, "entity", "/nobody")

    has(page, "No event has the key nobody.")


def test_versions_drift_and_history_are_told_and_a_change_needs_the_token(
    fleet: Fleet, page: Browser
) -> None:
    go(page, fleet, "models")
    has(page, "Versions of fraud")
    has(page, "customer.")  # drift of a feature
    has(page, "Nothing was changed")

    click = "[...document.querySelectorAll('main button')].find(b => b.textContent === 'Promote').click()"
    page.get("document.querySelector('select[aria-label=Version]').value = '1'")
    page.get(click)
    has(page, "Changes need the token")
    page.get("document.querySelector('input[aria-label=Token]').value = 'not-the-token-at-all'")
    page.get(click)
    has(page, "Authorization: Bearer")
    page.complaints.clear()  # the browser tells of the answer 401
    page.get(f"document.querySelector('input[aria-label=Token]').value = '{TOKEN}'")
    page.get(click)

    has(page, "revision 1: version 1 serves")
    has(page, "promote")
    page.wait("[...document.querySelectorAll('main td b')].some(b => b.textContent === '1')", WITHIN_S)


def test_the_keyboard_is_enough(page: Browser) -> None:
    page.press("2")
    page.wait("document.querySelector('nav a[aria-current]').dataset.view === 'alerts'")
    page.wait("document.querySelectorAll('.alerts details').length > 1", WITHIN_S)
    page.press("j")
    page.press("j")
    assert page.get("[...document.querySelectorAll('summary')].indexOf(document.activeElement)") == 1
    page.press("Enter")
    page.wait("document.querySelectorAll('.alerts details')[1].open")
    page.press("?")
    page.wait("document.querySelector('#keys').open")
    page.press("Escape")
    page.press("/")
    page.wait("document.activeElement.id === 'key'")
    page.press("Escape")
    page.press("6")
    page.wait("document.querySelector('nav a[aria-current]').dataset.view === 'workers'")


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_fits_a_phone_in_the_dark(fleet: Fleet, page: Browser, view: str) -> None:
    page.look(390, 844, dark=True)
    go(page, fleet, view)
    page.wait("document.querySelectorAll('main *').length > 3", WITHIN_S)

    assert page.get("document.documentElement.scrollWidth") <= 390
    light = page.get("getComputedStyle(document.body).backgroundColor")
    assert light == "rgb(18, 22, 29)"


def test_from_elsewhere_the_token_is_asked_for_and_opens_the_page(fleet: Fleet, browser: Browser) -> None:
    browser.look(1280, 900)
    browser.open(fleet.url().replace("127.0.0.1", "elsewhere.test") + "/")
    has(browser, "needs the token")

    browser.get("document.querySelector('#token').focus()")
    browser.type(TOKEN)
    browser.press("Enter")

    has(browser, "workers read")


def test_a_worker_that_dies_is_shown_as_gone_and_its_lanes_as_taken_over(fleet: Fleet, page: Browser) -> None:
    has(page, "2 workers read")
    dead = fleet.workers[1]

    dead.process.send_signal(signal.SIGKILL)

    has(page, "has said nothing for", "#health")
    has(page, "One worker reads")
    page.press("6")
    has(page, "gone", "main")
    page.press("1")
    page.wait(f"document.querySelectorAll('#c-lag tbody tr').length === {PARTITIONS}", WITHIN_S)


def test_when_the_worker_that_serves_the_page_dies_the_page_says_so(fleet: Fleet, browser: Browser) -> None:
    go(browser, fleet, "overview")

    fleet.workers[0].process.send_signal(signal.SIGKILL)

    has(browser, "has not answered for", "#health")
    assert browser.get("document.querySelector('main').className") == "lost-data"
    assert "since the start" in browser.text("#tiles")
