"""The heart of a small matrix product: a block of the output kept in vector registers while k runs.

Written as LLVM vectors, because a loop vectoriser cannot be talked into keeping a block of accumulators.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_I1, _I32, _I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


def _vector_function(builder, operation, vector):
    """LLVM's fused multiply-add, masked load or masked store for a vector type; lanes outside a mask are not touched."""
    mask, pointer = ir.VectorType(_I1, vector.count), ir.IntType(8).as_pointer()
    result, args = {"fma": (vector, [vector] * 3), "masked.load": (vector, [pointer, _I32, mask, vector]),
                    "masked.store": (ir.VoidType(), [vector, pointer, _I32, mask])}[operation]
    suffix = f"v{vector.count}{'f32' if str(vector.element) == 'float' else 'f64'}" + (".p0" if operation.startswith("masked") else "")
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, args), f"llvm.{operation}.{suffix}")


@intrinsic
def tile(typingctx, rows, lanes, c, ldc, a, a_row, a_step, b, ldb, k, columns):
    """C[0:rows, 0:columns] = A B for literal numbers of rows and of lanes in a vector; at most one vector of columns.

    Strides are in elements: A[i, p] at i * a_row + p * a_step, B[p, j] at p * ldb + j, C[i, j] at i * ldc + j.
    """
    if not isinstance(rows, types.IntegerLiteral) or not isinstance(lanes, types.IntegerLiteral):
        return None
    count, width = rows.literal_value, lanes.literal_value
    real = c.dtype
    sig = types.void(rows, lanes, c, types.int64, a, types.int64, types.int64, b, types.int64, types.int64, types.int64)

    def codegen(context, builder, signature, args):
        _, _, c, ldc, a, a_row, a_step, b, ldb, k, columns = args
        number = context.get_value_type(real)
        size = 4 if real == types.float32 else 8
        vector = ir.VectorType(number, width)
        indices = ir.VectorType(_I64, width)
        limit = _splat(builder, columns, indices)
        mask = builder.icmp_signed("<", ir.Constant(indices, [ir.Constant(_I64, i) for i in range(width)]), limit)
        zero = ir.Constant(vector, [ir.Constant(number, 0.0)] * vector.count)
        sums = [cgutils.alloca_once_value(builder, zero) for _ in range(count)]
        load, store, fma = (_vector_function(builder, name, vector) for name in ("masked.load", "masked.store", "fma"))
        align = ir.Constant(_I32, size)
        with cgutils.for_range(builder, k) as loop:
            p = loop.index
            right = builder.call(load, [_bytes(builder, builder.gep(b, [builder.mul(p, ldb)])), align, mask, zero])
            along = builder.mul(p, a_step)
            for i, total in enumerate(sums):
                at = builder.add(builder.mul(ir.Constant(_I64, i), a_row), along)
                left = _splat(builder, builder.load(builder.gep(a, [at])), vector)
                builder.store(builder.call(fma, [left, right, builder.load(total)]), total)
        for i, total in enumerate(sums):
            at = builder.mul(ir.Constant(_I64, i), ldc)
            builder.call(store, [builder.load(total), _bytes(builder, builder.gep(c, [at])), align, mask])
        return context.get_dummy_value()

    return sig, codegen


def _bytes(builder, pointer):
    return builder.bitcast(pointer, ir.IntType(8).as_pointer())


def _splat(builder, value, vector):
    """A vector with `value` in every lane."""
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(_I32, vector.count), [0] * vector.count))
