"""Compiling for NVIDIA GPUs: the one module that imports `numba.cuda`. No GPU and no driver are needed.

With `NUMBA_ENABLE_CUDASIM=1` set before numba is imported, `cuda` is numba's simulator.
"""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false
from __future__ import annotations

import re
import types as pytypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba import cuda, types
from numba.core import cgutils
from numba.core.types.functions import BaseFunction
from numba.cuda import dispatcher
from numba.cuda.core.targetconfig import ConfigStack, TargetConfig
from numba.extending import intrinsic

SIGNATURE = types.void(types.CPointer(types.uint8), types.CPointer(types.int64), types.int64, types.int64, types.int64, types.int64)
"""Every GPU kernel: arena, words, size, grain, and the byte offsets of two int64 that are 0 while it is to do nothing (offset 0: none)."""


@contextmanager
def _instead(owner: Any, **others: Any) -> Iterator[None]:
    """What an object of numba's has, replaced for a while."""
    before = {name: getattr(owner, name) for name in others}
    for name, other in others.items():
        setattr(owner, name, other)
    try:
        yield
    finally:
        for name, own in before.items():
            setattr(owner, name, own)


_signature_of: Any = BaseFunction.get_call_type
_same_flags = TargetConfig.__eq__


def _remembered(self: Any, context: Any, args: Any, kws: Any) -> Any:
    """The signature of a call of a function of numba's own, which tries dozens of templates for it: once for arguments of these types."""
    known = self.__dict__.setdefault("_remembered", {})
    asked = context, tuple(args), tuple(kws.items()), ConfigStack.top_or_none()
    if asked not in known:
        signature = _signature_of(self, context, args, kws)
        known[asked] = signature, self._impl_keys[signature.args]
    signature, self._impl_keys[signature.args] = known[asked]
    return signature


def _equal(self: Any, other: Any) -> Any:
    """Whether two sets of flags are equal. numba asks so in each of its caches, and reads them all, unset ones too."""
    same = type(self) is type(other) and self._values == other._values
    return same or _same_flags(self, other)


def to_ptx(run: Any, arch: tuple[int, int], threads: int) -> tuple[str, str]:
    """(name of the entry, PTX) of a kernel's function for GPUs of compute capability `arch` and later, for blocks of `threads` threads."""
    at_hand = pytypes.SimpleNamespace(compute_capability=arch)     # numba asks the GPU what functions called by a kernel are compiled for
    with (_instead(dispatcher, get_current_device=lambda: at_hand), _instead(BaseFunction, get_call_type=_remembered),
          _instead(TargetConfig, __eq__=_equal, __hash__=lambda flags: hash(type(flags)))):
        text, _ = cuda.compile(run, SIGNATURE, device=False, abi="numba", cc=arch, launch_bounds=threads)
    name = re.search(r"\.visible \.entry (\w+)\(", text)
    assert name, "the compiler made no kernel"
    return name.group(1), text


# ---------------------------------------------------------------- what CUDA's Python has no words for

@intrinsic
def view_of(typingctx, array, kind):
    """A pointer to numbers of type `kind` where an array begins: an index of it is not asked whether it is negative, as one of the array is."""
    result = types.CPointer(kind.instance_type)

    def codegen(context, builder, signature, args):
        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0]).data
        return builder.bitcast(data, context.get_value_type(result))

    return result(array, kind), codegen


@intrinsic
def four_of(typingctx, pointer, index):
    """`pointer[index : index + 4]` as a tuple, in one read of 16 bytes, two in float64; the address must be a multiple of 16."""
    result = types.UniTuple(pointer.dtype, 4)

    def codegen(context, builder, signature, args):
        vector = ir.VectorType(context.get_value_type(pointer.dtype), 4)
        place = builder.bitcast(builder.gep(args[0], [args[1]]), vector.as_pointer())
        value = builder.load(place, align=16)
        return cgutils.pack_array(builder, [builder.extract_element(value, ir.Constant(ir.IntType(32), i)) for i in range(4)])

    return result(pointer, types.int64), codegen


@intrinsic
def put_four(typingctx, pointer, index, a, b, c, d):
    """`pointer[index : index + 4] = a, b, c, d` of float32, in one write of 16 bytes; the address must be a multiple of 16."""
    def codegen(context, builder, signature, args):
        vector = ir.VectorType(context.get_value_type(pointer.dtype), 4)
        value = ir.Constant(vector, ir.Undefined)
        for i, part in enumerate(args[2:]):
            value = builder.insert_element(value, part, ir.Constant(ir.IntType(32), i))
        builder.store(value, builder.bitcast(builder.gep(args[0], [args[1]]), vector.as_pointer()), align=16)
        return context.get_dummy_value()

    return types.void(pointer, types.int64, a, b, c, d), codegen

