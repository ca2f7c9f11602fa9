"""The durable copy of rows in Redis: one value per row, one MGET for many, one atomic script per lane."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, cast

import redis
from redis.exceptions import NoScriptError, SlotNotCoveredError
from redis.sentinel import MasterNotFoundError

from feature_cache.ahead import Ahead, answer_on
from feature_cache.breaker import Breaker
from feature_cache.redis_address import connect, parse_address
from feature_cache.redis_errors import ERRORS, explained, was_answered
from feature_cache.store import NOTHING, LaneMeta, Stored, StoreUnavailableError

# A hash tag per lane keeps a lane's keys in one Redis Cluster slot: one MGET, one script.
# The meta's field name cannot be an entity: entities are appended after a second colon.
_KEYS_PER_MGET = 1000  # an MGET of 1,000 rows blocks the server for about a millisecond
# A script with 10,000 rows of 500 B keeps a server silent for 35 ms, one with 100,000 for 200 to 700 ms.
_BIG_ROWS = 5_000
_BIG_BYTES = 4 << 20
_BIG_TAKES = 20  # times as long may a big write be silent, and as often as it is larger than these:
_LARGEST_ROWS = 100_000
_LARGEST_BYTES = 64 << 20
# Their answers are taken as they are, so they can go past the client's pool, its retries and its statistics:
# these cost a batch of a few rows as much as the command itself, 50 us of 100.
_PLAIN = frozenset({b"GET", b"MGET", b"MSET", b"EVALSHA", b"EVAL"})

_TAKE = b"""
local known = redis.call('GET', KEYS[1])
local epoch, rest = 0, ARGV[1]
if known then
  epoch, rest = string.match(known, '^(%d+) (%-?%d+ %-?%d+ %-?%d+ %-?%d+ %S*)')
end
local taken = string.format('%d %s %s', epoch + 1, rest, ARGV[2])
redis.call('SET', KEYS[1], taken)
return taken
"""

_WRITE = b"""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
for i = 2, #KEYS do redis.call('SET', KEYS[i], ARGV[i + 1]) end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""


