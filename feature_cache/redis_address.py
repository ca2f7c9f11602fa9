"""Addresses of Redis: one server, a cluster, or servers watched by Sentinel; and clients made for them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.retry import Retry
from redis.sentinel import Sentinel

from feature_cache.resp import Packer

FORMS = (
    "redis://HOST:PORT/DB, redis+cluster://HOST:PORT,... or redis+sentinel://HOST:PORT,.../NAME/DB, "
    "with rediss for TLS, or memory://"
)
TIMEOUT_S = 0.25
_ADDRESS = re.compile(r"redis(?P<tls>s?)(\+(?P<kind>cluster|sentinel))?://(?P<rest>.*)", re.DOTALL)
_HOST = re.compile(r"(?P<host>\[[0-9a-fA-F:.%]+\]|[^\[\]:,/\s]+)(:(?P<port>[0-9]{1,5}))?")
_FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
# As redis-py names them; an option that is not here could change what bytes come back.
_OPTIONS = frozenset(
    {*_FILES, "ssl_cert_reqs", "ssl_check_hostname", "sentinel_username", "sentinel_password", "timeout"}
)
_STARS = "**********"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisAddress:
    """Where the rows are kept, and how to get in."""

    kind: str  # "server", "cluster" or "sentinel"
    nodes: tuple[tuple[str, int], ...]  # the servers, or the sentinels
    service: str = ""  # the name under which sentinels know the master
    database: int = 0
    is_tls: bool = False
    timeout_s: float = TIMEOUT_S  # of silence, not of a whole answer
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    tls: Mapping[str, Any] = field(default_factory=dict)  # redis-py's ssl_ options

    def masked(self, text: str) -> str:
        """The text without the passwords of this address."""
        for secret in (self.password, self.sentinel_password):
            text = text.replace(secret, _STARS) if secret else text
        return text


def parse_address(address: str) -> RedisAddress:
    """Take an address apart.

    Everything between the scheme and the last @ is user and password, so a password needs no percent escapes
    (but a percent sign is written %25). Options follow a question mark: `timeout` (250ms), those of TLS as
    redis-py names them (`ssl_ca_certs`, `ssl_ca_path`, `ssl_certfile`, `ssl_keyfile`, `ssl_cert_reqs`,
    `ssl_check_hostname`), and `sentinel_username` and `sentinel_password`, where the sentinels ask for them.

    Raises:
        ValueError: what is wrong, without any part that may be secret.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ValueError(f"expected {FORMS}")
    kind = match["kind"] or "server"
    user, has_user, tail = match["rest"].rpartition("@")
    where, _, query = tail.partition("?")
    hosts, _, path = where.partition("/")
    options = _options(query, is_tls=bool(match["tls"]), kind=kind)
    service, database = _path(path, kind)
    nodes = tuple(_node(host, 26379 if kind == "sentinel" else 6379) for host in hosts.split(","))
    if kind == "server" and len(nodes) > 1:
        raise ValueError("found several servers, expected one, or redis+cluster:// or redis+sentinel://")
    name, has_password, password = user.partition(":")
    tls: dict[str, Any] = {key: value for key, value in options.items() if key.startswith("ssl_")}
    if "ssl_check_hostname" in tls:
        tls["ssl_check_hostname"] = tls["ssl_check_hostname"].lower() not in ("false", "no", "0")
    return RedisAddress(
        kind=kind,
        nodes=nodes,
        service=service,
        database=database,
        is_tls=bool(match["tls"]),
        timeout_s=_seconds(options["timeout"]) if "timeout" in options else TIMEOUT_S,
        username=unquote(name) if has_user and name else None,
        password=unquote(password) if has_password else None,
        sentinel_username=options.get("sentinel_username"),
        sentinel_password=options.get("sentinel_password"),
        tls=tls,
    )


