"""Metrics, health and a few switches over HTTP, for Prometheus, supervisors and operators."""

from __future__ import annotations

import hmac
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from urllib.parse import parse_qsl

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest

from worker.guarded_http import Answer, GuardedServer, Request

STUCK_S = 30.0  # a loop that has not gone round for this long is stuck
PAGES = ("/metrics", "/healthz", "/readyz")
_NO_TOKEN = "nothing can be changed over HTTP: admin.token is not set"
_WRONG_TOKEN = "expected the header `Authorization: Bearer TOKEN` with the value of admin.token"


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What a pipeline's loop says of itself."""

    pipeline: str
    loop_age_s: float
    is_ready: bool
    device: str  # where the model runs; empty without one
    is_paused: bool = False

    @property
    def is_alive(self) -> bool:
        """Whether the loop makes progress."""
        return self.loop_age_s < STUCK_S


Check = Callable[[], list[Health]]
Change = Callable[[Mapping[str, str]], str]  # settings of the query to one line about what is so now


@dataclass(frozen=True, slots=True, kw_only=True)
class Switches:
    """What may be changed over HTTP, by path, and the token that this takes."""

    token: str = field(default="", repr=False)  # empty: nothing may be changed
    changes: Mapping[str, Change] = field(default_factory=dict)


def serve_admin(
    host: str,
    port: int,
    check: Check,
    registry: CollectorRegistry = REGISTRY,
    switches: Switches | None = None,
    console: Callable[[Request], Answer | None] = lambda _: None,
) -> ThreadingHTTPServer:
    """Serve the pages until shutdown() is called; port 0 takes any free one.

    Args:
        console: answers what is the console's; None: it is not.

    Raises:
        OSError: the address cannot be listened on.
    """
    given = switches or Switches()

    def answer(request: Request) -> Answer:
        if request.method == "POST":
            return _change(request, given)
        if (shown := console(request)) is not None:
            return shown
        health = check()
        if request.path == "/metrics":
            return Answer(200, generate_latest(registry), CONTENT_TYPE_LATEST)
        if request.path == "/healthz":
            return _judged(health, all(h.is_alive for h in health))
        if request.path == "/readyz":
            return _judged(health, all(h.is_alive and h.is_ready for h in health))
        return _not_here(given, request.path)

    server = GuardedServer((host, port), answer)
    threading.Thread(target=server.serve_forever, args=(0.1,), name="admin", daemon=True).start()
    return server


def _not_here(switches: Switches, path: str = "") -> Answer:
    if path in switches.changes:
        return Answer(405, b"expected POST\n", allow="POST")
    changes = "".join(f" POST {path}" for path in switches.changes)
    return Answer(404, f"found here: {' '.join(PAGES)}{changes}\n".encode())


def _change(request: Request, switches: Switches) -> Answer:
    """Do what was asked, for whoever knows the token; who does not learns nothing but that."""
    log = structlog.get_logger()
    if request.path in PAGES:
        return Answer(405, b"expected GET\n", allow="GET, HEAD")
    if not switches.token:
        return Answer(403, f"{_NO_TOKEN}\n".encode())
    kind, _, shown = request.authorization.partition(" ")
    # Bytes of equal worth in equal time, whatever is wrong with them.
    is_right = hmac.compare_digest(shown.strip().encode(), switches.token.encode())
    if kind.lower() != "bearer" or not is_right:
        log.warning("admin refused", path=request.path[:80], peer=request.peer)
        return Answer(401, f"{_WRONG_TOKEN}\n".encode(), challenge="Bearer")
    change = switches.changes.get(request.path)
    if change is None:
        return _not_here(switches)
    try:
        said = change(dict(parse_qsl(request.query, max_num_fields=8)))
    except ValueError as error:
        return Answer(400, f"{error}\n".encode())
    log.warning("admin changed", path=request.path, now=said, peer=request.peer)
    return Answer(200, f"{said}\n".encode())


def _judged(health: list[Health], is_good: bool) -> Answer:
    said = [
        {
            "pipeline": h.pipeline,
            "alive": h.is_alive,
            "ready": h.is_ready,
            "paused": h.is_paused,
            "loop_age_s": round(h.loop_age_s, 3),
            "device": h.device,
        }
        for h in health
    ]
    body = json.dumps({"ok": is_good, "pipelines": said}).encode()
    return Answer(200 if is_good else 503, body, "application/json")
