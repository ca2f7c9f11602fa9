"""librdkafka's messages as columns, compiled: functions of the client are called by their address."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

# Where rd_kafka_message_t (rdkafka.h) has its fields, in bytes.
_PARTITION, _PAYLOAD, _LEN, _KEY, _KEY_LEN, _OFFSET = 16, 24, 32, 40, 48, 56
_WORD = ir.IntType(64)


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


@intrinsic  # type: ignore[untyped-decorator]
def _word_at(_: Any, _address: Any) -> Any:
    """The 64-bit word at an address."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], _WORD.as_pointer()))

    return types.int64(types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _byte_at(_: Any, _address: Any) -> Any:
    """The byte at an address."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        byte = builder.load(builder.inttoptr(arguments[0], ir.IntType(8).as_pointer()))
        return builder.zext(byte, _WORD)

    return types.int64(types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _copy_bytes(_: Any, _to: Any, _source: Any, _size: Any) -> Any:
    """Copy size bytes from one address to another."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        to, source, size = arguments
        cgutils.raw_memcpy(builder, builder.inttoptr(to, byte), builder.inttoptr(source, byte), size, 1)
        return ir.Constant(_WORD, 0)

    return types.int64(types.int64, types.int64, types.int64), generate


def _caller(count: int) -> Any:
    """Code that calls the function at arguments[0] with count words."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_WORD, [_WORD] * count)
        return builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])

    return generate


@intrinsic  # type: ignore[untyped-decorator]
def _call1(_: Any, _function: Any, _a: Any) -> Any:
    return types.int64(*[types.int64] * 2), _caller(1)


@intrinsic  # type: ignore[untyped-decorator]
def _call2(_: Any, _function: Any, _a: Any, _b: Any) -> Any:
    return types.int64(*[types.int64] * 3), _caller(2)


@intrinsic  # type: ignore[untyped-decorator]
def _call5(_: Any, _function: Any, _a: Any, _b: Any, _c: Any, _d: Any, _e: Any) -> Any:
    return types.int64(*[types.int64] * 6), _caller(5)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _text_length(address: int) -> int:
    """Bytes before the zero that ends a text."""
    length = 0
    while _byte_at(address + length) != 0:
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
    missing = _call2(calls[_HEADERS], message, scratch.ctypes.data) & 0xFFFFFFFF
    return 0 if missing else scratch[0]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _has_header(headers: int, index: int, calls: Any, scratch: Any) -> bool:
    """Whether there is one more; scratch then is where its name and value are, and the value's size."""
    at = scratch.ctypes.data
    return bool(_call5(calls[_HEADER], headers, index, at, at + 8, at + 16) & 0xFFFFFFFF == 0)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def measure(messages: Any, calls: Any, partition: Any, offset: Any, produced_ms: Any, sizes: Any) -> None:
    """The numbers of n messages, and how much room their bytes take.

    Args:
        messages: (n,) int64 addresses.
        calls: int64 addresses of functions, in the order of CALLS.
        partition: (n,) int32, filled.
        offset, produced_ms: (n,) int64, filled.
        sizes: (3, n) int64, filled for value, key and packed headers; -1: there is none.
    """
    scratch = np.zeros(3, np.int64)
    for i in range(messages.shape[0]):
        message = messages[i]
        partition[i] = np.int32(_word_at(message + _PARTITION) & 0xFFFFFFFF)
        offset[i] = _word_at(message + _OFFSET)
        produced_ms[i] = _call2(calls[_TIMESTAMP], message, scratch.ctypes.data)
        sizes[0, i] = _word_at(message + _LEN) if _word_at(message + _PAYLOAD) != 0 else -1
        sizes[1, i] = _word_at(message + _KEY_LEN) if _word_at(message + _KEY) != 0 else -1
        sizes[2, i] = -1
        headers = _headers_of(message, calls, scratch)
        if headers == 0:
            continue
        room, index = 0, 0
        while _has_header(headers, index, calls, scratch):
            room += 8 + _text_length(scratch[0]) + (scratch[2] if scratch[1] != 0 else 0)
            index += 1
        sizes[2, i] = room


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def copy(messages: Any, calls: Any, starts: Any, sizes: Any, data: Any) -> None:
    """Copy what `measure` has measured.

    Args:
        messages, calls, sizes: as there.
        starts: (3, n) int64 where each begins in data.
        data: uint8, filled.
    """
    scratch = np.zeros(3, np.int64)
    to = data.ctypes.data
    for i in range(messages.shape[0]):
        message = messages[i]
        if sizes[0, i] > 0:
            _copy_bytes(to + starts[0, i], _word_at(message + _PAYLOAD), sizes[0, i])
        if sizes[1, i] > 0:
            _copy_bytes(to + starts[1, i], _word_at(message + _KEY), sizes[1, i])
        if sizes[2, i] <= 0:
            continue
        headers, at, index = _headers_of(message, calls, scratch), starts[2, i], 0
        while _has_header(headers, index, calls, scratch):
            length = _text_length(scratch[0])
            at = _put_size(data, at, length)
            _copy_bytes(to + at, scratch[0], length)
            at += length
            size = scratch[2] if scratch[1] != 0 else -1
            at = _put_size(data, at, size)
            if size > 0:
                _copy_bytes(to + at, scratch[1], size)
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
        event = _call2(calls[_POLL], queue, wait_ms if count == 0 else 0)
        if event == 0:
            break
        events[count] = event
        is_fetch = _call1(calls[_TYPE], event) & 0xFFFFFFFF == _FETCH
        messages[count] = _call1(calls[_NEXT], event) if is_fetch else 0
        count += 1
    return count


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def destroy(events: Any, calls: Any) -> None:
    """Give (n,) events back to the client, and their messages with them."""
    for i in range(events.shape[0]):
        _call1(calls[_DESTROY], events[i])
