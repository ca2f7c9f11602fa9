"""Which slot an entity has: an open-addressing hash table over byte strings, all of it in numpy arrays."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from feature_cache.prefetch import prefetch

# Secret and new in each process, so nobody can prepare keys that all begin at one place of the table.
# Handed to each kernel: a global array would be compiled into what is cached on disk.
_SEED = np.frombuffer(secrets.token_bytes(16), np.uint64)
# Of what must be the same everywhere: who is asked for it has no harm to fear from prepared keys.
_STABLE_SEED = np.frombuffer(b"penstock keys v1", np.uint64)
_LEAST_BYTES = 1024
_SMALL_BYTES = 1 << 16  # a buffer that is copied as a whole sooner than the keys in it are gathered


@dataclass(frozen=True, slots=True, eq=False)
class Keys:
    """Byte strings in one buffer."""

    data: NDArray[np.uint8]  # (bytes,)
    starts: NDArray[np.int64]  # (n,)
    ends: NDArray[np.int64]  # (n,)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, row: int) -> bytes:
        return self.data[self.starts[row] : self.ends[row]].tobytes()

    def take(self, rows: Any) -> Keys:
        """Some of them, in the same buffer; rows is whatever indexes an array."""
        return Keys(self.data, self.starts[rows], self.ends[rows])

    def to_list(self) -> list[bytes]:
        """Each as an object of its own, empty where it is missing."""
        if not len(self):  # whatever else is in the buffer
            return []
        if len(self.data) < _SMALL_BYTES:
            data = self.data.tobytes()
            edges = zip(self.starts.tolist(), self.ends.tolist(), strict=True)
            return [data[a : max(a, b)] for a, b in edges]
        return self.gathered()

    def gathered(self) -> list[bytes]:
        """The same, by way of a buffer in which nothing else is."""
        ends = np.cumsum(np.maximum(self.ends - self.starts, 0))
        whole = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
        _gather(_unwritable(self.data), self.starts, self.ends, whole)
        joined, stops = whole.tobytes(), ends.tolist()
        return [joined[a:b] for a, b in zip([0, *stops], stops, strict=False)]


def keys_of(keys: Keys | Sequence[bytes]) -> Keys:
    """Byte strings in a buffer of their own, unless they are in one already."""
    if isinstance(keys, Keys):
        return keys
    ends = np.cumsum(np.fromiter(map(len, keys), np.int64, len(keys)))
    starts = np.zeros(len(keys), np.int64)
    starts[1:] = ends[:-1]
    return Keys(np.frombuffer(b"".join(keys), np.uint8), starts, ends)


def distinct(keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(m,) where each key comes first, ascending, and (n,) which of these each of the keys is."""
    which, firsts = np.empty(len(keys), np.int64), np.empty(len(keys), np.int64)
    table = np.zeros(_table_size(len(keys)), np.int64)
    count = _distinct(_unwritable(keys.data), keys.starts, keys.ends, _SEED, table, which, firsts)
    return firsts[:count], which


def stable_hash(keys: Keys) -> NDArray[np.int64]:
    """(n,) 31 bits of each key, the same in every process and for ever."""
    found = np.empty(len(keys), np.int64)
    _hashes(_unwritable(keys.data), keys.starts, keys.ends, _STABLE_SEED, found)
    return found


