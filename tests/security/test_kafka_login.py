"""The real worker process on a real broker, by every way of logging in, with the least rights it needs."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from benchmarks.workers import create_topics, running, topics_of
from tests.conftest import or_missing
from tests.pipeline.streams import Reader, alone, fill, transactions
from tests.security.secured_broker import CLIENT_SECRET, PASSWORD, USER, Secured, secured_broker
from worker.config import load_pipeline
from worker.exits import Exit
from worker.logs import configure_logs
from worker.service import serve

EVENTS = 300
ENDS_WITHIN_S = 90.0  # the first start of a machine compiles
SECRETS = (PASSWORD, CLIENT_SECRET)
WRONG = "hunter2-4471-wrong"
OURS = AclBindingFilter(
    ResourceType.ANY,
    None,
    ResourcePatternType.ANY,
    f"User:{USER}",
    None,
    AclOperation.ANY,
    AclPermissionType.ANY,
)

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """One broker for all tests here; it takes ten seconds to start."""
    yield from or_missing("Kafka", lambda: secured_broker(tmp_path_factory.mktemp("secured")))


def login(broker: Secured, kind: str, **changes: str) -> dict[str, Any]:
    """The `kafka` section of a pipeline file that logs in this way, secrets by reference."""
    ca, folder = {"ssl.ca.location": str(broker.folder / "ca.pem")}, broker.folder
    password = folder / "password"
    password.write_text(f"{PASSWORD}\n")
    if kind == "mutual":
        listener, properties = (
            "MUTUAL",
            {
                "security.protocol": "SSL",
                "ssl.certificate.location": str(folder / "worker.pem"),
                "ssl.key.location": str(folder / "worker.key"),
                **ca,
            },
        )
    elif kind == "oidc":
        listener, properties = (
            "LOGIN",
            {
                "security.protocol": "SASL_SSL",
                "sasl.mechanism": "OAUTHBEARER",
                "sasl.oauthbearer.method": "oidc",
                "sasl.oauthbearer.client.id": USER,
                "sasl.oauthbearer.client.secret": "${PENSTOCK_TEST_SECRET}",
                "sasl.oauthbearer.token.endpoint.url": broker.issuer.url,
                "https.ca.location": str(folder / "ca.pem"),
                **ca,
            },
        )
    else:
        listener = "OPEN" if kind == "scram without tls" else "LOGIN"
        properties = {
            "security.protocol": "SASL_PLAINTEXT" if listener == "OPEN" else "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512" if listener == "OPEN" else kind,
            "sasl.username": USER,
            "sasl.password": f"${{file:{password}}}",
            **ca,
        }
    return {"bootstrap": broker.address(listener), "properties": {**properties, **changes}}


# Documented rights that `at_least_once` does without.
ONCE_ONLY = [
    ("fraud-", AclOperation.WRITE),
    *((f"fraud.{kind}", AclOperation.READ) for kind in ("scores", "alerts", "dead-letters")),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """ACLs of the worker's user: what is documented as the least set, some left out on purpose."""

    admin: AdminClient
    given: list[AclBinding] = field(default_factory=list)

    def grant(self, prefix: str, *, without: Sequence[tuple[str, AclOperation]] = ()) -> None:
        """Give the documented rights on the topics, group and transactional id that start with prefix."""
        topic, group = ResourceType.TOPIC, ResourceType.GROUP
        transactional = ResourceType.TRANSACTIONAL_ID
        literal, prefixed = ResourcePatternType.LITERAL, ResourcePatternType.PREFIXED
        least = [
            (topic, f"{prefix}transactions", literal, AclOperation.READ),
            (topic, f"{prefix}fraud.scores", literal, AclOperation.WRITE),
            (topic, f"{prefix}fraud.alerts", literal, AclOperation.WRITE),
            (topic, f"{prefix}fraud.dead-letters", literal, AclOperation.WRITE),
            (topic, f"{prefix}fraud.scores", literal, AclOperation.READ),
            (topic, f"{prefix}fraud.alerts", literal, AclOperation.READ),
            (topic, f"{prefix}fraud.dead-letters", literal, AclOperation.READ),
            (group, f"{prefix}fraud", literal, AclOperation.READ),
            (transactional, f"{prefix}fraud-", prefixed, AclOperation.WRITE),
        ]
        left_out = {(prefix + name, right) for name, right in without}
        self.given.extend(
            AclBinding(kind, name, pattern, f"User:{USER}", "*", right, AclPermissionType.ALLOW)
            for kind, name, pattern, right in least
            if (name, right) not in left_out
        )
        for future in self.admin.create_acls(self.given).values():
            future.result(30)
        # Created is not yet in force: the authorizer follows the controller's log.
        deadline_s = time.monotonic() + 30
        while len(self.admin.describe_acls(OURS).result(30)) < len(self.given):
            assert time.monotonic() < deadline_s
            time.sleep(0.05)


