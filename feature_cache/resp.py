"""Commands of very many words as Redis takes them, compiled: the client needs 0.4 us more for each word."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import hiredis
import numpy as np
from numba import njit
from redis.connection import HiredisRespSerializer

_MANY = 32  # words; with fewer the client's own way is as good
_DIGITS = 20
# Packed at once, the rows of a write take new memory each time; most of what that costs is page faults. CPU
# of packing 8,000 rows of 1.3 KB, us a row: whole 5.1 (client 4.2), in parts of 64 words 3.0 (client 0.8).
_TOO_MANY, _PART = 1024, 64


class Packer:
    """What redis-py packs commands with, see its Connection(command_packer=)."""

    def __init__(self) -> None:
        self._few: Any = HiredisRespSerializer()

    def pack(self, *words: Any) -> Iterable[bytes | memoryview]:
        """The bytes of one command, part by part; the first word, its name, may be text."""
        if len(words) < _MANY or not isinstance(words[0], str):
            packed: list[bytes] = self._few.pack(*words)
            return packed
        whole = (words[0].encode(), *words[1:])
        return [command(whole)] if len(words) <= _TOO_MANY else _parts(whole)


def _parts(words: tuple[bytes, ...]) -> Iterator[bytes | memoryview]:
    yield b"*%d\r\n" % len(words)
    for start in range(0, len(words), _PART):
        part: tuple[Any, ...] = words[start : start + _PART]
        # A command of its own, but for its first line, which says how many words there are.
        yield memoryview(hiredis.pack_command(part))[len(b"*%d\r\n" % len(part)) :]


def command(words: tuple[bytes, ...]) -> bytes:
    """The bytes of one command."""
    sizes = np.fromiter(map(len, words), np.int64, len(words))
    data = np.frombuffer(b"".join(words), np.uint8)
    out = np.empty(len(data) + (_DIGITS + 5) * (len(words) + 1), np.uint8)
    return out[: _pack(data, sizes, out)].tobytes()


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _put_number(out: Any, at: int, kind: int, number: int) -> int:
    """A line of a sign and a number."""
    out[at] = kind
    digits = 1
    rest = number // 10
    while rest > 0:
        rest //= 10
        digits += 1
    for j in range(digits):
        out[at + digits - j] = 48 + number % 10
        number //= 10
    out[at + digits + 1] = 13
    out[at + digits + 2] = 10
    return int(at + digits + 3)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _pack(data: Any, sizes: Any, out: Any) -> int:
    """Write a command of (n,) words that follow each other in data; how many bytes it has."""
    at = _put_number(out, 0, 42, sizes.shape[0])  # *
    begin = 0
    for i in range(sizes.shape[0]):
        at = _put_number(out, at, 36, sizes[i])  # $
        for j in range(sizes[i]):
            out[at + j] = data[begin + j]
        begin += sizes[i]
        at += sizes[i]
        out[at] = 13
        out[at + 1] = 10
        at += 2
    return int(at)
