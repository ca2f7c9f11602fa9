"""What compiled code needs to work with a C library: words at addresses, and calls by address.

Numba's cache does not see a change in this file: touch the files that use it too.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_WORD = ir.IntType(64)


@intrinsic  # type: ignore[untyped-decorator]
def word_at(_: Any, _address: Any) -> Any:
    """The 64-bit word at an address."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], _WORD.as_pointer()))

    return types.int64(types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def put_word(_: Any, _address: Any, _word: Any) -> Any:
    """Write a 64-bit word to an address."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        builder.store(arguments[1], builder.inttoptr(arguments[0], _WORD.as_pointer()))
        return ir.Constant(_WORD, 0)

    return types.int64(types.int64, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def byte_at(_: Any, _address: Any) -> Any:
    """The byte at an address."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        byte = builder.load(builder.inttoptr(arguments[0], ir.IntType(8).as_pointer()))
        return builder.zext(byte, _WORD)

    return types.int64(types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def copy_bytes(_: Any, _to: Any, _source: Any, _size: Any) -> Any:
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
def call0(_: Any, _function: Any) -> Any:
    """Call the function at an address; here and below, every argument and the result is one word."""
    return types.int64(types.int64), _caller(0)


@intrinsic  # type: ignore[untyped-decorator]
def call1(_: Any, _function: Any, _a: Any) -> Any:
    """With one argument."""
    return types.int64(*[types.int64] * 2), _caller(1)


@intrinsic  # type: ignore[untyped-decorator]
def call2(_: Any, _function: Any, _a: Any, _b: Any) -> Any:
    """With two arguments."""
    return types.int64(*[types.int64] * 3), _caller(2)


@intrinsic  # type: ignore[untyped-decorator]
def call3(_: Any, _function: Any, _a: Any, _b: Any, _c: Any) -> Any:
    """With three arguments."""
    return types.int64(*[types.int64] * 4), _caller(3)


@intrinsic  # type: ignore[untyped-decorator]
def call5(_: Any, _function: Any, _a: Any, _b: Any, _c: Any, _d: Any, _e: Any) -> Any:
    """With five arguments."""
    return types.int64(*[types.int64] * 6), _caller(5)


@intrinsic  # type: ignore[untyped-decorator]
def call8(
    _: Any, _function: Any, _a: Any, _b: Any, _c: Any, _d: Any, _e: Any, _f: Any, _g: Any, _h: Any
) -> Any:
    """With eight arguments."""
    return types.int64(*[types.int64] * 9), _caller(8)
