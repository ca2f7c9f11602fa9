"""A schema registry on a port of its own: a real HTTP server that answers as one does, or as it is told."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_WAIT_S = 5.0


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
        self.thread.join(_WAIT_S)

    def answer(self, method: str, path: str, body: bytes, headers: Any) -> tuple[int, Any]:
        self.requests.append(f"{method} {path}")
        if self.silent.is_set():
            self.released.wait(_WAIT_S)
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
        schema = json.loads(body)
        number = next((i for i, s in self.schemas.items() if s == schema), len(self.schemas) + 1)
        self.schemas[number] = schema
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
