"""The index of keys is a dictionary, whatever the keys are."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_cache.key_index import KeyIndex, Keys, distinct, keys_of

ROOM = 12
KEY = st.one_of(
    st.sampled_from([b"", b"\0", b"\0\0", b"a", b"a" * 8, b"a" * 9, b"C1", b"C10"]), st.binary(max_size=40)
)
STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "remove", "find"]), st.lists(KEY, max_size=8)), max_size=30
)


def slots_of(slots: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(slots, np.int64)


@settings(deadline=None)
@given(STEPS)
def test_an_index_answers_as_a_dictionary_does(steps: list[tuple[str, list[bytes]]]) -> None:
    index, held = KeyIndex(ROOM), dict[bytes, int]()
    free = list(range(ROOM))
    for what, keys in steps:
        known = [key for key in dict.fromkeys(keys) if key in held]
        if what == "add":
            new = [key for key in dict.fromkeys(keys) if key not in held][: len(free)]
            given_out = [free.pop() for _ in new]
            index.add(keys_of(new), slots_of(given_out))
            held.update(zip(new, given_out, strict=True))
        elif what == "remove":
            index.remove(slots_of([held[key] for key in known]))
            free += [held.pop(key) for key in known]
        assert index.find(keys_of(keys)).tolist() == [held.get(key, -1) for key in keys]
        assert index.may_find(keys_of(keys)).tolist() == [key in held for key in keys]
        assert len(index) == len(held)
        assert index.keys(slots_of(list(held.values()))).to_list() == list(held)


def test_another_thread_may_look_while_keys_come_and_go() -> None:
    index, slots = KeyIndex(100), np.arange(100)
    kept, others = keys_of([b"kept %d" % i for i in range(50)]), keys_of([b"other %d" % i for i in range(50)])
    index.add(kept, slots[:50])
    found: list[float] = []
    looking = threading.Thread(
        target=lambda: found.extend(float(index.may_find(kept).mean()) for _ in range(2_000)), daemon=True
    )
    looking.start()
    give_up_s = time.monotonic() + 30
    while looking.is_alive() and time.monotonic() < give_up_s:
        index.add(others, slots[50:])
        index.remove(slots[50:])

    assert len(found) == 2_000
    assert np.mean(found) > 0.99, "what moves up for a key that goes may be missed, and nothing else"


def test_keys_that_come_and_go_leave_no_bytes_behind() -> None:
    index, slots = KeyIndex(100), np.arange(100)
    for turn in range(200):
        index.add(keys_of([b"%d of turn %d, and a long one" % (i, turn) for i in range(100)]), slots)
        assert len(index._bytes) < 20_000
        index.remove(slots)


@settings(deadline=None)
@given(st.lists(KEY, max_size=30))
def test_distinct_keys_are_the_first_of_each(keys: list[bytes]) -> None:
    firsts, which = distinct(keys_of(keys))

    assert [keys[i] for i in firsts.tolist()] == list(dict.fromkeys(keys))
    assert [keys[firsts[k]] for k in which.tolist()] == keys


@settings(deadline=None)
@given(st.lists(KEY, max_size=10), st.integers(0, 9))
def test_keys_are_what_they_were_made_of(keys: list[bytes], first: int) -> None:
    made = keys_of(keys)

    assert made.to_list() == keys
    assert made.take(slice(first, None)).to_list() == keys[first:]
    assert [made[i] for i in range(len(made))] == keys


def test_keys_in_a_buffer_that_may_be_written_are_found_too() -> None:
    index = KeyIndex(4)
    data = np.frombuffer(bytearray(b"-one-two"), np.uint8)
    keys = Keys(data, slots_of([1, 5]), slots_of([4, 8]))

    index.add(keys, slots_of([2, 0]))

    assert index.find(keys_of([b"two", b"one"])).tolist() == [0, 2]
    assert data.flags.writeable


@pytest.mark.parametrize("size_bytes", [10, 1 << 17])
def test_a_missing_key_is_an_empty_object_and_the_others_are_whole(size_bytes: int) -> None:
    data = np.frombuffer(b"abcde" * size_bytes, np.uint8)
    keys = Keys(data, np.array([0, 2, 2, 5]), np.array([2, 1, 5, 4]))

    assert keys.to_list() == [b"ab", b"", b"cde", b""]
