"""The registry client against a real HTTP server that answers as a schema registry does."""

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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

WAIT_S = 5.0
LABEL = load_schema("label")


def record(*pairs: Any) -> str:
    """The text of a record schema from names and types in turn."""
    fields = [{"name": name, "type": kind} for name, kind in zip(pairs[::2], pairs[1::2], strict=True)]
    return json.dumps({"type": "record", "name": "R", "fields": fields})


SMALL = parse_schema(record("a", "int"))


class TinyRegistry:
    """Schemas by id and ids by subject, on a port of its own."""

    def __init__(self) -> None:
        self.schemas: dict[int, dict[str, Any]] = {}
        self.subjects: dict[str, int] = {}
        self.requests: list[str] = []
        self.failures: list[int] = []  # statuses of the next answers
        self.login = ""
        self.silent = threading.Event()  # set: nothing is answered
        self.released = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(WAIT_S)

    def answer(self, method: str, path: str, body: bytes, headers: Any) -> tuple[int, Any]:
        self.requests.append(f"{method} {path}")
        if self.silent.is_set():
            self.released.wait(WAIT_S)
        if self.failures:
            return self.failures.pop(0), {"error_code": 1, "message": "as told"}
        wanted = "Basic " + base64.b64encode(self.login.encode()).decode()
        if self.login and headers["Authorization"] != wanted:
            return 401, {"error_code": 401, "message": "Unauthorized"}
        if method == "GET" and path == "/subjects":
            return 200, list(self.subjects)
        if method == "GET" and path.startswith("/schemas/ids/"):
            found = self.schemas.get(int(path.rpartition("/")[2]))
            return (200, found) if found else (404, {"error_code": 40403, "message": "Schema not found"})
        subject = path.removeprefix("/subjects/").removesuffix("/versions")
        assert headers["Content-Type"] == "application/vnd.schemaregistry.v1+json"
        text = json.loads(body)["schema"]
        number = next((i for i, s in self.schemas.items() if s["schema"] == text), len(self.schemas) + 1)
        self.schemas[number] = {"schema": text}
        self.subjects[subject] = number
        return 200, {"id": number}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                status, answer = registry.answer(self.command, self.path, body, self.headers)
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                if status in {301, 307}:
                    self.send_header("Location", f"{registry.url}/elsewhere")
                self.send_header("Content-Length", str(len(data)))
                with contextlib.suppress(OSError):  # a client that has given up waiting
                    self.end_headers()
                    self.wfile.write(data)

            do_POST = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler


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
    assert [client(tiny).register(subject, LABEL) for subject in ("a-value", "b/c-value")] == [1, 1]
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
    assert registry.register("a-value", LABEL) == 1


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
