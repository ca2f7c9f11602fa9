"""A small HTTP server that no request can hold up, fill up or make talk about itself."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MAX_REQUEST_BYTES = 16 << 10  # line, headers and body together
REQUEST_S = 10.0  # from the connection to the end of the answer
MAX_CONNECTIONS = 32  # at a time; a further one is closed at once
METHODS = ("GET", "HEAD", "POST")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What of a request counts here; bodies are read and dropped."""

    method: str
    path: str  # without the query
    query: str
    authorization: str
    peer: str
    host: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer."""

    status: int
    body: bytes
    kind: str = "text/plain; charset=utf-8"
    allow: str = ""
    challenge: str = ""
    headers: tuple[tuple[str, str], ...] = ()


class _Bounded(io.RawIOBase):
    """The bytes of one connection, which end at the limit whatever still comes."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._left = connection, MAX_REQUEST_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        taken = self._connection.recv_into(memoryview(buffer)[: self._left]) if self._left else 0
        self._left -= taken
        return taken


class GuardedServer(ThreadingHTTPServer):
    """Answers each request on a thread of its own, within limits of number, size and time."""

    daemon_threads = True
    request_queue_size = MAX_CONNECTIONS

    def __init__(
        self,
        address: tuple[str, int],
        answer: Callable[[Request], Answer],
        *,
        request_s: float = REQUEST_S,
    ) -> None:
        """Listen.

        Raises:
            OSError: the address cannot be listened on.
        """
        self._request_s = request_s
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _handler(answer))

    def process_request(self, request: Any, client_address: Any) -> None:
        """Take the connection if there is room."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and cut the line when that takes too long, however many bytes still trickle in."""
        overdue = threading.Timer(self._request_s, _cut, [request])
        overdue.daemon = True
        overdue.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            overdue.cancel()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks off is no news; it must not print a traceback."""


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _handler(answer: Callable[[Request], Answer]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_S
        default_request_version = "HTTP/1.0"  # so that answers have a status whatever was asked

        def setup(self) -> None:
            super().setup()
            self.rfile.close()
            self.rfile = io.BufferedReader(_Bounded(self.connection))

        def do_GET(self) -> None:
            if not self._body_is_small():
                return
            path, _, query = self.path.partition("?")
            self._send(
                answer(
                    Request(
                        method=self.command,
                        path=path,
                        query=query,
                        authorization=self.headers.get("Authorization", ""),
                        peer=str(self.client_address[0]),
                        host=self.headers.get("Host", ""),
                    )
                )
            )

        do_HEAD = do_POST = do_GET

        def _body_is_small(self) -> bool:
            """Read the body away, so that the answer is not lost with the connection."""
            said = self.headers.get("Content-Length", "0")
            if "Transfer-Encoding" in self.headers or not said.isdecimal():
                self._send(Answer(411, b"expected a Content-Length\n"))
                return False
            if len(said) > 6 or int(said) > MAX_REQUEST_BYTES // 2:
                self._send(Answer(413, b"expected a smaller request\n"))
                return False
            self.rfile.read(int(said))
            return True

        def send_error(self, code: int, *_: object) -> None:
            """Answer a request that cannot be parsed, repeating nothing of it."""
            is_method = code == 501
            self._send(
                Answer(405 if is_method else code, b"bad request\n", allow=", ".join(METHODS) * is_method)
            )

        def _send(self, said: Answer) -> None:
            self.close_connection = True
            self.send_response_only(said.status)  # without naming the program and its version
            self.send_header("Content-Type", said.kind)
            self.send_header("Content-Length", str(len(said.body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            if said.allow:
                self.send_header("Allow", said.allow)
            if said.challenge:
                self.send_header("WWW-Authenticate", said.challenge)
            for name, value in said.headers:
                self.send_header(name, value)
            self.end_headers()
            if getattr(self, "command", None) != "HEAD":
                self.wfile.write(said.body)

        def log_message(self, format: str, *args: object) -> None:
            """Scrapes are not news."""

    return Handler
