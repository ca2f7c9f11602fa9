"""Cases and their counts in Redis: one atomic script for the facts of a shard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from feature_cache.cases import KINDS, SHARDS, Applied, Cells, Fact, Mark
from feature_cache.redis_store import RedisStore

_NEWEST = b"newest"  # among the marks; a partition's name has a colon

# A case is stored as its three facts, `|` between them; see feature_cache.cases for what is in a fact, and
# for `contribution`, which this repeats. The names of counts are made here: those of the fact that is
# replaced are known only here. They are in the slot of the shard, as all of its keys are.
_APPLY = b"""
local prefix, keep_ms, marks = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
for i = 4, 1 + 3 * marks, 3 do
  local stored = redis.call('HGET', KEYS[1], ARGV[i])
  if not stored or tonumber(stored) < tonumber(ARGV[i + 1]) then return false end
end
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local slots, done = {s = 1, a = 2, l = 3}, {joined = 0, waiting = 0, repeated = 0, expired = 0}
local counts, untils, newest = {}, {}, tonumber(redis.call('HGET', KEYS[1], 'newest') or '-9e15')

local function add(cells, name, number)
  cells[name] = (cells[name] or 0) + number
end

-- Patterns of fixed words cost a fifth less than a loop over them.
local SCORE = '^%S+ %S+ %S+ %S+ (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$'
local ALERT = '^%S+ %S+ %S+ %S+ (%S+) (%S+)$'
local LABEL = '^%S+ %S+ %S+ %S+ (%S+) (%S+) (%S+)$'

local function count(facts, times, until_ms)
  if facts[1] == '' then return end
  local bucket, version, segment, cell, tenth, score_e6, level = string.match(facts[1], SCORE)
  local label, of_label, value = 'n', '-', '-'
  local alerted, of_alert = '-', '-'
  if facts[3] ~= '' then label, of_label, value = string.match(facts[3], LABEL) end
  if facts[2] ~= '' then alerted, of_alert = string.match(facts[2], ALERT) end
  if of_label ~= '-' then segment = of_label end
  if value == '-' then value = of_alert end
  local group = version .. ' ' .. segment .. ' '
  local cells = counts[bucket]
  if not cells then
    cells = {}
    counts[bucket] = cells
    newest = math.max(newest, tonumber(bucket))
  end
  untils[bucket] = math.max(untils[bucket] or 0, until_ms)
  add(cells, group .. 'n ' .. cell .. ' ' .. label, times)
  if tenth ~= '-' then add(cells, group .. 's ' .. tenth .. ' ' .. label, times * score_e6) end
  if value ~= '-' then add(cells, group .. 'v ' .. level .. ' ' .. label, times * value) end
  if alerted ~= '-' then add(cells, group .. 'a ' .. alerted .. ' ' .. label, times) end
end

local function is_newer(time, partition, offset, known)
  local t, p, o = string.match(known, '^(%S+) (%S+) (%S+) ')
  if t ~= time then return tonumber(time) > tonumber(t) end
  if p ~= partition then return tonumber(partition) > tonumber(p) end
  return tonumber(offset) > tonumber(o)
end

for i = 2, #KEYS do
  local given = ARGV[2 + 3 * marks + i]
  local kind, time, partition, offset, expires = string.match(given, '^(%a) (%S+) (%S+) (%S+) (%S+) ')
  local slot, expires_ms = slots[kind], tonumber(expires)
  local became
  if expires_ms <= now_ms then
    became = 'expired'
  else
    local stored = redis.call('GET', KEYS[i])
    local until_ms, facts = 0, {'', '', ''}
    if stored then
      local u, s, a, l = string.match(stored, '^(%d+)|([^|]*)|([^|]*)|([^|]*)$')
      until_ms, facts = tonumber(u), {s, a, l}
    end
    if facts[slot] ~= '' and not is_newer(time, partition, offset, facts[slot]) then
      became = 'repeated'
    else
      until_ms = math.max(until_ms, expires_ms)
      count(facts, -1, until_ms)
      facts[slot] = string.sub(given, 3)
      count(facts, 1, until_ms)
      local at = string.format('%.0f', until_ms)
      redis.call('SET', KEYS[i], at .. '|' .. facts[1] .. '|' .. facts[2] .. '|' .. facts[3], 'PXAT', at)
      became = (facts[1] ~= '' and facts[3] ~= '') and 'joined' or 'waiting'
    end
  end
  done[became] = done[became] + 1