def connect(address: RedisAddress, timeout_s: float) -> Any:
    """A client of this address that never tries again by itself; one of a cluster asks it for its shape.

    Args:
        timeout_s: how long a server may be silent.

    Raises:
        FileNotFoundError: a file of the TLS options is not there.
        redis.RedisError, RedisClusterException: no node of a cluster answered.
    """
    for name in _FILES:
        if name in address.tls and not Path(address.tls[name]).exists():
            raise FileNotFoundError(f"{name}: no file {address.tls[name]}")
    login: dict[str, Any] = {"username": address.username, "password": address.password}
    common: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "socket_keepalive": True,
        # RESP 2 needs no greeting, and so no rights beyond those of the commands sent.
        "protocol": 2,
        "driver_info": None,
    }
    if address.is_tls:
        # A cluster's client logs in before it calls this, the others instead of it.
        greeting = _greet if address.kind == "cluster" else _log_in_and_greet
        common |= {"ssl": True, "redis_connect_func": greeting, **address.tls}
    once = Retry(NoBackoff(), 0)
    if address.kind == "cluster":
        return redis.RedisCluster(
            startup_nodes=[ClusterNode(*node) for node in address.nodes],  # type: ignore[no-untyped-call]
            require_full_coverage=False,  # the lanes of the shards that are there can go on
            retry=once,
            **login,
            **common,
        )
    if address.kind == "sentinel":
        sentinels = Sentinel(  # type: ignore[no-untyped-call]
            address.nodes,
            sentinel_kwargs={
                "username": address.sentinel_username,
                "password": address.sentinel_password,
                "retry": once,
                **common,
            },
            db=address.database,
            retry=once,
            **login,
            **common,
        )
        client = sentinels.master_for(address.service)  # type: ignore[no-untyped-call]
    else:
        (host, port), *_ = address.nodes
        client = redis.Redis(host=host, port=port, db=address.database, retry=once, **login, **common)
    # Before the first connection is made. A cluster's client takes no such setting.
    client.connection_pool.connection_kwargs["command_packer"] = Packer()
    return client


def _greet(connection: Any) -> None:
    """Ask for any answer, to read what a server with TLS 1.3 sends after the handshake: session tickets.

    Unread, they look to redis-py like answers that nobody waited for, and it gives the connection up.
    """
    connection.send_command("PING", check_health=False)
    with suppress(redis.ResponseError):  # no right to ask is an answer too
        connection.read_response()


def _log_in_and_greet(connection: Any) -> None:
    connection.on_connect()
    _greet(connection)


def _options(query: str, *, is_tls: bool, kind: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name, value in options.items():
        if name not in _OPTIONS:
            raise ValueError(f"found the option {name}, expected one of {', '.join(sorted(_OPTIONS))}")
        if not value:
            raise ValueError(f"found nothing after {name}=, expected a value")
        if name.startswith("ssl_") and not is_tls:
            raise ValueError(f"found {name} without TLS, expected an address that begins with rediss")
        if name.startswith("sentinel_") and kind != "sentinel":
            raise ValueError(f"found {name}, expected it with redis+sentinel:// only")
    if options.get("ssl_cert_reqs", "required") not in ("required", "none"):
        raise ValueError("found another ssl_cert_reqs, expected required or none")
    return options


def _path(path: str, kind: str) -> tuple[str, int]:
    parts = [unquote(part) for part in path.split("/") if part]
    service = ""
    if kind == "sentinel":
        if not parts:
            raise ValueError("found no name of a master, expected redis+sentinel://HOST:PORT/NAME/DB")
        service, *parts = parts
    if len(parts) > 1 or (parts and not parts[0].isdecimal()):
        raise ValueError(f"found /{path} after the hosts, expected the number of a database")
    database = int(parts[0]) if parts else 0
    if kind == "cluster" and database:
        raise ValueError(f"found database {database}, expected none: a cluster has only database 0")
    return service, database


def _node(text: str, port: int) -> tuple[str, int]:
    match = _HOST.fullmatch(text)
    if match is None or int(match["port"] or port) > 65535:
        raise ValueError("found a host that is none, expected HOST:PORT (and user and password before an @)")
    return match["host"].strip("[]"), int(match["port"] or port)


def _seconds(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,6})(ms|s)", text)
    if match is None or not int(match[1]):
        raise ValueError(f"found timeout={text}, expected a duration such as 250ms or 1s")
    return int(match[1]) / (1000 if match[2] == "ms" else 1)