class KeyIndex:
    """Entity to slot, for slots that the caller gives out; keys may have any length."""

    def __init__(self, capacity: int) -> None:
        """Hold nothing yet; slots are below capacity."""
        self._table = np.zeros(_table_size(capacity), np.int64)  # 0: empty, else hash << 32 | slot + 1
        self._bytes = np.zeros(_LEAST_BYTES, np.uint8)  # every key, and room that keys gone have left
        self._span = np.full((capacity, 2), -1, np.int64)  # (slots, 2) where the key begins and ends; or -1
        self._used = 0  # bytes up to the end of the last key
        self._live = 0  # bytes of keys held
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def find(self, keys: Keys) -> NDArray[np.int64]:
        """(n,) slot of each, -1 where there is none."""
        slots = np.empty(len(keys), np.int64)
        data = _unwritable(keys.data)
        _find(data, keys.starts, keys.ends, _SEED, self._table, self._bytes, self._span, slots)
        return slots

    def may_find(self, keys: Keys) -> NDArray[np.bool_]:
        """(n,) whether `find` would most likely find each; any thread may ask while another changes keys.

        Hashes alone are compared, as the keys that they stand for may move meanwhile.
        """
        found = np.empty(len(keys), np.bool_)
        _may_find(_unwritable(keys.data), keys.starts, keys.ends, _SEED, self._table, found)
        return found

    def add(self, keys: Keys, slots: NDArray[np.int64]) -> None:
        """Give distinct keys that are not held these slots, which have none."""
        size = int((keys.ends - keys.starts).sum())
        if self._used + size > len(self._bytes):
            self._make_room(size)
        data = _unwritable(keys.data)
        _add(data, keys.starts, keys.ends, _SEED, self._table, self._bytes, self._span, slots, self._used)
        self._used += size
        self._live += size
        self._count += len(slots)

    def remove(self, slots: NDArray[np.int64]) -> None:
        """Forget the keys of these slots, each of which has one."""
        self._live -= int(np.diff(self._span[slots]).sum())
        self._count -= len(slots)
        _remove(_SEED, self._table, self._bytes, self._span, slots)

    def keys(self, slots: NDArray[np.int64]) -> Keys:
        """The keys of these slots; good until the next `add`."""
        starts, ends = self._span[slots].T.copy()
        return Keys(self._bytes, starts, ends)

    def _make_room(self, size: int) -> None:
        """Move the keys held to a new buffer that they and as many more bytes fit in."""
        roomy = np.zeros(max(2 * (self._live + size), _LEAST_BYTES), np.uint8)
        held = np.flatnonzero(self._span[:, 0] >= 0)
        keys = self.keys(held)
        _gather(_unwritable(keys.data), keys.starts, keys.ends, roomy)
        sizes = keys.ends - keys.starts
        ends = np.cumsum(sizes)
        self._span[held] = np.stack([ends - sizes, ends], axis=1)
        self._bytes, self._used = roomy, self._live


def _table_size(keys: int) -> int:
    """At most half full, so that what is looked for is near where it should be."""
    return 1 << max(3, (2 * keys - 1).bit_length())


