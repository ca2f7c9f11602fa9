"""A packed command is byte for byte what redis-py would have sent."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from redis.connection import PythonRespSerializer

from feature_cache.resp import Packer

WORDS = st.lists(st.binary(max_size=12) | st.binary(min_size=95, max_size=120), max_size=60)


def plainly(*words: bytes | str) -> bytes:
    """What redis-py's own Python packs."""
    serializer = PythonRespSerializer(6000, lambda word: word.encode() if isinstance(word, str) else word)
    return b"".join(serializer.pack(*words))  # type: ignore[no-untyped-call]


@settings(deadline=None)  # the first one compiles
@given(WORDS)
def test_a_command_is_packed_as_the_client_itself_packs_it(words: list[bytes]) -> None:
    assert b"".join(Packer().pack("MGET", *words)) == plainly("MGET", *words)


def test_sizes_of_every_length_are_written_whole() -> None:
    words = [b"x" * size for size in (0, 1, 9, 10, 11, 99, 100, 101, 999, 1000, 123_456)] * 4

    assert b"".join(Packer().pack("EVALSHA", *words)) == plainly("EVALSHA", *words)


def test_a_command_of_very_many_words_leaves_in_parts_that_are_the_same_bytes() -> None:
    words = [b"\r\n$%d" % i * (i % 40) for i in range(1100)]

    parts = [bytes(part) for part in Packer().pack("EVALSHA", *words)]

    assert b"".join(parts) == plainly("EVALSHA", *words)
    assert max(map(len, parts)) < 16_384