class RedisStore:
    """Rows in Redis 7 or newer, or Valkey; a dead server is an error and not a stall.

    Every call may raise StoreUnavailableError or StoreRefusedError, and may be made from any thread.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connect with the first call.

        Args:
            address: see `parse_address`.
            timeout_s: how long a server may be silent, instead of what the address says.

        Raises:
            ValueError: the address is wrong.
        """
        self.address = parse_address(address)
        self._is_cluster = self.address.kind == "cluster"
        self._timeout_s = timeout_s or self.address.timeout_s
        self._clock_s = clock_s
        self._connecting = threading.Lock()
        self._clients: dict[int, Any] = {}  # by their patience
        self._spare: list[Any] = []  # connections of the usual patience that nobody uses now
        self._is_closed = False
        self._breakers: dict[str, Breaker] = {}  # by node: the other shards of a cluster can go on

    def take(self, lane: str, *, generation: int) -> LaneMeta:
        fresh = LaneMeta(epoch=0, generation=generation, watermark=NOTHING).encode()
        # Without epoch and owner. Two takes never write the same, even if a failover lost the one between.
        rest = fresh.split(b" ", 1)[1].rsplit(b" ", 1)[0]
        taken = self.run(_TAKE, [_meta_key(lane)], [rest, secrets.token_hex(8).encode()])
        return LaneMeta.decode(cast("bytes", taken))

    def meta(self, lane: str) -> LaneMeta | None:
        stored = cast("bytes | None", self.ask(_meta_key(lane), b"GET", _meta_key(lane)))
        return None if stored is None else LaneMeta.decode(stored)

    def read(self, wanted: Sequence[tuple[str, Sequence[bytes]]]) -> list[Stored]:
        if not self._is_cluster:
            return self._read(wanted)
        return [stored for lane in wanted for stored in self._read([lane])]

    def _read(self, wanted: Sequence[tuple[str, Sequence[bytes]]]) -> list[Stored]:
        """Lanes that one server has, in as few commands as can be."""
        metas: list[bytes | None] = [None] * len(wanted)
        rows: list[list[bytes | None]] = [[] for _ in wanted]
        for command in _commands([len(keys) for _, keys in wanted]):
            names = [name for lane, part in command for name in _names(*wanted[lane], part)]
            values = iter(cast("list[bytes | None]", self.ask(names[0], b"MGET", *names)))
            for lane, part in command:
                meta = next(values)
                if part.start and meta != metas[lane]:
                    return self._read(wanted)  # written between two commands: not one instant any more
                metas[lane] = meta
                rows[lane] += islice(values, part.stop - part.start)
        return [
            (None if meta is None else LaneMeta.decode(meta), found)
            for meta, found in zip(metas, rows, strict=True)
        ]

    def write(
        self, lane: str, expected: LaneMeta, new: LaneMeta, keys: Sequence[bytes], rows: Sequence[bytes]
    ) -> bool:
        prefix = _prefix(lane)
        names = [_meta_key(lane), *(prefix + key for key in keys)]
        patience = patience_for(len(rows), sum(map(len, rows)))
        if patience > 1:
            self.ask(names[0], b"PING")  # a server that is away must not take that long to be noticed
        return bool(self.run(_WRITE, names, [expected.encode(), new.encode(), *rows], patience=patience))

    def get(self, names: Sequence[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = [None] * len(names)
        for part in self._parts(names):
            values = cast("list[bytes | None]", self.ask(names[part[0]], b"MGET", *(names[i] for i in part)))
            if isinstance(part, range):
                found[part.start : part.stop] = values
                continue
            for i, value in zip(part, values, strict=True):
                found[i] = value
        return found

    def get_ahead(self, names: Sequence[bytes]) -> Ahead | None:
        breaker = self._breaker(b"")
        if self.address.kind != "server" or not 0 < len(names) <= _KEYS_PER_MGET or breaker.doubts:
            return None
        try:
            connection = self._spare.pop()
        except IndexError:
            return None
        try:
            if connection.is_connected:  # to connect may take long, and nobody has asked yet
                connection.send_command("MGET", *names)
                return Ahead(connection, self._give_back, partial(self._silent, breaker))
        except redis.RedisError:
            pass  # it has closed itself
        except BaseException:
            connection.disconnect()
            self._give_back(connection)
            raise
        self._give_back(connection)
        return None

    def _silent(self, breaker: Breaker) -> None:
        breaker.unanswered(self._clock_s())

    def put(self, names: Sequence[bytes], values: Sequence[bytes]) -> None:
        for part in self._parts(names):
            pairs = [word for i in part for word in (names[i], values[i])]
            self.ask(names[part[0]], b"MSET", *pairs)

    def _parts(self, names: Sequence[bytes]) -> Iterator[Sequence[int]]:
        """Indices of names that one command may ask for: at most a thousand, in a cluster of one slot."""
        slots: Iterable[Sequence[int]] = [range(len(names))]
        if self._is_cluster:
            client, by_slot = self._client(1), dict[int, list[int]]()
            for i, name in enumerate(names):
                by_slot.setdefault(client.keyslot(name), []).append(i)
            slots = by_slot.values()
        for indices in slots:
            for start in range(0, len(indices), _KEYS_PER_MGET):
                yield indices[start : start + _KEYS_PER_MGET]

    def ping(self) -> str:
        said = cast("dict[str, Any]", self.ask(b"", b"INFO", b"server"))
        if "valkey_version" in said:
            return f"Valkey {said['valkey_version']}"
        return f"Redis {said.get('redis_version', 'of unknown version')}"

    def close(self) -> None:
        with self._connecting:
            self._is_closed = True
            for client in self._clients.values():
                client.close()  # and every connection with it
            self._clients.clear()
            self._spare.clear()

    def masters(self) -> list[Any]:
        """What `ask` takes as node, one for each server that holds rows; their repr says which."""
        if not self._is_cluster:
            return [None]
        self.ask(b"", b"PING")
        return list(self._client(1).get_primaries())

    def ask(self, key: bytes, *command: bytes, patience: int = 1, node: Any = None) -> Any:
        """Send one command to the server that has this key (any server, if it is empty), or to this node.

        The server may be silent `patience` times as long as usual.

        Sent a second time when the connection broke, as one to a server that has restarted does, and at the
        first sign of silence, which may be a busy machine. None of our commands does harm when it is done
        twice: a second `take` raises the epoch once more, and a second `write` compares unequal, which
        Lanes.write looks into.

        Raises:
            StoreUnavailableError: no answer, or none that helps now.
            StoreRefusedError: a person has to do something about it.
        """
        breaker = self._breaker(key)
        if not breaker.lets_through(self._clock_s()):
            raise StoreUnavailableError("Redis has not answered for a while and is asked again in a moment")
        try:
            try:
                answer = self._send(key, command, patience, node)
            except (redis.ConnectionError, redis.TimeoutError) as error:
                is_silence = isinstance(error, redis.TimeoutError)
                # Kinds of ConnectionError say what a second try would say too.
                if breaker.doubts or patience > 1 if is_silence else type(error) is not redis.ConnectionError:
                    raise
                answer = self._send(key, command, patience, node)
        except ERRORS as error:
            meant = explained(error, self.address.masked(f"{type(error).__name__}: {error}"))
            if was_answered(error):
                breaker.answered()
            elif isinstance(meant, StoreUnavailableError):
                breaker.unanswered(self._clock_s())
            if meant is None:
                raise
            raise meant from error
        breaker.answered()
        return answer

    def run(
        self, script: bytes, keys: Sequence[bytes], arguments: Sequence[bytes], *, patience: int = 1
    ) -> Any:
        """Run a script by its hash; a server that does not know it, as after a restart, gets all of it."""
        rest = (b"%d" % len(keys), *keys, *arguments)
        try:
            return self.ask(
                keys[0], b"EVALSHA", hashlib.sha1(script).hexdigest().encode(), *rest, patience=patience
            )
        except NoScriptError:
            return self.ask(keys[0], b"EVAL", script, *rest, patience=patience)

    def _send(self, key: bytes, command: Sequence[bytes], patience: int, node: Any) -> Any:
        client = self._client(patience)
        if self.address.kind == "server" and patience == 1 and command[0] in _PLAIN:
            return self._send_directly(client.connection_pool, command)
        if not self._is_cluster:
            try:
                return client.execute_command(command[0].decode(), *command[1:])
            except MasterNotFoundError:
                for sentinel in client.connection_pool.sentinel_manager.sentinels:
                    sentinel.sentinel_masters()  # raises what is wrong, which was lost on the way
                raise
        # Naming the node saves redis-py from hashing every key of an MGET.
        try:
            if node is None:
                node = client.get_node_from_key(key) if key else client.get_default_node()
        except SlotNotCoveredError:
            client.nodes_manager.initialize()
            raise
        return client.execute_command(command[0].decode(), *command[1:], target_nodes=node)

    def _send_directly(self, pool: Any, command: Sequence[bytes]) -> Any:
        """Over a connection of our own; one that breaks closes itself, and connects again when it is used."""
        try:
            connection = self._spare.pop()
        except IndexError:
            connection = pool.get_connection()
        try:
            connection.send_command(command[0].decode(), *command[1:])
            return answer_on(connection)
        finally:
            self._give_back(connection)

    def _give_back(self, connection: Any) -> None:
        if self._is_closed:
            connection.disconnect()
        else:
            self._spare.append(connection)

    def _client(self, patience: int) -> Any:
        with self._connecting:
            if patience not in self._clients:
                self._is_closed = False
                self._clients[patience] = connect(self.address, self._timeout_s * patience)
            return self._clients[patience]

    def _breaker(self, key: bytes) -> Breaker:
        client = self._clients.get(1)
        name = ""
        if key and client is not None and self._is_cluster:
            slots = client.nodes_manager.slots_cache.get(client.keyslot(key))
            name = str(slots[0].name) if slots else ""
        return self._breakers.setdefault(name, Breaker())


def patience_for(rows: int, size_bytes: int) -> int:
    """How many times as long as usual a server may be silent over a write of this size; few different ones.

    One that was given up though it was done would be sent again, whole, and given up again, for ever.
    """
    if rows <= _BIG_ROWS and size_bytes <= _BIG_BYTES:
        return 1
    times = max(-(-rows // _LARGEST_ROWS), -(-size_bytes // _LARGEST_BYTES))
    return int(_BIG_TAKES * (1 << (times - 1).bit_length()))


def _commands(counts: Sequence[int]) -> Iterator[list[tuple[int, slice]]]:
    """Which of each lane's keys every MGET asks for; all of a lane's in one, where it has room for them."""
    command: list[tuple[int, slice]] = []
    size = 0
    for lane, count in enumerate(counts):
        for start in range(0, max(count, 1), _KEYS_PER_MGET):
            part = slice(start, min(start + _KEYS_PER_MGET, count))
            if command and size + part.stop - start > _KEYS_PER_MGET:
                yield command
                command, size = [], 0
            command.append((lane, part))
            size += part.stop - start
    if command:
        yield command


def _names(lane: str, keys: Sequence[bytes], part: slice) -> list[bytes]:
    prefix = _prefix(lane)
    return [_meta_key(lane), *(prefix + key for key in keys[part])]


def _meta_key(lane: str) -> bytes:
    return f"ps:{{{lane}}}".encode()


def _prefix(lane: str) -> bytes:
    return f"ps:{{{lane}}}:".encode()