end
for bucket, cells in pairs(counts) do
  local key = prefix .. 'b:' .. bucket
  for name, number in pairs(cells) do
    if number ~= 0 then redis.call('HINCRBY', key, name, string.format('%.0f', number)) end
  end
  -- A case is counted in its bucket for as long as it can change: the bucket must not go before it.
  local at = untils[bucket] + keep_ms
  if redis.call('PEXPIRETIME', key) < at then redis.call('PEXPIREAT', key, string.format('%.0f', at)) end
end
for i = 4, 1 + 3 * marks, 3 do
  local stored = tonumber(redis.call('HGET', KEYS[1], ARGV[i]))
  if tonumber(ARGV[i + 2]) > stored then redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2]) end
end
if newest > -9e15 then redis.call('HSET', KEYS[1], 'newest', string.format('%.0f', newest)) end
redis.call('PEXPIRE', KEYS[1], keep_ms)
return {done.joined, done.waiting, done.repeated, done.expired}
"""

# Everything that is needed, on a key of its own that ends at once. A right that was missing in the middle of
# the script above would leave a case stored and not counted.
_CHECK = b"""
redis.call('TIME')
redis.call('SET', KEYS[1], '', 'PXAT', '1')
redis.call('HSETNX', KEYS[1], 'a', '1')
redis.call('HSET', KEYS[1], 'a', '1')
redis.call('HINCRBY', KEYS[1], 'a', '1')
redis.call('HGET', KEYS[1], 'a')
redis.call('HMGET', KEYS[1], 'a')
redis.call('HGETALL', KEYS[1])
redis.call('PEXPIRETIME', KEYS[1])
redis.call('PEXPIRE', KEYS[1], '60000')
redis.call('PEXPIREAT', KEYS[1], '1')
return 1
"""


class RedisCases:
    """Cases in Redis 7 or newer, or Valkey, shared by all members of a group."""

    def __init__(self, store: RedisStore, name: str, *, keep_ms: int) -> None:
        """Nothing is asked yet.

        Args:
            store: where they are.
            name: of the group, and of what is counted how.
            keep_ms: how much longer than its cases a bucket is kept, and marks after they last moved.
        """
        self._store = store
        self._may = False  # do everything that it takes, as far as we know
        self._keep = b"%d" % keep_ms
        self._prefixes = [f"ps:{{{name}:{shard:02}}}:".encode() for shard in range(SHARDS)]

    def apply(self, shard: int, marks: Sequence[Mark], facts: Sequence[Fact]) -> Applied | None:
        prefix = self._prefixes[shard]
        told: list[Any] = [word for mark in marks for word in mark]
        done = self._store.run(
            _APPLY,
            [prefix + b"marks", *(prefix + b"e:" + fact.event_id for fact in facts)],
            [prefix, self._keep, *(str(w).encode() for w in (len(marks), *told, *(f.text for f in facts)))],
        )
        if done is None:
            return None
        joined, waiting, repeated, expired = done
        return Applied(joined=joined, waiting=waiting, repeated=repeated, expired=expired)

    def marks(self, names: Sequence[str]) -> list[list[int | None]]:
        if not names:
            return []
        if not self._may:
            self._may = bool(self._store.run(_CHECK, [self._prefixes[0] + b"check"], []))
        found = [self._marked(prefix, *(name.encode() for name in names)) for prefix in self._prefixes]
        return [[None if m is None else int(m) for m in of_name] for of_name in zip(*found, strict=True)]

    def begin(self, name: str, offset: int) -> None:
        for prefix in self._prefixes:
            key = prefix + b"marks"
            self._store.ask(key, b"HSETNX", key, name.encode(), b"%d" % offset)

    def newest(self) -> int | None:
        found = [bucket for prefix in self._prefixes for bucket in self._marked(prefix, _NEWEST)]
        return max((int(bucket) for bucket in found if bucket is not None), default=None)

    def cells(self, buckets: Sequence[int]) -> dict[int, Cells]:
        found = {bucket: self._sum(bucket) for bucket in buckets}
        return {bucket: cells for bucket, cells in found.items() if cells}

    def _marked(self, prefix: bytes, *names: bytes) -> list[bytes | None]:
        found: list[bytes | None] = self._store.ask(prefix + b"marks", b"HMGET", prefix + b"marks", *names)
        return found

    def _sum(self, bucket: int) -> Cells:
        cells: Cells = {}
        for prefix in self._prefixes:
            key = prefix + b"b:%d" % bucket
            for name, number in self._store.ask(key, b"HGETALL", key).items():
                if count := int(number):
                    cells[name.decode()] = cells.get(name.decode(), 0) + count
        return cells


assert KINDS == "sal"  # the order of the facts in a stored case, which the script has in itself
