"""The console: a page on the admin port, what it asks for, and who may ask.

Invariants (docs/console.md): nothing here is waited for by a loop; threads and consumers live only as long as
somebody looks; what is shown is at most two seconds old, or marked; a worker that is gone is shown as gone.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import structlog
from confluent_kafka import KafkaException

from schemas.registry import RegistryError
from schemas.tree import SchemaError
from worker.config import Pipeline
from worker.console_entity import DEEP_S, LOOK_S, EntityError, entity
from worker.console_models import models
from worker.console_records import KEPT, Newest, Tail
from worker.console_snapshot import Sampler, Snapshot
from worker.console_topic import SnapshotReader, SnapshotWriter, create_console_topic
from worker.console_world import GONE_MS, STALE_MS, World
from worker.guarded_http import Answer, Request
from worker.plan import worker_name
from worker.run import Worker

_FOLDER = Path(__file__).parent / "console"
_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_API = "/console/api/"
_EVERY_S = 1.0
_LOOKED_S = 30.0  # so long after the last look, everything goes on
_READ_BACK_S = 5.0  # and so long is waited for what was before
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE_HEADERS = (("Content-Security-Policy", _POLICY), ("Referrer-Policy", "no-referrer"))
_NO_TOKEN = "from another host this needs the token: set admin.token, or console.readers to anyone"
_WRONG_TOKEN = "the token of admin.token is needed"
Query = Mapping[str, str]


class Console:
    """What a process shows of itself and of all others on its topic; any thread may ask."""

    def __init__(
        self, pipelines: Sequence[Pipeline], workers: Sequence[Worker] = (), *, server: str = ""
    ) -> None:
        """Begin; nothing is read before somebody looks.

        Args:
            pipelines: whose records are shown; the first one says how.
            workers: that run here, a pipeline each; none: only others are shown.
            server: what this process is called; the name of its first worker where it is empty.
        """
        first = pipelines[0]
        self._pipelines = {pipeline.name: pipeline for pipeline in pipelines}
        self._options, self._token = first.console, str(first.admin.token or "")
        self._properties = first.kafka.client_properties()
        self._server = server or worker_name(first)
        by_name = {pipeline.name: pipeline for pipeline in pipelines}
        self._workers = [(worker, worker_name(by_name[worker.line.name])) for worker in workers]
        self._samplers: list[Sampler] = []
        self._world, self._past = World(), World()
        self._reader: SnapshotReader | None = None
        self._reading_since_s = 0.0
        self._tail: Tail | None = None
        self._writer: SnapshotWriter | None = None
        self._trouble = ""  # why others cannot be heard
        self._looked_s = self._looked_at_records_s = -1e9
        self._searching = threading.BoundedSemaphore(1)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._files = {path.name: path.read_bytes() for path in sorted(_FOLDER.iterdir())}
        self._answers: dict[str, Callable[[Query], Any]] = {
            "state": self._state,
            "history": self._history,
            "alerts": lambda query: self._records(query, "alerts"),
            "letters": lambda query: self._records(query, "letters"),
            "entity": self._entity,
            "models": self._models,
        }
        self._thread = threading.Thread(target=self._run, name="console", daemon=True)
        self._thread.start()

    def answer(self, request: Request) -> Answer | None:
        """The page, its files and what it asks for; None: that is not ours."""
        if request.path == "/":
            return self._file("page.html")
        if request.path.startswith(_API):
            return self._asked(request)
        if request.path.startswith("/console/"):
            return self._file(request.path.removeprefix("/console/"))
        return None

    def close(self) -> None:
        """Tell the others that the workers of this process end."""
        self._stop.set()
        self._thread.join(3.0)
        with self._lock:
            self._rest()
        if self._writer is not None:
            for worker, name in self._workers:
                self._writer.leave(worker.line.name, name)

    def _file(self, name: str) -> Answer:
        body = self._files.get(name)
        if body is None:
            return Answer(404, b"not here\n")
        kind = _KINDS.get(Path(name).suffix, "application/octet-stream")
        return Answer(200, body, f"{kind}; charset=utf-8", headers=_PAGE_HEADERS)

    def _asked(self, request: Request) -> Answer:
        if (why := self._refused(request)) is not None:
            return _json(401, {"error": why, "has_token": bool(self._token)})
        answer = self._answers.get(request.path.removeprefix(_API))
        if answer is None:
            return _json(404, {"error": f"found here: {', '.join(self._answers)}"})
        try:
            return _json(200, answer(dict(parse_qsl(request.query, max_num_fields=8))))
        except (ValueError, EntityError) as error:
            return _json(400, {"error": str(error)})
        except KafkaException as error:
            why = error.args[0].str() if error.args else str(error)
            return _json(503, {"error": f"Kafka does not answer: {why}"})
        except (RegistryError, SchemaError) as error:
            return _json(503, {"error": str(error)})

    def _refused(self, request: Request) -> str | None:
        """Why somebody may not look; None: they may.

        A request from this host must also name this host: a page from elsewhere, whose name was made to lead
        here, names its own.
        """
        if self._options.readers == "anyone" or (_is_here(request.peer) and _names_us(request.host)):
            return None
        kind, _, shown = request.authorization.partition(" ")
        is_right = hmac.compare_digest(shown.strip().encode(), self._token.encode())
        if self._token and kind.lower() == "bearer" and is_right:
            return None
        return _WRONG_TOKEN if self._token else _NO_TOKEN

    def _state(self, _: Query) -> dict[str, Any]:
        self._look()
        now_s = time.monotonic()
        return {
            "now_ms": time.time_ns() // 1_000_000,
            "server": self._server,
            "topic": self._options.topic,
            "trouble": "" if self._is_listening() else self._trouble,
            "is_listening": self._is_listening(),
            "stale_ms": STALE_MS,
            "gone_ms": GONE_MS,
            "readable": sorted(self._pipelines),
            "can_change": bool(self._token),
            "pipelines": self._world.state(now_s * 1000, self._pipelines),
        }

    def _is_listening(self) -> bool:
        """Whether who is silent may only not have been heard yet."""
        reader = self._reader
        is_new = time.monotonic() - self._reading_since_s < _READ_BACK_S
        return reader is not None and is_new and not reader.is_caught_up

    def _history(self, _: Query) -> dict[str, Any]:
        self._look()
        wall_ms = time.time_ns() / 1e6
        return {"points": self._world.history(wall_ms, time.monotonic() * 1000)}

    def _records(self, query: Query, kind: str) -> dict[str, Any]:
        tail = self._open_tail()
        newest: Newest = getattr(tail, kind)
        after, at_most = _number(query, "after", 0), min(_number(query, "limit", 200), KEPT)
        if after > newest.last:  # of another reading: numbers began anew
            after = 0
        rows = newest.after(after, query.get("pipeline", ""), at_most)
        return {
            "rows": rows,
            "last": newest.last,
            "reading": id(tail) % 1_000_000_007,
            "skipped": newest.skipped,
            "is_caught_up": tail.is_caught_up,
            "trouble": {name: why for name, why in tail.trouble.items() if why},
        }

    def _entity(self, query: Query) -> dict[str, Any]:
        pipeline = self._named(query)
        if not self._searching.acquire(blocking=False):
            raise ValueError("another search is under way: try again in a few seconds")
        try:
            return entity(pipeline, query.get("key", ""), within_s=DEEP_S if "deep" in query else LOOK_S)
        finally:
            self._searching.release()

    def _models(self, query: Query) -> dict[str, Any]:
        return models(self._named(query))

    def _named(self, query: Query) -> Pipeline:
        pipeline = self._pipelines.get(query.get("pipeline", ""))
        if pipeline is None:
            raise ValueError(
                f"expected pipeline= and one of {', '.join(self._pipelines)}: others are not read here"
            )
        return pipeline

    def _look(self) -> None:
        """Somebody looks: read what others say."""
        with self._lock:
            self._looked_s = time.monotonic()
            if self._options.topic is not None and self._reader is None and not self._stop.is_set():
                self._past, self._reading_since_s = World(), time.monotonic()
                self._reader = SnapshotReader(
                    self._properties, self._options.topic, self._heard, self._world.left
                )

    def _open_tail(self) -> Tail:
        with self._lock:
            self._looked_at_records_s = time.monotonic()
            if self._tail is None:
                self._tail = Tail(self._pipelines)
            return self._tail

    def _heard(self, snapshot: Snapshot, age_ms: int, is_old: bool) -> None:
        at_ms = time.monotonic() * 1000 - age_ms
        if is_old:
            self._past.tick(at_ms)
            self._past.take(snapshot, at_ms)
        else:
            self._world.take(snapshot, at_ms)

    def _run(self) -> None:
        log = structlog.get_logger()
        due_s = time.monotonic()
        while not self._stop.is_set():
            try:
                self._turn()
            except Exception as error:  # the console is no reason to stop a worker
                log.warning("the console has failed, and goes on", exc_info=error)
                self._stop.wait(10.0)
            due_s = max(due_s + _EVERY_S, time.monotonic())
            self._stop.wait(due_s - time.monotonic())

    def _turn(self) -> None:
        """Once a second: say how we are, and remember how all are."""
        now_s = time.monotonic()
        is_looked_at = now_s - self._looked_s < _LOOKED_S
        topic = self._options.topic
        if topic is not None and self._workers and self._writer is None:
            self._trouble = create_console_topic(self._properties, topic)
            self._writer = SnapshotWriter(self._properties, topic)
        if self._writer is not None or is_looked_at:
            if not self._samplers:
                self._samplers = [Sampler(worker, name) for worker, name in self._workers]
            for sampler in self._samplers:
                snapshot = sampler.take(now_s)
                self._world.take(snapshot, now_s * 1000)
                if self._writer is not None:
                    self._writer.write(snapshot)
        with self._lock:
            if not is_looked_at:
                self._rest()
                return
            reader = self._reader
            if self._tail is not None and now_s - self._looked_at_records_s > _LOOKED_S:
                self._tail.close()
                self._tail = None
        if reader is not None:
            self._trouble = reader.trouble or (self._writer.trouble if self._writer else "")
            if not reader.is_caught_up and now_s - self._reading_since_s < _READ_BACK_S:
                return
        self._world.adopt(self._past)
        self._world.tick(now_s * 1000)

    def _rest(self) -> None:
        """Nobody looks any more."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        if self._tail is not None and (
            self._stop.is_set() or time.monotonic() - self._looked_at_records_s > _LOOKED_S
        ):
            self._tail.close()
            self._tail = None


def _number(query: Query, name: str, otherwise: int) -> int:
    text = query.get(name, "")
    return int(text) if text.isdecimal() and len(text) < 16 else otherwise


def _is_here(peer: str) -> bool:
    try:
        return ipaddress.ip_address(peer.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _names_us(host: str) -> bool:
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    return name.lower() in _LOCAL_NAMES


def _json(status: int, body: Any) -> Answer:
    return Answer(status, json.dumps(body, separators=(",", ":")).encode(), "application/json")