@pytest.fixture
def rights(broker: Secured) -> Iterator[Rights]:
    """No rights to begin with, and none left over."""
    given = Rights(admin=AdminClient({"bootstrap.servers": broker.plain}))
    yield given
    for future in given.admin.delete_acls([OURS]).values():
        future.result(30)


@pytest.fixture
def prefix(broker: Secured) -> str:
    """Topics of one test."""
    made = f"t{uuid.uuid4().hex[:8]}."
    create_topics(broker.plain, topics_of(made, 1))
    return made


Ends = Callable[..., dict[str, Any]]


def pipeline_file_for(folder: Path, prefix: str, kafka: dict[str, Any], mode: str = "exactly_once") -> Path:
    """A pipeline that scores transactions, named after its prefix."""
    folder = folder / prefix
    folder.mkdir()
    name = {"name": prefix.rstrip(".")}
    file = alone(folder, prefix, kafka=kafka, delivery={"mode": mode}, state={"store": "memory://"})
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **name}, sort_keys=False))
    return file


@pytest.fixture
def ends(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Ends:
    """Runs a worker in this process until it stops by itself; gives the one line that says why."""

    def run(
        prefix: str, kafka: dict[str, Any], *, mode: str = "exactly_once", secret: str = CLIENT_SECRET
    ) -> dict[str, Any]:
        file = pipeline_file_for(tmp_path, prefix, kafka, mode)
        env = {"PENSTOCK_DEVICE": "cpu", "PENSTOCK_TEST_SECRET": secret, "PENSTOCK_ADMIN_PORT": "0"}
        pipeline = load_pipeline(file, env)
        configure_logs(pipeline.secrets)
        too_long = threading.Timer(ENDS_WITHIN_S, os.kill, (os.getpid(), signal.SIGTERM))
        too_long.start()
        try:
            code = serve([pipeline])
        finally:
            too_long.cancel()
        text = "".join(capfd.readouterr())
        assert not [hidden for hidden in (*SECRETS, WRONG) if hidden in text]
        lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        said = [line for line in lines if line["event"] == "worker stops"]
        assert len(said) == 1, text
        assert said[0]["exit_code"] == code
        assert "\n" not in said[0]["why"]
        return dict(said[0])

    return run


def test_events_go_in_and_scores_come_out_by_every_way_of_logging_in(
    broker: Secured, rights: Rights, tmp_path: Path
) -> None:
    """One worker process with a pipeline for each way; at_least_once without a right on transactional ids."""
    kinds = [
        "PLAIN",
        "SCRAM-SHA-256",
        "SCRAM-SHA-512",
        "scram without tls",
        "mutual",
        "oidc",
        "at least once",
    ]
    prefixes = [f"t{uuid.uuid4().hex[:8]}." for _ in kinds]
    files = []
    for kind, prefix in zip(kinds, prefixes, strict=True):
        create_topics(broker.plain, topics_of(prefix, 1))
        once = kind != "at least once"
        rights.grant(prefix, without=[] if once else ONCE_ONLY)
        fill(broker.plain, f"{prefix}transactions", *transactions(EVENTS))
        mode = "exactly_once" if once else "at_least_once"
        files.append(pipeline_file_for(tmp_path, prefix, login(broker, kind if once else "mutual"), mode))
    env = {"PENSTOCK_DEVICE": "cpu", "PENSTOCK_TEST_SECRET": CLIENT_SECRET}

    with running([files], tmp_path, env) as (worker,):
        for kind, prefix in zip(kinds, prefixes, strict=True):
            reader = Reader(broker.plain, prefix)
            found = reader.read_all(EVENTS)
            reader.close()
            assert len(found.scores) == EVENTS, kind
            assert found.doubled == [], kind
        assert worker.stop() == Exit.OK

    text = worker.log.read_text()
    assert not [secret for secret in SECRETS if secret in text]


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("PLAIN", {"sasl.password": "${PENSTOCK_TEST_SECRET}"}, "Invalid username or password"),
        ("SCRAM-SHA-512", {"sasl.password": "${PENSTOCK_TEST_SECRET}"},
         "invalid credentials with SASL mechanism SCRAM-SHA-512"),
        ("PLAIN", {"ssl.ca.location": "other-ca.pem"}, "certificate could not be verified"),
        ("mutual", {"ssl.certificate.location": "stranger.pem", "ssl.key.location": "stranger.key"},
         "the broker refused our certificate"),
        ("oidc", {}, "unknown client"),
    ],
    ids=["password", "scram", "unknown authority", "certificate of a stranger", "client secret"],
)  # fmt: skip
def test_who_is_not_let_in_says_why_in_one_line_and_ends_with_the_code_for_kafka(
    broker: Secured, ends: Ends, prefix: str, kind: str, changes: dict[str, str], said: str
) -> None:
    for key, value in changes.items():
        if key.endswith(".location"):
            changes = {**changes, key: str(broker.folder / value)}

    end = ends(prefix, login(broker, kind, **changes), secret=WRONG)

    assert end["exit_code"] == Exit.KAFKA
    assert end["why"].startswith("Kafka does not let this worker in: ")
    assert said in end["why"]


