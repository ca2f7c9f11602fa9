"""The registry client against a real HTTP server that answers as a schema registry does."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from schemas import (
    Codec,
    Registry,
    RegistryError,
    RegistrySettings,
    SchemaError,
    load_schema,
    parse_schema,
    to_table,
)
from tests.services.tiny_registry import TinyRegistry

LABEL = load_schema("label")


def record(*pairs: Any) -> str:
    """The text of a record schema from names and types in turn."""
    fields = [{"name": name, "type": kind} for name, kind in zip(pairs[::2], pairs[1::2], strict=True)]
    return json.dumps({"type": "record", "name": "R", "fields": fields})


SMALL = parse_schema(record("a", "int"))


@pytest.fixture
def tiny() -> Iterator[TinyRegistry]:
    registry = TinyRegistry()
    yield registry
    registry.close()


def client(tiny: TinyRegistry, **more: Any) -> Registry:
    settings: dict[str, Any] = {"url": tiny.url, "retry_pause_s": 0.01} | more
    return Registry(RegistrySettings(**settings))


def labels() -> Any:
    columns = {
        "event_id": ["a", "b"],
        "event_time": [1, 2],
        "customer_id": "c",
        "terminal_id": "t",
        "fraud": True,
    }
    return to_table(LABEL, columns)


def test_a_record_goes_through_the_registry_and_back(tiny: TinyRegistry) -> None:
    values = Codec(LABEL, "confluent", registry=client(tiny), topic="labels").encode(labels())

    decoded = Codec(LABEL, "confluent", registry=client(tiny)).decode(values)

    assert values[0][:5] == b"\0\0\0\0\x01"
    assert tiny.subjects == {"labels-value": 1}
    assert json.loads(tiny.schemas[1]["schema"]) == LABEL.json  # with its logical types and marks
    assert decoded.table.equals(labels())
    assert decoded.rejects == ()


def test_an_id_is_asked_for_once_and_kept(tiny: TinyRegistry) -> None:
    values = Codec(LABEL, "confluent", registry=client(tiny), topic="labels").encode(labels())
    tiny.requests.clear()
    codec = Codec(LABEL, "confluent", registry=client(tiny))

    for _ in range(3):
        codec.decode(values)

    assert tiny.requests == ["GET /schemas/ids/1"]


def test_the_same_schema_gets_the_same_id(tiny: TinyRegistry) -> None:
    assert [client(tiny).register(subject, LABEL.text) for subject in ("a-value", "b/c-value")] == [1, 1]
    assert tiny.subjects == {"a-value": 1, "b%2Fc-value": 1}


def test_an_unknown_id_is_asked_for_twice_and_rejects_its_record(tiny: TinyRegistry) -> None:
    values = Codec(LABEL, "confluent", registry=client(tiny), topic="labels").encode(labels())
    tiny.requests.clear()
    codec = Codec(LABEL, "confluent", registry=client(tiny))

    decoded = codec.decode(
        [b"\0\0\0\0\x09" + values[0][5:], values[1], b"\x05" + values[1][1:], b"\0\0", b""]
    )

    assert [(reject.row, reject.reason) for reject in decoded.rejects] == [
        (0, "unknown_schema"), (2, "bad_magic"), (3, "truncated"), (4, "truncated"),
    ]  # fmt: skip
    assert decoded.rows.tolist() == [1]
    assert tiny.requests.count("GET /schemas/ids/9") == 2
    codec.decode([b"\0\0\0\0\x09"])
    assert tiny.requests.count("GET /schemas/ids/9") == 2, "it is not asked for again at once"


def test_unknown_ids_that_come_together_cost_one_pause_between_them(tiny: TinyRegistry) -> None:
    """Garbage in which every record names an id of its own must not keep a worker from its group."""
    codec = Codec(SMALL, "confluent", registry=client(tiny, retry_pause_s=1.0))
    tiny.schemas[77] = {"schema": SMALL.text}
    values = [b"\0" + number.to_bytes(4, "big") + b"\x02" for number in range(1, 201)]

    with ThreadPoolExecutor(1) as pool:  # one by one they would pause for 199 s
        decoded = pool.submit(codec.decode, values).result(60)

    assert [reject.reason for reject in decoded.rejects] == ["unknown_schema"] * 199
    assert decoded.rows.tolist() == [76]
    assert len(tiny.requests) == 200 + 199


def test_an_id_that_appears_meanwhile_is_found(tiny: TinyRegistry) -> None:
    tiny.failures = [404]
    tiny.schemas[3] = {"schema": LABEL.text}

    assert client(tiny).schema(3).fingerprint == LABEL.fingerprint


def test_an_unknown_id_is_asked_for_again_after_a_while(tiny: TinyRegistry) -> None:
    codec = Codec(SMALL, "confluent", registry=client(tiny, forget_unknown_s=0.0))
    assert codec.decode([b"\0\0\0\0\x01\x02"]).rejects[0].reason == "unknown_schema"

    tiny.schemas[1] = {"schema": SMALL.text}

    assert codec.decode([b"\0\0\0\0\x01\x02"]).table.to_pylist() == [{"a": 1}]


def test_records_of_several_versions_in_one_batch_are_told_apart(tiny: TinyRegistry) -> None:
    tiny.schemas[7] = {"schema": record("a", "int")}
    tiny.schemas[8] = {"schema": record("b", "string", "a", "int")}
    tiny.schemas[9] = {"schema": record("a", "string")}
    values = [b"\0\0\0\0\x07\x02", b"\0\0\0\0\x08\x02x\x04", b"\0\0\0\0\x09\x02x", b"\0\0\0\0\x07\x06"]

    decoded = Codec(SMALL, "confluent", registry=client(tiny)).decode(values)

    assert decoded.table.to_pylist() == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert decoded.rows.tolist() == [0, 1, 3]
    assert [reject.reason for reject in decoded.rejects] == ["incompatible_schema"]


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ({"schema": record("r", "R")}, "recursive"),
        (
            {"schema": record("a", {"type": "array", "items": "null"})},
            "zero-byte",
        ),
        ({"schema": '"string"'}, "expected a record"),
        ({"schema": "message M {}", "schemaType": "PROTOBUF"}, "type PROTOBUF, expected AVRO"),
        ({"schema": SMALL.text, "references": [{"name": "x"}]}, "references"),
    ],
)
def test_a_schema_that_is_no_use_rejects_its_records(tiny: TinyRegistry, answer: Any, found: str) -> None:
    tiny.schemas[2] = answer

    (reject,) = Codec(SMALL, "confluent", registry=client(tiny)).decode([b"\0\0\0\0\x02\x02"]).rejects

    assert reject.reason == "unusable_schema"
    assert found in reject.detail


def test_one_failure_is_retried(tiny: TinyRegistry) -> None:
    tiny.failures = [500]
    tiny.schemas[1] = {"schema": SMALL.text}

    assert client(tiny).schema(1).name == "R"


@pytest.mark.parametrize("status", [500, 503, 403, 301, 307])
def test_a_registry_that_fails_says_nothing_about_the_records(tiny: TinyRegistry, status: int) -> None:
    tiny.failures = [status, status]
    codec = Codec(SMALL, "confluent", registry=client(tiny))

    with pytest.raises(RegistryError, match=f"found HTTP {status} \\(as told\\), expected schema 1"):
        codec.decode([b"\0\0\0\0\x01\x02"])

    assert "GET /elsewhere" not in tiny.requests, "a redirect would carry the password along"


def test_a_registry_that_does_not_answer_costs_two_short_timeouts(tiny: TinyRegistry) -> None:
    tiny.silent.set()

    with pytest.raises(RegistryError, match="found no answer"):
        client(tiny, timeout_s=0.05).schema(1)

    assert tiny.requests == ["GET /schemas/ids/1"] * 2


def test_a_registry_that_is_not_there_is_named_without_its_password() -> None:
    registry = Registry(
        RegistrySettings(url="http://me:s3cret@127.0.0.1:9", retry_pause_s=0.0, timeout_s=0.5)
    )

    with pytest.raises(RegistryError, match=r"^http://127\.0\.0\.1:9: found no answer") as caught:
        registry.check()

    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("where", ["settings", "url"])
def test_basic_auth_is_sent(tiny: TinyRegistry, where: str) -> None:
    tiny.login = "me:pass/w:rd"
    if where == "settings":
        registry = client(tiny, username="me", password="pass/w:rd")
    else:
        registry = client(tiny, url=tiny.url.replace("://", "://me:pass%2Fw%3Ard@"))

    registry.check()
    assert registry.register("a-value", LABEL.text) == 1


def test_a_wrong_password_is_told_from_a_missing_schema(tiny: TinyRegistry) -> None:
    tiny.login = "me:right"

    with pytest.raises(RegistryError, match=r"HTTP 401 \(Unauthorized\)"):
        client(tiny, username="me", password="wrong").schema(1)


def test_the_password_is_in_no_repr() -> None:
    settings = RegistrySettings(url="http://h", username="me", password="s3cret")

    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize("url", ["localhost:8081", "ftp://h", "http://", "file:///etc/passwd"])
def test_an_impossible_url_stops_the_start(url: str) -> None:
    with pytest.raises(RegistryError, match="expected http"):
        Registry(RegistrySettings(url=url))


def test_a_missing_certificate_stops_the_start() -> None:
    with pytest.raises(RegistryError, match="TLS"):
        Registry(RegistrySettings(url="https://h", ca_file="/no/such/file.pem"))


def test_confluent_without_a_registry_stops_the_start() -> None:
    with pytest.raises(SchemaError, match="found no registry"):
        Codec(LABEL, "confluent")


def test_a_refused_registration_stops_the_start(tiny: TinyRegistry) -> None:
    tiny.failures = [409]

    with pytest.raises(RegistryError, match=r"HTTP 409 \(as told\), expected an id for labels-value"):
        Codec(LABEL, "confluent", registry=client(tiny), topic="labels")


def test_a_codec_without_a_topic_only_reads(tiny: TinyRegistry) -> None:
    with pytest.raises(ValueError, match="found a codec without a topic"):
        Codec(LABEL, "confluent", registry=client(tiny)).encode(labels())