def _unwritable(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same bytes, in the one form that the kernels are compiled for."""
    view = data.view()
    view.flags.writeable = False
    return view


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _gather(data: Any, starts: Any, ends: Any, out: Any) -> None:
    """Write the byte strings one after another."""
    to = 0
    for i in range(starts.shape[0]):
        for j in range(starts[i], ends[i]):
            out[to] = data[j]
            to += 1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _mixed(v0: Any, v1: Any, v2: Any, v3: Any) -> Any:
    """One round of SipHash."""
    v0 += v1
    v1 = ((v1 << np.uint64(13)) | (v1 >> np.uint64(51))) ^ v0
    v0 = (v0 << np.uint64(32)) | (v0 >> np.uint64(32))
    v2 += v3
    v3 = ((v3 << np.uint64(16)) | (v3 >> np.uint64(48))) ^ v2
    v0 += v3
    v3 = ((v3 << np.uint64(21)) | (v3 >> np.uint64(43))) ^ v0
    v2 += v1
    v1 = ((v1 << np.uint64(17)) | (v1 >> np.uint64(47))) ^ v2
    v2 = (v2 << np.uint64(32)) | (v2 >> np.uint64(32))
    return v0, v1, v2, v3


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _hash(data: Any, start: int, end: int, seed: Any) -> Any:
    """31 bits of SipHash-1-3, which is also what CPython hashes bytes with."""
    v0 = seed[0] ^ np.uint64(0x736F6D6570736575)
    v1 = seed[1] ^ np.uint64(0x646F72616E646F6D)
    v2 = seed[0] ^ np.uint64(0x6C7967656E657261)
    v3 = seed[1] ^ np.uint64(0x7465646279746573)
    at = start
    while at + 8 <= end:
        word = np.uint64(0)
        for j in range(8):
            word |= np.uint64(data[at + j]) << np.uint64(8 * j)
        v3 ^= word
        v0, v1, v2, v3 = _mixed(v0, v1, v2, v3)
        v0 ^= word
        at += 8
    last = np.uint64(end - start) << np.uint64(56)
    for j in range(end - at):
        last |= np.uint64(data[at + j]) << np.uint64(8 * j)
    v3 ^= last
    v0, v1, v2, v3 = _mixed(v0, v1, v2, v3)
    v0 ^= last
    v2 ^= np.uint64(0xFF)
    for _ in range(3):
        v0, v1, v2, v3 = _mixed(v0, v1, v2, v3)
    return np.int64((v0 ^ v1 ^ v2 ^ v3) >> np.uint64(33))


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _hashes(data: Any, starts: Any, ends: Any, seed: Any, found: Any) -> None:
    for i in range(starts.shape[0]):
        found[i] = _hash(data, starts[i], ends[i], seed)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _are_equal(data: Any, start: int, end: int, other: Any, other_start: int, other_end: int) -> bool:
    if end - start != other_end - other_start:
        return False
    for j in range(end - start):  # noqa: SIM110 numba has no all() over a generator
        if data[start + j] != other[other_start + j]:
            return False
    return True


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _find(data: Any, starts: Any, ends: Any, seed: Any, table: Any, held: Any, span: Any, slots: Any) -> None:
    """Each step is done for all keys before the next, so that their waits for memory are one."""
    mask = table.shape[0] - 1
    codes = np.empty(starts.shape[0], np.int64)
    for i in range(starts.shape[0]):
        codes[i] = _hash(data, starts[i], ends[i], seed)
    for i in range(starts.shape[0]):
        slots[i] = table[codes[i] & mask]  # where most are
    for i in range(starts.shape[0]):
        prefetch(held, span[max((slots[i] & 0xFFFFFFFF) - 1, 0), 0])
    for i in range(starts.shape[0]):
        code, entry, at = codes[i], slots[i], codes[i] & mask
        slots[i] = -1
        while entry != 0:
            if entry >> 32 == code:
                s = (entry & 0xFFFFFFFF) - 1
                if _are_equal(data, starts[i], ends[i], held, span[s, 0], span[s, 1]):
                    slots[i] = s
                    break
            at = (at + 1) & mask
            entry = table[at]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _may_find(data: Any, starts: Any, ends: Any, seed: Any, table: Any, found: Any) -> None:
    mask = table.shape[0] - 1
    for i in range(starts.shape[0]):
        code = _hash(data, starts[i], ends[i], seed)
        at = code & mask
        found[i] = False
        for _ in range(table.shape[0]):  # and no further, as places change hands under our eyes
            entry = table[at]
            if entry == 0:
                break
            if entry >> 32 == code:
                found[i] = True
                break
            at = (at + 1) & mask


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _distinct(data: Any, starts: Any, ends: Any, seed: Any, table: Any, which: Any, firsts: Any) -> int:
    mask = table.shape[0] - 1
    count = 0
    for i in range(starts.shape[0]):
        code = _hash(data, starts[i], ends[i], seed)
        at = code & mask
        while table[at] != 0:
            if table[at] >> 32 == code:
                k = (table[at] & 0xFFFFFFFF) - 1
                f = firsts[k]
                if _are_equal(data, starts[i], ends[i], data, starts[f], ends[f]):
                    which[i] = k
                    break
            at = (at + 1) & mask
        if table[at] == 0:
            table[at] = code << 32 | (count + 1)
            which[i] = count
            firsts[count] = i
            count += 1
    return count


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _add(
    data: Any,
    starts: Any,
    ends: Any,
    seed: Any,
    table: Any,
    held: Any,
    span: Any,
    slots: Any,
    used: int,
) -> None:
    mask = table.shape[0] - 1
    codes = np.empty(slots.shape[0], np.int64)
    for i in range(slots.shape[0]):
        codes[i] = _hash(data, starts[i], ends[i], seed)
        prefetch(table, codes[i] & mask)
        prefetch(span, slots[i])
    for i in range(slots.shape[0]):
        s = slots[i]
        span[s, 0] = used
        for j in range(starts[i], ends[i]):
            held[used] = data[j]
            used += 1
        span[s, 1] = used
        at = codes[i] & mask
        while table[at] != 0:
            at = (at + 1) & mask
        table[at] = codes[i] << 32 | (s + 1)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _remove(seed: Any, table: Any, held: Any, span: Any, slots: Any) -> None:
    mask = table.shape[0] - 1
    homes = np.empty(slots.shape[0], np.int64)
    for i in range(slots.shape[0]):
        prefetch(held, span[slots[i], 0])
    for i in range(slots.shape[0]):
        homes[i] = _hash(held, span[slots[i], 0], span[slots[i], 1], seed) & mask
        prefetch(table, homes[i])
    for i in range(slots.shape[0]):
        s = slots[i]
        at = homes[i]
        while table[at] & 0xFFFFFFFF != s + 1:
            at = (at + 1) & mask
        span[s, 0] = span[s, 1] = -1
        # What follows moves up, or a search that began before the gap would end there.
        after = at
        while True:
            after = (after + 1) & mask
            if table[after] == 0:
                break
            home = (table[after] >> 32) & mask
            if (after - home) & mask >= (after - at) & mask:
                table[at] = table[after]
                at = after
        table[at] = 0
