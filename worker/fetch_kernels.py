"""librdkafka's messages as columns, compiled: functions of the client are called by their address."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from worker.native_calls import byte_at, call1, call2, call5, copy_bytes, word_at

# Where rd_kafka_message_t (rdkafka.h) has its fields, in bytes.
_PARTITION, _PAYLOAD, _LEN, _KEY, _KEY_LEN, _OFFSET = 16, 24, 32, 40, 48, 56

# The functions that the kernels call, in the order in which `calls` has their addresses.
CALLS = (
    "rd_kafka_message_timestamp",
    "rd_kafka_message_headers",
    "rd_kafka_header_get_all",
    "rd_kafka_queue_poll",
    "rd_kafka_event_type",
    "rd_kafka_event_message_next",
    "rd_kafka_event_destroy",
)
_TIMESTAMP, _HEADERS, _HEADER, _POLL, _TYPE, _NEXT, _DESTROY = range(len(CALLS))
_FETCH = 0x2  # RD_KAFKA_EVENT_FETCH: one message


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _text_length(address: int) -> int:
    """Bytes before the zero that ends a text."""
    length = 0
    while byte_at(address + length) != 0:
        length += 1
    return length


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _put_size(data: Any, at: int, size: int) -> int:
    for j in range(4):
        data[at + j] = np.uint8((size >> (8 * j)) & 0xFF)
    return at + 4


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _headers_of(message: int, calls: Any, scratch: Any) -> int:
    """Address of a message's headers, or 0."""
    missing = call2(calls[_HEADERS], message, scratch.ctypes.data) & 0xFFFFFFFF
    return 0 if missing else scratch[0]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _has_header(headers: int, index: int, calls: Any, scratch: Any) -> bool:
    """Whether there is one more; scratch then is where its name and value are, and the value's size."""
    at = scratch.ctypes.data
    return bool(call5(calls[_HEADER], headers, index, at, at + 8, at + 16) & 0xFFFFFFFF == 0)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def measure(
    messages: Any, calls: Any, partition: Any, offset: Any, produced_ms: Any, starts: Any, ends: Any
) -> int:
    """The numbers of n messages, and where their bytes go: all values, then all keys, then all headers.

    Args:
        messages: (n,) int64 addresses.
        calls: int64 addresses of functions, in the order of CALLS.
        partition: (n,) int32, filled.
        offset, produced_ms: (n,) int64, filled.
        starts, ends: (3, n) int64, filled for value, key and packed headers; what ends before it begins
            is none.

    Returns:
        How many bytes they are.
    """
    scratch = np.zeros(3, np.int64)
    for i in range(messages.shape[0]):
        message = messages[i]
        partition[i] = np.int32(word_at(message + _PARTITION) & 0xFFFFFFFF)
        offset[i] = word_at(message + _OFFSET)
        produced_ms[i] = call2(calls[_TIMESTAMP], message, scratch.ctypes.data)
        ends[0, i] = word_at(message + _LEN) if word_at(message + _PAYLOAD) != 0 else -1
        ends[1, i] = word_at(message + _KEY_LEN) if word_at(message + _KEY) != 0 else -1
        ends[2, i] = -1
        headers = _headers_of(message, calls, scratch)
        if headers == 0:
            continue
        room, index = 0, 0
        while _has_header(headers, index, calls, scratch):
            room += 8 + _text_length(scratch[0]) + (scratch[2] if scratch[1] != 0 else 0)
            index += 1
        ends[2, i] = room
    used = 0
    for kind in range(3):
        for i in range(messages.shape[0]):
            starts[kind, i] = used
            used += max(0, ends[kind, i])
            ends[kind, i] += starts[kind, i]
    return used


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def copy(messages: Any, calls: Any, starts: Any, ends: Any, data: Any) -> None:
    """Copy what `measure` has measured.

    Args:
        messages, calls, starts, ends: as there.
        data: uint8, filled.
    """
    scratch = np.zeros(3, np.int64)
    to = data.ctypes.data
    for i in range(messages.shape[0]):
        message = messages[i]
        if ends[0, i] > starts[0, i]:
            copy_bytes(to + starts[0, i], word_at(message + _PAYLOAD), ends[0, i] - starts[0, i])
        if ends[1, i] > starts[1, i]:
            copy_bytes(to + starts[1, i], word_at(message + _KEY), ends[1, i] - starts[1, i])
        if ends[2, i] <= starts[2, i]:
            continue
        headers, at, index = _headers_of(message, calls, scratch), starts[2, i], 0
        while _has_header(headers, index, calls, scratch):
            length = _text_length(scratch[0])
            at = _put_size(data, at, length)
            copy_bytes(to + at, scratch[0], length)
            at += length
            size = scratch[2] if scratch[1] != 0 else -1
            at = _put_size(data, at, size)
            if size > 0:
                copy_bytes(to + at, scratch[1], size)
                at += size
            index += 1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def collect(queue: int, wait_ms: int, calls: Any, events: Any, messages: Any) -> int:
    """Take events from a queue until it is empty or they are enough; how many were taken.

    Events, and not messages at once: whatever else a queue holds then comes as an event too, and not as a
    callback, which needs the Python client around it.

    Args:
        queue: address.
        wait_ms: how long the first may take.
        calls: int64 addresses of functions, in the order of CALLS.
        events: (n,) int64, filled with addresses; `destroy` them.
        messages: (n,) int64, filled: the message of each, 0 where it is something else.
    """
    count = 0
    while count < events.shape[0]:
        event = call2(calls[_POLL], queue, wait_ms if count == 0 else 0)
        if event == 0:
            break
        events[count] = event
        is_fetch = call1(calls[_TYPE], event) & 0xFFFFFFFF == _FETCH
        messages[count] = call1(calls[_NEXT], event) if is_fetch else 0
        count += 1
    return count


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def destroy(events: Any, calls: Any) -> None:
    """Give (n,) events back to the client, and their messages with them."""
    for i in range(events.shape[0]):
        call1(calls[_DESTROY], events[i])
