"""The durable copy of rows in Redis: one value per row, one MGET and one atomic script per lane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from feature_cache.store import NOTHING, LaneMeta, StoreUnavailableError

# A hash tag per lane keeps a lane's keys in one Redis Cluster slot: one MGET, one script.
# The meta's field name cannot be an entity: entities are appended after a second colon.
_KEYS_PER_MGET = 1000  # an MGET of 1,000 rows blocks the server for about a millisecond

_TAKE = """
local known = redis.call('GET', KEYS[1])
local rest = ARGV[1]
local epoch = 0
if known then
  local at = string.find(known, ' ', 1, true)
  epoch = tonumber(string.sub(known, 1, at - 1))
  rest = string.sub(known, at + 1)
end
local taken = string.format('%d %s', epoch + 1, rest)
redis.call('SET', KEYS[1], taken)
return taken
"""

_WRITE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
for i = 2, #KEYS do redis.call('SET', KEYS[i], ARGV[i + 1]) end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""


class RedisStore:
    """Rows in Redis 7 or Valkey; short timeouts, so that a dead server is an error and not a stall."""

    def __init__(self, url: str, *, timeout_s: float = 1.0) -> None:
        # One retry, also of the scripts: a `take` sent twice raises the epoch twice, which is harmless, and a
        # `write` sent twice compares unequal the second time, which Lanes.write looks into.
        self._redis: redis.Redis = redis.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(ExponentialWithJitterBackoff(base=0.01, cap=0.1), 1),
        )
        self._take = self._redis.register_script(_TAKE)
        self._write = self._redis.register_script(_WRITE)

    def take(self, lane: str, *, generation: int) -> LaneMeta:
        fresh = LaneMeta(epoch=0, generation=generation, watermark=NOTHING).encode().split(b" ", 1)[1]
        return LaneMeta.decode(cast("bytes", _call(self._take, keys=[_meta_key(lane)], args=[fresh])))

    def meta(self, lane: str) -> LaneMeta | None:
        stored = cast("bytes | None", _call(self._redis.get, _meta_key(lane)))
        return None if stored is None else LaneMeta.decode(stored)

    def read(self, lane: str, keys: Sequence[bytes]) -> tuple[LaneMeta | None, list[bytes | None]]:
        prefix = _prefix(lane)
        rows: list[bytes | None] = []
        stored: bytes | None = None
        for start in range(0, max(len(keys), 1), _KEYS_PER_MGET):
            names = [prefix + key for key in keys[start : start + _KEYS_PER_MGET]]
            first, *found = cast("list[bytes | None]", _call(self._redis.mget, [_meta_key(lane), *names]))
            if start and first != stored:  # written between two chunks: not one instant any more
                return self.read(lane, keys)
            stored = first
            rows += found
        return (None if stored is None else LaneMeta.decode(stored)), rows

    def write(
        self, lane: str, expected: LaneMeta, new: LaneMeta, keys: Sequence[bytes], rows: Sequence[bytes]
    ) -> bool:
        prefix = _prefix(lane)
        names = [_meta_key(lane), *(prefix + key for key in keys)]
        return bool(_call(self._write, keys=names, args=[expected.encode(), new.encode(), *rows]))

    def ping(self) -> str:
        info = cast("dict[str, Any]", _call(self._redis.info, "server"))
        return f"Redis {info.get('redis_version', 'of unknown version')}"

    def close(self) -> None:
        self._redis.close()


def _meta_key(lane: str) -> bytes:
    return f"ps:{{{lane}}}".encode()


def _prefix(lane: str) -> bytes:
    return f"ps:{{{lane}}}:".encode()


# Answers of a server that cannot serve now; anything else it refuses is a mistake of ours.
_NOT_NOW = ("BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "OOM", "READONLY", "TRYAGAIN")


def _call(command: Any, *args: Any, **kwargs: Any) -> Any:
    """Run a command; a server that is away or cannot serve is one error, whatever the reason."""
    try:
        return command(*args, **kwargs)
    except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
        raise StoreUnavailableError(
            f"Redis did not answer ({type(error).__name__}: {error}): is state.store right, is it running?"
        ) from error
    except (redis.exceptions.OutOfMemoryError, redis.exceptions.ReadOnlyError) as error:
        raise StoreUnavailableError(f"Redis cannot serve now: {error}") from error
    except redis.ResponseError as error:
        if not str(error).startswith(_NOT_NOW):
            raise
        raise StoreUnavailableError(f"Redis cannot serve now: {error}") from error
