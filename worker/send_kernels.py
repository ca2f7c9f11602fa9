"""Columns of records to librdkafka, compiled: functions of the client are called by their address."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cfunc, njit

from schemas import array_types as t
from worker.native_calls import byte_at, call0, call1, call3, call5, call8, put_word, word_at

# The functions that the kernels call, in the order in which `calls` has their addresses.
CALLS = (
    "rd_kafka_produce",
    "rd_kafka_last_error",
    "rd_kafka_produceva",
    "rd_kafka_headers_new",
    "rd_kafka_header_add",
    "rd_kafka_headers_destroy",
    "rd_kafka_error_code",
    "rd_kafka_error_destroy",
)
_PRODUCE, _LAST_ERROR, _PRODUCE_ANY, _HEADERS, _HEADER, _DROP_HEADERS, _CODE, _DROP_ERROR = range(len(CALLS))
_ANY_PARTITION, _COPY = -1, 2  # RD_KAFKA_PARTITION_UA, RD_KAFKA_MSG_F_COPY
# What rd_kafka_produceva takes: rd_kafka_vu_t (rdkafka.h), a kind and 64 bytes for up to two words.
_TOPIC, _VALUE, _KEY, _OPAQUE, _FLAGS, _HEADERS_KIND = 2, 4, 5, 6, 7, 10
_WORDS = 9
_REPORT_OPAQUE = 64  # where rd_kafka_message_t has what was given as the opaque, in bytes


@cfunc("void(int64, int64, int64)", cache=True)  # type: ignore[untyped-decorator]
def note_report(_client: int, message: int, _opaque: int) -> None:
    """A delivery report, to the two words that the message was sent with: its error, one less under way."""
    error, noted_at = word_at(message) & 0xFFFFFFFF, word_at(message + _REPORT_OPAQUE)
    if noted_at == 0:
        return
    if error != 0:
        put_word(noted_at, error)
    put_word(noted_at + 8, word_at(noted_at + 8) - 1)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _size_at(address: int) -> Any:
    size = 0
    for j in range(4):
        size |= byte_at(address + j) << (8 * j)
    return np.int64(np.int32(size))


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _client_headers(at: int, end: int, calls: Any) -> Any:
    """Packed headers (worker/records.py) as librdkafka's."""
    headers = call1(calls[_HEADERS], 8)
    while at < end:
        name_size = _size_at(at)
        name = at + 4
        value_size = _size_at(name + name_size)
        value = name + name_size + 4
        call5(calls[_HEADER], headers, name, name_size, value if value_size >= 0 else 0, max(value_size, 0))
        at = value + max(value_size, 0)
    return headers


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _hand_over_with_headers(
    client: int,
    topic: int,
    value: int,
    value_size: int,
    key: int,
    key_size: int,
    headers: int,
    noted_at: int,
    calls: Any,
    given: Any,
) -> Any:
    """The error, or 0; given is (6, 9) int64, overwritten."""
    given[0, 0], given[0, 1] = _TOPIC, topic
    given[1, 0], given[1, 1], given[1, 2] = _VALUE, value, value_size
    given[2, 0], given[2, 1], given[2, 2] = _KEY, key, key_size
    given[3, 0], given[3, 1] = _FLAGS, _COPY
    given[4, 0], given[4, 1] = _OPAQUE, noted_at
    given[5, 0], given[5, 1] = _HEADERS_KIND, headers
    refused = call3(calls[_PRODUCE_ANY], client, given.ctypes.data, given.shape[0])
    if refused == 0:
        return 0
    error = call1(calls[_CODE], refused) & 0xFFFFFFFF
    call1(calls[_DROP_ERROR], refused)
    call1(calls[_DROP_HEADERS], headers)  # else they are the client's
    return error


@njit((*[t.INT64] * 3, *[t.BYTES, t.INT64S, t.INT64S] * 3, t.INT64, t.INT64S), cache=True, nogil=True)  # type: ignore[untyped-decorator]
def hand_over(
    first: int,
    client: int,
    topic: int,
    values: Any,
    value_starts: Any,
    value_ends: Any,
    keys: Any,
    key_starts: Any,
    key_ends: Any,
    headers: Any,
    header_starts: Any,
    header_ends: Any,
    noted_at: int,
    calls: Any,
) -> Any:
    """Give n records to the client, in order, until it refuses one.

    Args:
        first: which of them to begin with.
        client, topic: addresses of its rd_kafka_t, and of its rd_kafka_topic_t.
        values, value_starts, value_ends: (n,) byte strings in one buffer; what ends before it begins is none.
        keys, key_starts, key_ends: the same.
        headers, header_starts, header_ends: the same of packed headers, or (0,).
        noted_at: address of two words that delivery reports change, see `note_report`; they must stay.
        calls: int64 addresses of functions, in the order of CALLS.

    Returns:
        The first that was not taken, n if there is none, and the client's error code, as 32 bits.
    """
    n = value_starts.shape[0]
    values_at, keys_at, headers_at = values.ctypes.data, keys.ctypes.data, headers.ctypes.data
    given = np.zeros((6, _WORDS), np.int64)  # lives until the loop ends: its address is all that a call has
    for i in range(first, n):
        value, value_size = values_at + value_starts[i], value_ends[i] - value_starts[i]
        if value_size < 0:
            value, value_size = 0, 0
        key, key_size = keys_at + key_starts[i], key_ends[i] - key_starts[i]
        if key_size < 0:
            key, key_size = 0, 0
        error = 0
        if i < header_starts.shape[0] and header_ends[i] > header_starts[i]:
            packed = _client_headers(headers_at + header_starts[i], headers_at + header_ends[i], calls)
            error = _hand_over_with_headers(
                client, topic, value, value_size, key, key_size, packed, noted_at, calls, given
            )
        else:
            refused = call8(
                calls[_PRODUCE], topic, _ANY_PARTITION, _COPY, value, value_size, key, key_size, noted_at
            )
            if refused & 0xFFFFFFFF != 0:
                error = call0(calls[_LAST_ERROR]) & 0xFFFFFFFF
        if error != 0:
            return i, error
    return n, 0
