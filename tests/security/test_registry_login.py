"""Schemas from a real registry that speaks TLS and wants a login, set up as a pipeline file does it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from schemas.codec import Codec
from schemas.form import FORMATS, Format
from schemas.registry import Registry, RegistryError
from schemas.schema import load_schema
from schemas.table import to_table
from tests.builders import pipeline
from tests.conftest import or_missing
from tests.security.authorities import save_certificate
from tests.services import Service, start_registry
from worker.config import load_pipeline
from worker.plan import registry_settings

USER, PASSWORD = "penstock", "reg/istry:p@ss-9023"
IN_URL = "penstock:reg%2Fistry%3Ap%40ss-9023@"
LABEL = load_schema("label")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two authorities, one of which signed the registry's certificate."""
    made = tmp_path_factory.mktemp("registry")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(made / "ca.pem")
    trustme.CA().cert_pem.write_to_path(made / "other-ca.pem")
    save_certificate(authority, made, "server", "127.0.0.1")
    (made / "password").write_text(f"{PASSWORD}\n")
    return made


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Service]:
    """One registry for all tests here; it takes some seconds to start."""
    yield from or_missing(
        "schema registry",
        lambda: start_registry(
            certificate=folder / "server.pem",
            key=folder / "server.key",
            authority=folder / "ca.pem",
            user=USER,
            password=PASSWORD,
        ),
    )


def client(folder: Path, url: str, section: str) -> Registry:
    """The client of a pipeline whose file says this."""
    file = pipeline(folder, "  amount: {kind: field, field: amount}").path
    file.write_text(f"{file.read_text()}registry: {section}\n")
    settings = registry_settings(load_pipeline(file, {}), url)
    return Registry(replace(settings, timeout_s=30.0))  # its first Protobuf schema loads half a compiler


def in_file(folder: Path, authority: str = "ca.pem", password: str = "${file:password}") -> str:
    """A registry section with this login."""
    return json.dumps({"username": USER, "password": password, "ca_file": str(folder / authority)})


def kept(folder: Path, password: str) -> str:
    """How a pipeline file names this password: it may not hold one itself."""
    (folder / "other-password").write_text(password)
    return "${file:other-password}"


@pytest.mark.parametrize("form", FORMATS)
def test_schemas_are_registered_and_fetched_with_the_login_of_the_pipeline_file(
    folder: Path, service: Service, form: Format
) -> None:
    table = to_table(
        LABEL,
        {"event_id": ["a"], "event_time": [1], "customer_id": "c", "terminal_id": "t", "fraud": True},
    )
    ours = client(folder, service.address, in_file(folder))

    ours.check()
    codec = Codec(LABEL, "confluent", format=form, registry=ours, topic=f"labels-{form}")
    values = codec.encode(table)
    theirs = client(folder, service.address, in_file(folder))

    reader = Codec(LABEL, "confluent", format=form, registry=theirs)
    assert reader.decode(values).table.equals(table)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", ["score", "alert", "watch_alert", "truth"])
def test_a_registry_takes_what_we_publish_in_every_format(
    folder: Path, service: Service, form: Format, kind: str
) -> None:
    ours = client(folder, service.address, in_file(folder))

    for _ in range(2):  # and again at the next start
        Codec(load_schema(kind), "confluent", format=form, registry=ours, topic=f"{kind}-{form}")


def test_a_login_in_the_url_does_the_same(folder: Path, service: Service) -> None:
    url = service.address.replace("https://", f"https://{IN_URL}")

    found = client(folder, url, json.dumps({"ca_file": str(folder / "ca.pem")}))

    found.check()
    assert PASSWORD not in found.url
    assert "%40" not in found.url


@pytest.mark.parametrize(
    ("authority", "password", "said"),
    [
        ("ca.pem", "wrong-8841", "found HTTP 401"),
        ("other-ca.pem", PASSWORD, "certificate verify failed"),
    ],
    ids=["password", "unknown authority"],
)
def test_who_is_not_let_in_says_so_in_one_line_without_the_password(
    folder: Path, service: Service, authority: str, password: str, said: str
) -> None:
    refused = client(folder, service.address, in_file(folder, authority, kept(folder, password)))

    with pytest.raises(RegistryError) as told:
        refused.check()

    assert said in str(told.value)
    assert len(str(told.value).splitlines()) == 1
    assert password not in str(told.value)


def test_without_a_login_nothing_is_answered(folder: Path, service: Service) -> None:
    nobody = client(folder, service.address, json.dumps({"ca_file": str(folder / "ca.pem")}))

    with pytest.raises(RegistryError, match="found HTTP 401"):
        nobody.check()
