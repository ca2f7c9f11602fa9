"""What an HTTP request may not do to a worker: hold it up, fill it up, make it talk, or change it."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator, Mapping

import pytest
from prometheus_client import CollectorRegistry

from worker.admin import Switches, serve_admin
from worker.guarded_http import MAX_CONNECTIONS, MAX_REQUEST_BYTES, Answer, GuardedServer, Request

TOKEN = "a-token-of-some-length-4410"
WAIT_S = 10.0


class Switched:
    """An admin server with one thing to change."""

    def __init__(self, token: str) -> None:
        self.seen: list[Mapping[str, str]] = []
        switches = Switches(token=token, changes={"/switch": self._change})
        self.server = serve_admin("127.0.0.1", 0, list, CollectorRegistry(), switches)
        self.port = self.server.server_address[1]

    def _change(self, query: Mapping[str, str]) -> str:
        if "to" not in query:
            raise ValueError("expected ?to=")
        self.seen.append(query)
        return f"now {query['to']}"

    def ask(
        self, method: str, path: str, body: bytes = b"", **headers: str
    ) -> tuple[int, str, dict[str, str]]:
        """Status, body and headers of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        connection.request(method, path, body, {name.replace("_", "-"): v for name, v in headers.items()})
        answer = connection.getresponse()
        said = answer.read().decode(), {name.lower(): value for name, value in answer.getheaders()}
        connection.close()
        return (answer.status, *said)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def admin() -> Iterator[Switched]:
    opened = Switched(TOKEN)
    yield opened
    opened.close()


def raw(port: int, data: bytes) -> bytes:
    """All that is answered to these bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        said = b""
        while chunk := connection.recv(4096):
            said += chunk
        return said


def test_who_knows_the_token_may_change_what_can_be_changed(admin: Switched) -> None:
    status, said, _ = admin.ask("POST", "/switch?to=on", Authorization=f"Bearer {TOKEN}")

    assert (status, said) == (200, "now on\n")
    assert admin.seen == [{"to": "on"}]


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Basic {TOKEN}",
        "Bearer \xe9\xff",
    ],
)
def test_without_the_right_token_nothing_changes_and_nothing_is_told(
    admin: Switched, authorization: str
) -> None:
    for path in ("/switch?to=on", "/no-such-thing"):
        status, said, headers = admin.ask("POST", path, Authorization=authorization)

        assert status == 401
        assert headers["www-authenticate"] == "Bearer"
        assert "switch" not in said
        assert TOKEN not in said
    assert admin.seen == []


def test_where_no_token_is_set_nothing_can_be_changed_by_anybody() -> None:
    admin = Switched("")
    try:
        for authorization in ("", "Bearer ", "Bearer x"):
            status, said, _ = admin.ask("POST", "/switch?to=on", Authorization=authorization)
            assert status == 403
            assert "admin.token is not set" in said
        assert admin.seen == []
    finally:
        admin.close()


def test_a_wrong_setting_is_told_in_one_line(admin: Switched) -> None:
    assert admin.ask("POST", "/switch", Authorization=f"Bearer {TOKEN}")[:2] == (400, "expected ?to=\n")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/switch", 405),
        ("POST", "/metrics", 405),
        ("PUT", "/metrics", 405),
        ("DELETE", "/switch", 405),
        ("TRACE", "/healthz", 405),
        ("CONNECT", "/healthz", 405),
        ("OPTIONS", "/healthz", 405),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404),
        ("GET", "http://elsewhere/metrics", 404),
    ],
)
def test_other_methods_and_paths_are_refused_in_a_word(
    admin: Switched, method: str, path: str, status: int
) -> None:
    found, said, headers = admin.ask(method, path, Authorization=f"Bearer {TOKEN}")

    assert found == status
    assert status != 405 or headers["allow"]
    assert "passwd" not in said
    assert admin.seen == []


def test_no_answer_names_the_program_or_its_version(admin: Switched) -> None:
    for method, path in (("GET", "/metrics"), ("GET", "/nothing"), ("PUT", "/"), ("POST", "/switch")):
        _, _, headers = admin.ask(method, path)
        assert "server" not in headers
    said = raw(admin.port, b"<script> / HTTP/9.9\r\n\r\n")

    assert b"Server" not in said
    assert b"script" not in said
    assert b"Python" not in said


def test_a_head_request_gets_the_head_alone(admin: Switched) -> None:
    status, said, headers = admin.ask("HEAD", "/metrics")

    assert (status, said) == (200, "")
    assert "content-length" in headers


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"",
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1 extra\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # somebody speaks TLS
        b"GET /metrics HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nContent-Length: 9999999999999999999999\r\n\r\n",
        b"POST /switch HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n",
        b"POST /switch HTTP/1.1\r\nContent-Length: 100\r\n\r\nshort",
        b"GET /" + b"a" * (MAX_REQUEST_BYTES * 2),
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * MAX_REQUEST_BYTES,
        b"GET / HTTP/1.1\r\nX: " + b"y" * MAX_REQUEST_BYTES * 4,
        b"GET / HTTP/1.1\r\n" + b"\x00\xff: \x80\r\n\r\n",
    ],
    ids=range(13),
)
def test_no_malformed_or_oversized_request_stops_the_next_one(admin: Switched, request_bytes: bytes) -> None:
    try:
        said = raw(admin.port, request_bytes)
    except OSError:  # cut off while we were still sending
        said = b""

    assert not said or said.split(b" ")[1] in {
        b"200",
        b"400",
        b"401",
        b"404",
        b"405",
        b"411",
        b"413",
        b"414",
        b"431",
    }
    assert admin.ask("GET", "/healthz")[0] == 200
    assert admin.seen == []


def test_who_sends_a_byte_at_a_time_is_cut_off() -> None:
    server = GuardedServer(("127.0.0.1", 0), lambda _: Answer(200, b"ok\n"), request_s=0.3)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    give_up_s = time.monotonic() + WAIT_S
    is_cut = False
    with socket.create_connection(("127.0.0.1", int(server.server_address[1])), timeout=WAIT_S) as connection:
        while not is_cut:
            assert time.monotonic() < give_up_s
            time.sleep(0.01)
            try:
                connection.sendall(b"X")
            except OSError:
                is_cut = True
    server.shutdown()
    server.server_close()


def test_connections_that_say_nothing_do_not_keep_others_out_for_long() -> None:
    answered = threading.Event()

    def answer(_: Request) -> Answer:
        answered.set()
        return Answer(200, b"ok\n")

    server = GuardedServer(("127.0.0.1", 0), answer, request_s=0.5)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = ("127.0.0.1", int(server.server_address[1]))
    silent = [socket.create_connection(address, timeout=WAIT_S) for _ in range(MAX_CONNECTIONS * 2)]
    give_up_s = time.monotonic() + WAIT_S
    while not answered.is_set():
        assert time.monotonic() < give_up_s
        try:
            raw(int(address[1]), b"GET / HTTP/1.1\r\n\r\n")
        except OSError:
            time.sleep(0.05)
    for connection in silent:
        connection.close()
    assert len([t for t in threading.enumerate() if "process_request" in t.name]) <= MAX_CONNECTIONS
    server.shutdown()
    server.server_close()
