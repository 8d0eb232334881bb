"""How kernels reach their operands: loads and stores that are known to be apart, whole numbers of any width, rows of elementwise operands."""

# pyright: reportCallIssue=false
from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils

from engine.kernels.intrinsics import view
from engine.kernels.vecmath import inline, intrinsic


def _scope(module):
    """The list of one alias scope, the output's: what is stored with it is not what is loaded without it."""
    domain = module.add_metadata(["trainyard"])
    return module.add_metadata([module.add_metadata(["trainyard output", domain])])


@intrinsic
def load(typingctx, pointer, index):
    """`pointer[index]` of an input that `store` does not change before it is read: no test at run time whether arrays overlap.

    True also where the output takes the input's own place, element for element.
    """
    def codegen(context, builder, signature, args):
        value = builder.load(builder.gep(args[0], [args[1]]))
        value.set_metadata("noalias", _scope(builder.module))
        return value

    return pointer.dtype(pointer, types.int64), codegen


@intrinsic
def store(typingctx, pointer, index, value):
    """`pointer[index] = value` of an output that is written once; see `load`."""
    def codegen(context, builder, signature, args):
        done = builder.store(args[2], builder.gep(args[0], [args[1]]))
        done.set_metadata("alias.scope", _scope(builder.module))
        return context.get_dummy_value()

    return types.void(pointer, types.int64, pointer.dtype), codegen


@intrinsic
def whole_number(typingctx, arena, offset, width, index):
    """Element `index` of an array of int32, int64 or uint8, by its `width` in bytes, as an int64."""
    def codegen(context, builder, signature, args):
        arena, offset, width, index = args
        wide, place = ir.IntType(64), builder.gep(arena, [builder.add(offset, builder.mul(width, index))])
        result = cgutils.alloca_once(builder, wide)

        def read(bits, extend):
            value = builder.load(builder.bitcast(place, ir.IntType(bits).as_pointer()))
            builder.store(value if bits == 64 else extend(value, wide), result)

        with builder.if_else(builder.icmp_signed("==", width, ir.Constant(wide, 4))) as (four, other):
            with four:
                read(32, builder.sext)
            with other, builder.if_else(builder.icmp_signed("==", width, ir.Constant(wide, 8))) as (eight, one):
                with eight:
                    read(64, builder.sext)
                with one:
                    read(8, builder.zext)
        return builder.load(result)

    return types.int64(arena, types.int64, types.int64, types.int64), codegen


@inline
def rows_of(row, begin, end):
    """How an elementwise kernel walks [begin, end): rows, elements of each, number of the first, elements of it to skip. `row` 0 is one long row."""
    if row == 0:
        return 1, end - begin, 0, begin
    return (end - begin) // row, row, begin // row, 0


@inline
def operand(arena, words, k, row, skip, kind, width):
    """A pointer to a row of the operand whose words (offset, row step, column step) start at words[k]."""
    return view(arena, words[k] + (row * words[k + 1] + skip * words[k + 2]) * width, kind)
