"""A small client of a Confluent-compatible schema registry, on the standard library alone."""

import base64
import http.client
import json
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from schemas.schema import Schema, parse_schema
from schemas.tree import SchemaError

_MEDIA_TYPE: Final = "application/vnd.schemaregistry.v1+json"
_MAX_ANSWER_BYTES: Final = 4 << 20
_MAX_UNKNOWN: Final = 10_000  # ids of garbage must not fill the memory
_AT_ONCE: Final = 16  # requests under way together
_Answer = tuple[int, Any]  # HTTP status and parsed body


class RegistryError(Exception):
    """The registry cannot be used now; the message is one line without the password."""


class UnknownSchemaError(Exception):
    """The registry answers, and has no schema of that id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrySettings:
    """Where the registry is and how to talk to it."""

    url: str  # http(s)://host:port/path; user:password@ is taken as basic auth
    username: str = ""
    password: str = field(default="", repr=False)
    ca_file: str | None = None  # PEM; default: the system's
    cert_file: str | None = None  # PEM, for mutual TLS
    key_file: str | None = None
    timeout_s: float = 2.0
    retry_pause_s: float = 0.2
    forget_unknown_s: float = 30.0  # an id that was not there is asked for again after this time


class Registry:
    """Schemas by id, kept for ever once they are known: an id never changes its meaning."""

    def __init__(self, settings: RegistrySettings) -> None:
        """Prepare; nothing is asked yet.

        Raises:
            RegistryError: not a usable URL or certificate.
        """
        parts = urllib.parse.urlsplit(settings.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise RegistryError(f"found registry URL {_public(settings.url)!r}, expected http:// or https://")
        self.url = _public(settings.url).rstrip("/")
        self._settings = settings
        self._headers = {"Accept": f"{_MEDIA_TYPE}, application/json"} | _authorization(settings, parts)
        self._opener = _opener(_tls(settings) if parts.scheme == "https" else None)
        self._schemas: dict[int, Schema | SchemaError] = {}
        self._unknown: dict[int, float] = {}  # id -> monotonic time of the answer
        self._lock = threading.Lock()

    def schema(self, schema_id: int) -> Schema:
        """Return the schema of an id.

        Raises:
            UnknownSchemaError: asked twice, and it is not there.
            SchemaError: it is there, and no use: not Avro, with references, or refused by the guard.
            RegistryError: no answer, or one that is none.
        """
        self.learn([schema_id])
        known = self._schemas.get(schema_id)
        if known is None:
            raise UnknownSchemaError(f"found schema id {schema_id}, which the registry does not know")
        if isinstance(known, SchemaError):
            raise known
        return known

    def learn(self, schema_ids: Iterable[int]) -> None:
        """Ask for all of these that are not known, some at a time, and for those not found once more.

        One after another, with a pause each, garbage in which every record names an id of its own would keep
        a worker busy for longer than its group waits for it.

        Raises:
            RegistryError: see `schema`.
        """
        with self._lock:
            now_s = time.monotonic()
            asked = sorted({i for i in schema_ids if i not in self._schemas and self._may_ask(i, now_s)})
            if not asked:
                return
            answers = self._ask_for(asked)
            # a producer may have registered it this instant, on another node of the registry: ask once more
            again = [i for i, found in answers.items() if _is_passing(found, 404)]
            if again:
                time.sleep(self._settings.retry_pause_s)
                answers |= self._ask_for(again)
            for schema_id, found in answers.items():
                self._note(schema_id, found)

    def register(self, subject: str, text: str, *, kind: str = "AVRO") -> int:
        """Register a schema's text under a subject and return its id; the same schema gets the same id again.

        Raises:
            RegistryError: no answer, or it was refused (an incompatible schema, missing rights).
        """
        path = f"/subjects/{urllib.parse.quote(subject, safe='')}/versions"
        body = {"schema": text} if kind == "AVRO" else {"schema": text, "schemaType": kind}
        status, answer = self._twice("POST", path, body)
        schema_id = answer.get("id") if isinstance(answer, dict) else None
        if status != 200 or not isinstance(schema_id, int):
            raise RegistryError(f"{self.url}: found {_story(status, answer)}, expected an id for {subject}")
        return schema_id

    def check(self) -> None:
        """Ask for the list of subjects.

        Raises:
            RegistryError: no answer, or not the rights to read.
        """
        status, answer = self._ask("GET", "/subjects", None)
        if status != 200 or not isinstance(answer, list):
            raise RegistryError(f"{self.url}: found {_story(status, answer)}, expected a list of subjects")

    def _may_ask(self, schema_id: int, now_s: float) -> bool:
        asked_s = self._unknown.get(schema_id)
        return asked_s is None or now_s - asked_s >= self._settings.forget_unknown_s

    def _ask_for(self, schema_ids: Sequence[int]) -> dict[int, _Answer | RegistryError]:
        def ask(schema_id: int) -> _Answer | RegistryError:
            try:
                return self._ask("GET", f"/schemas/ids/{schema_id}", None)
            except RegistryError as error:
                return error

        if len(schema_ids) == 1:
            return {schema_ids[0]: ask(schema_ids[0])}
        with ThreadPoolExecutor(min(_AT_ONCE, len(schema_ids))) as pool:
            return dict(zip(schema_ids, pool.map(ask, schema_ids), strict=True))

    def _note(self, schema_id: int, found: _Answer | RegistryError) -> None:
        if isinstance(found, RegistryError):
            raise found
        status, answer = found
        if status == 404:
            if len(self._unknown) >= _MAX_UNKNOWN:
                self._unknown.clear()
            self._unknown[schema_id] = time.monotonic()
            return
        if status != 200 or not isinstance(answer, dict) or not isinstance(answer.get("schema"), str):
            raise RegistryError(f"{self.url}: found {_story(status, answer)}, expected schema {schema_id}")
        try:
            self._schemas[schema_id] = _usable(answer)
        except SchemaError as error:
            self._schemas[schema_id] = error

    def _twice(self, method: str, path: str, body: Any) -> _Answer:
        try:
            found: _Answer | RegistryError = self._ask(method, path, body)
        except RegistryError as error:
            found = error
        if not _is_passing(found):
            assert not isinstance(found, RegistryError)
            return found
        time.sleep(self._settings.retry_pause_s)
        return self._ask(method, path, body)

    def _ask(self, method: str, path: str, body: Any) -> _Answer:
        data = None if body is None else json.dumps(body).encode()
        headers = self._headers | ({} if body is None else {"Content-Type": _MEDIA_TYPE})
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        try:
            with self._opener.open(request, timeout=self._settings.timeout_s) as reply:
                return reply.status, _body(reply.read(_MAX_ANSWER_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _body(error.read(_MAX_ANSWER_BYTES))
        except (OSError, ValueError, http.client.HTTPException) as error:  # refused, timed out, TLS, cut off
            raise RegistryError(f"{self.url}: found no answer ({error}), expected one") from error


def _is_passing(found: _Answer | RegistryError, *also: int) -> bool:
    """Whether another try may be answered otherwise."""
    return isinstance(found, RegistryError) or found[0] >= 500 or found[0] in {429, *also}


def _usable(answer: dict[str, Any]) -> Schema:
    kind = answer.get("schemaType", "AVRO")
    if kind != "AVRO":
        raise SchemaError(f"found a schema of type {kind}, expected AVRO")
    if answer.get("references"):
        raise SchemaError("found a schema with references to others, expected one that is whole")
    return parse_schema(answer["schema"])


def _body(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None


def _story(status: int, answer: Any) -> str:
    message = answer.get("message") if isinstance(answer, dict) else None
    return f"HTTP {status}" + (f" ({' '.join(str(message).split())[:200]})" if message else "")


def _public(url: str) -> str:
    """Return the URL without user and password."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _authorization(settings: RegistrySettings, parts: urllib.parse.SplitResult) -> dict[str, str]:
    username = settings.username or urllib.parse.unquote(parts.username or "")
    password = settings.password or urllib.parse.unquote(parts.password or "")
    if not username:
        return {}
    token = base64.b64encode(f"{username}:{password}".encode()).decode()
    return {"Authorization": f"Basic {token}"}


def _opener(context: ssl.SSLContext | None) -> urllib.request.OpenerDirector:
    """Return an opener that follows no redirect: it would carry the password to another host."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=context),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _tls(settings: RegistrySettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
        if settings.cert_file:
            context.load_cert_chain(settings.cert_file, settings.key_file)
    except (OSError, ssl.SSLError) as error:
        raise RegistryError(f"found unusable TLS files ({error}), expected PEM files") from error
    return context
