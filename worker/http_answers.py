"""What is asked for by path, and what is said: JSON in, JSON out, whatever the server around it is."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from worker.asks import RETRY_AFTER_S, Ask, EventsAsk, NotNowError, NotPossibleError
from worker.desk import Desk
from worker.json_events import Refusal
from worker.open_inference import about_model, about_server, read_tensors, say_tensors, serving_version

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One answer."""

    status: int
    content: Any
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        """The content as JSON; numbers that are not finite, which JSON does not have, are null."""
        try:
            text = json.dumps(self.content, allow_nan=False, ensure_ascii=False)
        except ValueError:
            text = json.dumps(_finite(self.content), allow_nan=False, ensure_ascii=False)
        return text.encode()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value


def wrong(status: int, text: str, **more: str) -> Said:
    """An answer that is none."""
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {}
    return Said(status=status, content={"error": text, **more}, headers=headers)


async def respond(
    desk: Desk, is_ready: Callable[[], bool], method: str, path: str, body: bytes, now_us: int
) -> Said:
    """The answer to a request that may be answered."""
    allowed = "POST" if path == "/score" or path.endswith("/infer") else "GET"
    handled = await _route(desk, is_ready, method == allowed, path, body, now_us)
    if handled is None:
        return wrong(404, f"found {_shown(path)}, expected /score or a path of the Open Inference Protocol")
    if method != allowed:
        said = wrong(405, f"found {method}, expected {allowed}")
        return Said(status=405, content=said.content, headers={"Allow": allowed})
    return handled


def _shown(path: str) -> str:
    return repr(path if len(path) < 80 else f"{path[:80]}...")


async def _route(  # noqa: PLR0911 a line a path
    desk: Desk, is_ready: Callable[[], bool], is_allowed: bool, path: str, body: bytes, now_us: int
) -> Said | None:
    """None: there is no such path; where the method is another, nothing is done."""
    if path == "/score":
        return await _score(desk, body, now_us) if is_allowed else wrong(405, "")
    if path == "/v2":
        return Said(status=200, content=about_server())
    if path == "/v2/health/live":
        return Said(status=200, content={"live": True})
    if path == "/v2/health/ready":
        ready = is_ready() and not desk.inbox.is_closed
        return Said(status=200 if ready else 503, content={"ready": ready})
    parts = path.split("/")[1:]
    if parts[:2] != ["v2", "models"] or len(parts) < 3:
        return None
    name, rest = parts[2], parts[3:]
    version = None
    if rest[:1] == ["versions"] and len(rest) > 1:
        version, rest = rest[1], rest[2:]
    if rest not in ([], ["ready"], ["infer"]):
        return None
    return await _model(desk, name, version, "".join(rest), is_allowed, body)


async def _model(
    desk: Desk, name: str, version: str | None, action: str, is_allowed: bool, body: bytes
) -> Said:
    assert desk.line.router is not None  # the file has a model, or no http
    try:
        model = serving_version(desk.line.router.serving, name, version)
        if action == "ready":
            ready = not desk.inbox.is_closed
            return Said(status=200 if ready else 503, content={"name": name, "ready": ready})
        if action == "":
            return Said(status=200, content=about_model(desk.line.router.serving, model))
        if not is_allowed:
            return wrong(405, "")
        request = _json(body)
        ask = read_tensors(request, model, version, desk.max_rows)
        used, outputs = await _ask(desk, ask, desk.inbox.put, ask.future)
        return Said(status=200, content=say_tensors(request, name, used, outputs))
    except (NotPossibleError, NotNowError) as error:
        return _failed(error)


def _failed(error: NotPossibleError | NotNowError) -> Said:
    return wrong(503 if isinstance(error, NotNowError) else error.status, str(error))


def _json(body: bytes) -> Any:
    """What the body says.

    Raises:
        NotPossibleError: it is no JSON.
    """

    def refuse(name: str) -> None:
        raise NotPossibleError(f"found {name}, expected JSON, which has no such number")

    try:
        return json.loads(body, parse_constant=refuse)
    except RecursionError as error:
        raise NotPossibleError("found JSON nested too deep, expected an event") from error
    except UnicodeDecodeError as error:
        raise NotPossibleError("found bytes that are no text, expected JSON in UTF-8") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise NotPossibleError(f"found no JSON at {where} ({error.msg}), expected JSON") from error
    except ValueError as error:  # a number of more digits than Python reads
        raise NotPossibleError("found a number of too many digits, expected JSON") from error


async def _score(desk: Desk, body: bytes, now_us: int) -> Said:
    try:
        request = _json(body)
        rows = request if isinstance(request, list) else [request]
        if not 0 < len(rows) <= desk.max_rows:
            raise NotPossibleError(
                f"found {len(rows)} events, expected 1 to {desk.max_rows} (batching.max_rows)"
            )
        events, refused = await desk.events.read(rows, now_us)
        told: dict[int, dict[str, Any] | Refusal] = dict(refused)
        if len(events):
            ask = EventsAsk(events=events)
            said = await _ask(desk, ask, lambda _: desk.reader.submit(ask), ask.future)
            told.update(zip(events.records.offset.tolist(), said, strict=True))
    except (NotPossibleError, NotNowError) as error:
        return _failed(error)
    answers = [told[place] for place in range(len(rows))]
    if isinstance(request, list):
        said_of = [_why(each) if isinstance(each, Refusal) else each for each in answers]
        return Said(status=200, content={"results": said_of})
    (one,) = answers
    if isinstance(one, Refusal):
        return Said(status=400, content=_why(one))
    return Said(status=200, content=one)


def _why(refusal: Refusal) -> dict[str, str]:
    return {"error": refusal.detail, "reason": refusal.reason, "stage": refusal.stage}


async def _ask(desk: Desk, ask: Ask, put: Callable[[Any], None], future: Future[T]) -> T:
    """Wait for an answer as long as the file says.

    Raises:
        NotNowError, NotPossibleError: why there is none.
    """
    desk.inbox.admit(ask)
    put(ask)
    try:
        async with asyncio.timeout(desk.options.timeout_ms / 1000):
            return await desk.told.wait(future)
    except TimeoutError as error:
        said = f"no answer within {desk.options.timeout_ms} ms (http.timeout)"
        raise NotPossibleError(said, 504) from error