def test_an_expired_token_is_told_as_that(broker: Secured, ends: Ends, prefix: str) -> None:
    broker.issuer.lifetime_s = -60
    try:
        end = ends(prefix, login(broker, "oidc"))
    finally:
        broker.issuer.lifetime_s = 300

    assert end["exit_code"] == Exit.KAFKA
    assert "unexpired token" in end["why"]
    assert "eyJ" not in end["why"], "no token in a log"


def test_tokens_are_renewed_while_the_worker_runs(
    broker: Secured, rights: Rights, prefix: str, tmp_path: Path
) -> None:
    rights.grant(prefix)
    file = pipeline_file_for(tmp_path, prefix, login(broker, "oidc"))
    env = {"PENSTOCK_DEVICE": "cpu", "PENSTOCK_TEST_SECRET": CLIENT_SECRET}
    broker.issuer.lifetime_s = 15  # renewed after 12: a client that stands still for a moment is let in
    try:
        with running([[file]], tmp_path, env) as (worker,):
            before = broker.issuer.issued
            deadline_s = time.monotonic() + 60
            while broker.issuer.issued < before + 4:  # two clients, twice each
                assert worker.process.poll() is None, worker.tail()
                assert time.monotonic() < deadline_s, worker.tail()
                time.sleep(0.1)
            fill(broker.plain, f"{prefix}transactions", *transactions(EVENTS))
            reader = Reader(broker.plain, prefix)
            found = reader.read_all(EVENTS)
            reader.close()
            assert worker.stop() == Exit.OK
    finally:
        broker.issuer.lifetime_s = 300

    assert len(found.scores) == EVENTS


@pytest.mark.parametrize(
    ("name", "right", "mode", "said"),
    [
        ("transactions", AclOperation.READ, "exactly_once",
         "Read (inputs) or Write (outputs) on topic '{p}transactions'"),
        ("fraud.scores", AclOperation.WRITE, "exactly_once", "Write on topic '{p}fraud.scores'"),
        ("fraud.dead-letters", AclOperation.WRITE, "at_least_once", "Write on topic '{p}fraud.dead-letters'"),
        ("fraud.alerts", AclOperation.READ, "exactly_once", "Read on topic '{p}fraud.alerts'"),
        ("fraud", AclOperation.READ, "exactly_once", "Read on group '{p}fraud'"),
        ("fraud-", AclOperation.WRITE, "exactly_once", "on transactional id '{p}fraud-"),
    ],
    ids=["input", "scores", "dead letters", "alerts, read", "group", "transactional id"],
)  # fmt: skip
def test_a_right_that_is_missing_is_named_with_what_it_is_missing_on(
    broker: Secured,
    rights: Rights,
    prefix: str,
    ends: Ends,
    name: str,
    right: AclOperation,
    mode: str,
    said: str,
) -> None:
    rights.grant(prefix, without=[(name, right)])

    end = ends(prefix, login(broker, "SCRAM-SHA-512"), mode=mode)

    assert end["exit_code"] == Exit.KAFKA
    assert end["why"].startswith("missing rights in Kafka: ")
    assert said.format(p=prefix) in end["why"]


def test_the_rights_that_are_documented_are_those_that_are_granted_here() -> None:
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()

    listed = re.findall(r"^acl --operation (\w+) +--([\w-]+) ", page, re.MULTILINE)

    assert listed == [
        ("Read", "topic"),
        ("Read", "group"),
        ("Write", "topic"),
        ("Write", "topic"),
        ("Write", "topic"),
        ("Read", "topic"),
        ("Read", "topic"),
        ("Read", "topic"),
        ("Write", "transactional-id"),
    ]
