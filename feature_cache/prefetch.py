"""Asking for memory before it is needed, so that a kernel waits for several places at once, not for each.

Numba keeps compiled code by the date of a kernel's own file: after a change here, touch the kernels' files.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

AHEAD = 16  # rows between asking and needing: more than are waited for at once, fewer than a cache holds

_READ, _KEEP, _DATA = 0, 3, 1


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(typing: Any, array: Any, row: Any) -> Any:  # noqa: ARG001 the signature that numba calls
    """Ask for the memory of array[row] along its first axis; any row is allowed, and nothing changes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        view = context.make_array(kind)(context, builder, arguments[0])
        stride = cgutils.unpack_tuple(builder, view.strides, kind.ndim)[0]
        at = builder.mul(arguments[1], stride)
        byte = ir.IntType(8)
        place = builder.gep(builder.bitcast(view.data, byte.as_pointer()), [at])
        number = ir.IntType(32)
        prefetch_type = ir.FunctionType(ir.VoidType(), [byte.as_pointer(), number, number, number])
        function = cgutils.get_or_insert_function(builder.module, prefetch_type, "llvm.prefetch.p0")
        builder.call(function, [place, *(ir.Constant(number, each) for each in (_READ, _KEEP, _DATA))])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate
