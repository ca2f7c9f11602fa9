"""An OTLP/HTTP receiver: what a collector would be given, as spans, and one that takes nothing."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(slots=True, kw_only=True)
class Received:
    """What has come so far; other threads add to it."""

    address: str = ""
    spans: list[Any] = field(default_factory=list)  # opentelemetry.proto.trace.v1 Span
    resources: list[dict[str, Any]] = field(default_factory=list)  # attributes, one a request
    paths: set[str] = field(default_factory=set)

    def named(self, name: str) -> list[Any]:
        """The spans of a name."""
        return [span for span in list(self.spans) if span.name == name]

    def wait(self, is_enough: Any, within_s: float = 60.0) -> None:
        """Until what has come is enough; fails when it is not in time."""
        deadline_s = time.monotonic() + within_s
        while not is_enough(self):
            assert time.monotonic() < deadline_s, f"{len(self.spans)} spans after {within_s:g} s"
            time.sleep(0.02)


def attributes(of: Any) -> dict[str, Any]:
    """Attributes as plain values."""
    return {pair.key: _value(pair.value) for pair in of.attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind)


@contextmanager
def otlp_receiver(status: int = 200, *, hangs: threading.Event | None = None) -> Iterator[Received]:
    """A receiver for as long as the block lasts.

    Args:
        status: what it answers.
        hangs: it answers only once this is set.
    """
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if hangs is not None:
                hangs.wait(60)
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            request = ExportTraceServiceRequest.FromString(body)
            received.paths.add(self.path)
            for resource_spans in request.resource_spans:
                received.resources.append(attributes(resource_spans.resource))
                for scope in resource_spans.scope_spans:
                    received.spans += scope.spans
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Tests look at what came, not at a log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    received.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield received
    finally:
        if hangs is not None:
            hangs.set()
        server.shutdown()
        server.server_close()
