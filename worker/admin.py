"""Metrics and health over HTTP, for Prometheus and whoever restarts workers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest

STUCK_S = 30.0  # a loop that has not gone round for this long is stuck


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What a pipeline's loop says of itself."""

    pipeline: str
    loop_age_s: float
    is_ready: bool
    device: str  # where the model runs; empty without one

    @property
    def is_alive(self) -> bool:
        """Whether the loop makes progress."""
        return self.loop_age_s < STUCK_S


Check = Callable[[], list[Health]]


def serve_admin(
    host: str, port: int, check: Check, registry: CollectorRegistry = REGISTRY
) -> ThreadingHTTPServer:
    """Serve /metrics, /healthz and /readyz until shutdown() is called; port 0 takes any free one.

    Raises:
        OSError: the address cannot be listened on.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            health = check()
            if path == "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, generate_latest(registry))
            elif path == "/healthz":
                self._judge(health, all(h.is_alive for h in health))
            elif path == "/readyz":
                self._judge(health, all(h.is_alive and h.is_ready for h in health))
            else:
                self._answer(404, "text/plain", b"found here: /metrics /healthz /readyz\n")

        def _judge(self, health: list[Health], is_good: bool) -> None:
            said = [
                {
                    "pipeline": h.pipeline,
                    "alive": h.is_alive,
                    "ready": h.is_ready,
                    "loop_age_s": round(h.loop_age_s, 3),
                    "device": h.device,
                }
                for h in health
            ]
            body = json.dumps({"ok": is_good, "pipelines": said}).encode()
            self._answer(200 if is_good else 503, "application/json", body)

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Scrapes are not news."""

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="admin", daemon=True).start()
    return server
