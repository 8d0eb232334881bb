"""The heart of a small matrix product: a block of the output kept in vector registers while k runs.

Written as LLVM vectors, because a loop vectoriser cannot be talked into keeping a block of accumulators.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

HEIGHT = 6      # rows of the tallest block: six accumulators hide the latency of a multiply-add, and with two registers each still fit AVX2's sixteen

_I1, _I32, _I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


@intrinsic
def tile(typingctx, lanes, c, ldc, s, lds, a, a_row, a_step, b, ldb, rows, k, columns):
    """C[0:rows, 0:columns] = S + A B, for 1 to HEIGHT rows and at most a vector of `lanes` (a literal) columns.

    Strides are in elements: A[i, p] at i * a_row + p * a_step, B[p, j] at p * ldb + j, C[i, j] at i * ldc + j, S[i, j] at i * lds + j.
    S is zero where `lds` is -1, one row for all (a bias) where it is 0, and may be C itself, which then accumulates.
    """
    if not isinstance(lanes, types.IntegerLiteral):
        return None
    width, real, whole = lanes.literal_value, c.dtype, types.int64
    sig = types.void(lanes, c, whole, s, whole, a, whole, whole, b, whole, whole, whole, whole)

    def codegen(context, builder, signature, args):
        _, c, ldc, s, lds, a, a_row, a_step, b, ldb, rows, k, columns = args
        vector = ir.VectorType(context.get_value_type(real), width)
        places = ir.Constant(ir.VectorType(_I64, width), list(range(width)))
        mask = builder.icmp_signed("<", places, _splat(builder, columns, places.type))
        started = builder.icmp_signed(">=", lds, ir.Constant(_I64, 0))
        block = _Block(builder, vector, mask, builder.and_(mask, _splat(builder, started, mask.type)))
        end = builder.append_basic_block("end")
        switch = builder.switch(rows, end)
        for height in range(1, HEIGHT + 1):
            with builder.goto_block(builder.append_basic_block(f"rows{height}")):
                switch.add_case(ir.Constant(_I64, height), builder.block)
                sums = [cgutils.alloca_once_value(builder, block.load(s, builder.mul(ir.Constant(_I64, i), lds), first=True)) for i in range(height)]
                block.accumulate(sums, a, a_row, a_step, b, ldb, k)
                for i, total in enumerate(sums):
                    block.store(builder.load(total), c, builder.mul(ir.Constant(_I64, i), ldc))
                builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return sig, codegen


class _Block:
    """Vectors of one type, of which the lanes within a mask are read and written."""

    def __init__(self, builder, vector, mask, first):
        self.builder, self.vector, self.mask, self.first = builder, vector, mask, first
        self.zero = ir.Constant(vector, [ir.Constant(vector.element, 0.0)] * vector.count)
        self.align = ir.Constant(_I32, 4 if str(vector.element) == "float" else 8)
        pointer = ir.IntType(8).as_pointer()
        self._fma = self._function("fma", vector, [vector] * 3)
        self._load = self._function("masked.load", vector, [pointer, _I32, mask.type, vector])
        self._store = self._function("masked.store", ir.VoidType(), [vector, pointer, _I32, mask.type])

    def _function(self, name, result, args):
        suffix = f"v{self.vector.count}{'f32' if str(self.vector.element) == 'float' else 'f64'}" + (".p0" if "masked" in name else "")
        return cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(result, args), f"llvm.{name}.{suffix}")

    def load(self, pointer, shift, first=False):
        """The vector at `shift` elements; what a block starts from only where there is something to start from."""
        return self.builder.call(self._load, [self._at(pointer, shift), self.align, self.first if first else self.mask, self.zero])

    def store(self, value, pointer, shift):
        self.builder.call(self._store, [value, self._at(pointer, shift), self.align, self.mask])

    def accumulate(self, sums, a, a_row, a_step, b, ldb, k):
        """Add A B to the accumulators, one row of B at a time."""
        builder = self.builder
        with cgutils.for_range(builder, k) as loop:
            right = self.load(b, builder.mul(loop.index, ldb))
            along = builder.mul(loop.index, a_step)
            for i, total in enumerate(sums):
                at = builder.add(builder.mul(ir.Constant(_I64, i), a_row), along)
                left = _splat(builder, builder.load(builder.gep(a, [at])), self.vector)
                builder.store(builder.call(self._fma, [left, right, builder.load(total)]), total)

    def _at(self, pointer, shift):
        return self.builder.bitcast(self.builder.gep(pointer, [shift]), ir.IntType(8).as_pointer())


def _splat(builder, value, vector):
    """A vector with `value` in every lane."""
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(_I32, vector.count), [0] * vector.count))
