"""The server of scores over HTTP: a thread of its own, within limits of number, size and time."""

from __future__ import annotations

import asyncio
import hmac
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog

from worker.desk import Desk
from worker.exits import Exit, StopWorker
from worker.http_answers import Said, respond, wrong
from worker.http_types import is_loopback

MAX_CONNECTIONS = 512  # at a time; a further one is closed at once
IDLE_S = 75.0  # a connection without a request is closed after this long
REQUEST_S = 10.0  # for a request to be here whole, however slowly it comes
STOP_S = 2.0  # for answers that are under way when the worker stops
_SWEEP_S = 1.0
_NO_LIBRARY = "http needs the extra of the same name: pip install 'penstock[http]'"
_OPEN_PATHS = ("/v2/health/live", "/v2/health/ready")


class HttpServer:
    """Serves one desk until it is closed."""

    def __init__(self, desk: Desk, is_ready: Callable[[], bool]) -> None:
        """Listen, and answer from now on.

        Args:
            desk: what answers.
            is_ready: whether the loop reads every lane that it was given.

        Raises:
            StopWorker: the address cannot be listened on, or the library is not installed.
        """
        try:
            import aiohttp.web  # noqa: F401 only here: who does not ask for it does not wait for it
        except ImportError as error:
            raise StopWorker(Exit.CONFIG, _NO_LIBRARY) from error
        self._desk = desk
        self._is_ready = is_ready
        self._loop = asyncio.new_event_loop()
        self._begun: dict[Any, float] = {}  # by connection, since when it has no whole request
        self._server: Any = None
        self._listening: Any = None
        options = desk.options
        self._thread = threading.Thread(target=self._run, name=f"http {desk.line.name}", daemon=True)
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        except OSError as error:
            self._end_loop()
            raise StopWorker(
                Exit.CONFIG,
                f"cannot listen on {options.host}:{options.port} ({error.strerror}): set http.port to "
                f"another, 0 takes any free one",
            ) from error

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listening.sockets[0].getsockname()[1])

    @property
    def name(self) -> str:
        """Of the thread that waits for its end."""
        return f"http of {self._desk.line.name}"

    def run(self, stop: threading.Event) -> None:
        """Wait for the end of the loop, which answers what it has taken, and close."""
        stop.wait()
        give_up_s = time.monotonic() + STOP_S
        while not self._desk.inbox.is_closed and time.monotonic() < give_up_s:
            time.sleep(0.02)
        self.close()

    def close(self) -> None:
        """Let answers under way end, close every connection, and end the threads."""
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result(STOP_S * 2)
        self._desk.reader.close()
        self._end_loop()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_S)

    async def _listen(self) -> None:
        from aiohttp import web

        silent = logging.getLogger("penstock.http")  # a request that breaks off is no news
        silent.disabled = True
        self._server = web.Server(
            self._handle,
            request_factory=self._request,
            keepalive_timeout=IDLE_S,
            logger=silent,
            access_log=None,
            auto_decompress=False,
        )
        options = self._desk.options
        self._listening = await self._loop.create_server(
            self._connection, options.host, options.port, backlog=MAX_CONNECTIONS
        )
        self._sweeping = self._loop.create_task(self._sweep())

    async def _shut(self) -> None:
        self._listening.close()
        self._server.pre_shutdown()
        await self._server.shutdown(STOP_S)
        self._sweeping.cancel()

    def _connection(self) -> Any:
        if len(self._server.connections) >= MAX_CONNECTIONS:
            return _Refused()
        return self._server()

    def _request(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> Any:
        from aiohttp import web

        limit = self._desk.options.max_body_bytes
        return web.BaseRequest(message, payload, protocol, writer, task, self._loop, client_max_size=limit)

    async def _sweep(self) -> None:
        """Close connections whose requests do not come to their end: the library waits for ever."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            now_s, open_now = self._loop.time(), self._server.connections
            self._begun = {each: self._begun.get(each, now_s) for each in open_now}
            for each in open_now:
                if now_s - self._begun[each] > REQUEST_S:
                    each.force_close()

    async def _handle(self, request: Any) -> Any:
        from aiohttp import web

        began_s = time.perf_counter()
        said = await self._said(request)
        self._desk.line.meter.answered(_path(request.path), said.status, time.perf_counter() - began_s)
        self._begun[request.protocol] = self._loop.time() + IDLE_S
        headers = {
            "Server": "penstock",
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            **said.headers,
        }
        response = web.Response(
            status=said.status, body=said.body(), headers=headers, content_type="application/json"
        )
        if said.status in (408, 413) or self._desk.inbox.is_closed:
            response.force_close()  # what is left of the body is not worth reading
        return response

    async def _said(self, request: Any) -> Said:
        refused = self._refusal(request)
        if refused is not None:
            return refused
        self._begun[request.protocol] = self._loop.time() + self._desk.options.timeout_ms / 1000
        try:
            body = await self._body(request) if request.method == "POST" else b""
        except TimeoutError:
            return wrong(408, f"found no whole request after {REQUEST_S:g} s")
        if body is None:
            limit = self._desk.options.max_body_bytes
            return wrong(413, f"found a longer body, expected at most {limit} bytes (http.max_body_bytes)")
        try:
            return await respond(
                self._desk, self._is_ready, request.method, request.path, body, time.time_ns() // 1000
            )
        except Exception as error:
            structlog.get_logger().error("a request failed", kind=type(error).__name__)
            return wrong(500, "the request could not be computed")

    async def _body(self, request: Any) -> bytes | None:
        """The whole body; None: it is too long."""
        from aiohttp import web

        if (request.content_length or 0) > self._desk.options.max_body_bytes:
            return None
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        try:
            async with asyncio.timeout(REQUEST_S):
                return bytes(await request.read())
        except web.HTTPRequestEntityTooLarge:
            return None

    def _refusal(self, request: Any) -> Said | None:
        """Why whoever asks gets no answer."""
        token = self._desk.options.token
        if request.path not in _OPEN_PATHS:
            if token is None:
                if not _names_this_host(request.headers.get("Host", "")):
                    return wrong(421, "found another host's name in the header Host, expected localhost")
            elif not _has_token(request.headers.get("Authorization", ""), token):
                said = wrong(401, "expected the header `Authorization: Bearer TOKEN` with that of http.token")
                return Said(status=401, content=said.content, headers={"WWW-Authenticate": "Bearer"})
        if request.headers.get("Content-Encoding", "identity") != "identity":
            return wrong(415, "found a Content-Encoding, expected the body as it is")
        return None


def _path(path: str) -> str:
    """One of few names for a path, as metrics have it."""
    return "score" if path == "/score" else "infer" if path.endswith("/infer") else "other"


def _names_this_host(host: str) -> bool:
    """Whether a page of another site, whose name leads here, is not behind a request."""
    name = host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
    return is_loopback(name)


def _has_token(said: str, token: str) -> bool:
    kind, _, shown = said.partition(" ")
    is_right = hmac.compare_digest(shown.strip().encode("utf-8", "surrogateescape"), token.encode())
    return is_right and kind.lower() == "bearer"


class _Refused:
    """A connection more than there may be."""

    def connection_made(self, transport: Any) -> None:
        transport.abort()

    def connection_lost(self, _: Exception | None) -> None:
        """It is gone."""
