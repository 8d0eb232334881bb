"""Mathematics that loops can do eight numbers at a time.

llvmlite from PyPI has no vector library, so `math.exp` in a loop is a call per element. The functions here are polynomials and selects without
branches: LLVM inlines them and vectorises the loop around them. `float32` and `float64` hold the same names for their type; a kernel's file imports
one of the two. All pass NaN on. Errors are stated per function in units of the last place (ulp) and tested.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic

intrinsic: Callable[[Callable[..., Any]], Callable[..., Any]] = _intrinsic   # what it makes is called with other arguments than it is written with
inline: Callable[[Callable[..., Any]], Callable[..., Any]] = njit(forceinline=True, error_model="numpy", fastmath={"contract"})
"""Compile into the caller; only multiply-adds may be fused, so that tests for NaN and infinity stay."""


@intrinsic
def select(typingctx, condition, yes, no):
    """`yes if condition else no`, both computed: no branch stands in the way of vectors."""
    def codegen(context, builder, signature, args):
        return builder.select(context.cast(builder, args[0], condition, types.boolean), args[1], args[2])

    return (yes(condition, yes, no), codegen) if yes == no else None


@intrinsic
def larger(typingctx, a, b):
    """The larger of two whole numbers of one type, in that type: numba's own `max` would widen them."""
    def codegen(context, builder, signature, args):
        return builder.select(builder.icmp_signed(">", *args), *args)

    return (a(a, b), codegen) if a == b else None


def polynomial(*coefficients: float) -> Any:
    """A function of x: the polynomial with these coefficients, lowest power first, by Horner's scheme."""
    @intrinsic
    def evaluate(typingctx, x):
        def codegen(context, builder, signature, args):
            kind = context.get_value_type(x)
            total = ir.Constant(kind, coefficients[-1])
            for c in reversed(coefficients[:-1]):
                total = builder.fadd(builder.fmul(total, args[0], flags=("contract",)), ir.Constant(kind, c), flags=("contract",))
            return total

        return x(x), codegen

    return evaluate


def _of_llvm(operation: str, arguments: int, on_gpu: str = "") -> Any:
    """One of LLVM's own functions of floats as an intrinsic; a GPU's compiler has them in libdevice instead, there mostly under C's names."""
    def make(x):
        def codegen(context, builder, signature, args):
            kind = context.get_value_type(x)
            function = ir.FunctionType(kind, [kind] * arguments)
            name = f"llvm.{operation}.f{32 if x == types.float32 else 64}"
            if builder.module.triple.startswith("nvptx"):
                name = f"__nv_{on_gpu or operation}{'f' if x == types.float32 else ''}"
            value = builder.call(cgutils.get_or_insert_function(builder.module, function, name), args)
            if name.startswith(("__nv_fmin", "__nv_fmax")):      # C's fmin and fmax pass over NaN
                value = builder.select(builder.fcmp_unordered("uno", *args), builder.fadd(*args), value)
            return value

        return x(*[x] * arguments), codegen

    if arguments == 1:
        @intrinsic
        def call(typingctx, x):
            return make(x)
    elif arguments == 2:
        @intrinsic
        def call(typingctx, x, y):
            return make(x) if x == y else None
    else:
        @intrinsic
        def call(typingctx, x, y, z):
            return make(x) if x == y == z else None
    return call


sqrt, floor, fabs = _of_llvm("sqrt", 1), _of_llvm("floor", 1), _of_llvm("fabs", 1)
sin, cos, tan = _of_llvm("sin", 1), _of_llvm("cos", 1), _of_llvm("tan", 1)   # libm: one element at a time; for GPUs see circle.py
fma = _of_llvm("fma", 3)
pow = _of_llvm("pow", 2)                                                     # libm
copysign = _of_llvm("copysign", 2)
minimum, maximum = _of_llvm("minimum", 2, "fmin"), _of_llvm("maximum", 2, "fmax")    # NaN wins, -0 < +0, as numpy's
