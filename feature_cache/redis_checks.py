"""What of a Redis makes it fit to hold rows, asked with no more rights than the store itself needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from feature_cache.redis_store import RedisStore
from feature_cache.store import StoreRefusedError

OLDEST = (7, 0)
_TRY = b"""
redis.call('SET', KEYS[1], ARGV[1], 'PX', 1000)
return redis.call('GET', KEYS[1])
"""


class UnfitError(RuntimeError):
    """This Redis may lose rows, or cannot do what is asked of it."""


def version(store: RedisStore) -> str:
    """Every server is new enough.

    Raises:
        UnfitError: one is not.
    """
    found = []
    for name, info in _info(store, b"server"):
        text = str(info.get("redis_version", "0"))
        if tuple(int(part) for part in text.split(".")[:2]) < OLDEST:
            raise UnfitError(f"{name}version {text}, expected 7.0 or newer")
        found.append(f"{name}{text}")
    return ", ".join(found)


def eviction(store: RedisStore) -> str:
    """No server throws rows away when memory is short. Rows have no expiry, so volatile policies spare them.

    Raises:
        UnfitError: one does.
    """
    found = []
    for name, info in _info(store, b"memory"):
        limit, policy = int(info.get("maxmemory", 0)), str(info.get("maxmemory_policy", ""))
        if limit and policy != "noeviction" and not policy.startswith("volatile-"):
            raise UnfitError(
                f"{name}maxmemory-policy is {policy}: it would evict rows, and nobody could tell"
            )
        found.append(f"{name}maxmemory {limit}, {policy}" if limit else f"{name}no maxmemory")
    return ", ".join(found)


def scripts(store: RedisStore) -> str:
    """A script may read and write a key such as ours; the key is gone within a second.

    Raises:
        UnfitError: it did something else.
    """
    if store.run(_TRY, [b"ps:{penstock-doctor}"], [b"works"]) != b"works":
        raise UnfitError("a script that writes a key and reads it again did not find it")
    return "run"


def persistence(store: RedisStore) -> str:
    """What becomes of the rows when the server restarts: a hint, as they can be made again from the topic.

    Raises:
        UnfitError: snapshots fail, which makes a server refuse writes.
    """
    found = []
    for name, info in _info(store, b"persistence"):
        if info.get("rdb_last_bgsave_status", "ok") != "ok":
            raise UnfitError(f"{name}the last snapshot failed: see the server's log, is its disk full?")
        how = "append-only file" if info.get("aof_enabled") else _snapshots(store)
        found.append(f"{name}{how}")
    return ", ".join(found)


def _snapshots(store: RedisStore) -> str:
    try:
        schedule = store.ask(b"", b"CONFIG", b"GET", b"save")
    except StoreRefusedError:
        return "snapshots perhaps (their schedule takes the right +config|get)"
    save = next((value for key, value in dict(_pairs(schedule)).items() if key == b"save"), b"")
    if not save:
        return "none: after a restart of Redis, rows are made again from the topic"
    return f"snapshots, save {save.decode()}"


def _pairs(answer: Any) -> list[tuple[bytes, bytes]]:
    """CONFIG GET's answer as the client gives it: a mapping, or names and values in turn."""
    pairs = (
        list(answer.items())
        if isinstance(answer, dict)
        else list(zip(answer[::2], answer[1::2], strict=True))
    )
    return [(_bytes(name), _bytes(value)) for name, value in pairs]


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _info(store: RedisStore, section: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Each master's name, empty if there is only one, and what it says of itself."""
    nodes = store.masters()
    return [(f"{node.name} " if node else "", store.ask(b"", b"INFO", section, node=node)) for node in nodes]


# What is examined, how, and what to do when it fails.
CHECKS: tuple[tuple[str, Callable[[RedisStore], str], str], ...] = (
    ("store version", version, "take Redis 7 or newer, or Valkey"),
    ("store eviction", eviction, "CONFIG SET maxmemory-policy noeviction, and in the server's file"),
    ("store scripts", scripts, "allow EVAL, EVALSHA, GET and SET on ~ps:*; docs/security.md has the line"),
    ("store persistence", persistence, "mend the server's disk or its save setting"),
)
