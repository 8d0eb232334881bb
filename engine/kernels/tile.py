"""The heart of a small matrix product: a block of the output kept in vector registers while k runs.

Written as LLVM vectors, because a loop vectoriser cannot be talked into keeping a block of accumulators.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

HEIGHT = 6      # rows of the tallest block: six accumulators hide the latency of a multiply-add, and with two registers each still fit AVX2's sixteen

_I32, _I64, _INT = ir.IntType(32), ir.IntType(64), types.int64


@intrinsic
def tile(typingctx, lanes, c, ldc, s, lds, a, a_row, a_step, b, ldb, rows, k, columns):
    """C[0:rows, 0:columns] = S + A B, for 1 to HEIGHT rows and at most a vector of `lanes` (a literal) columns.

    A whole vector is faster where `columns` is a literal too: no lane is masked.
    Strides are in elements: A[i, p] at i * a_row + p * a_step, B[p, j] at p * ldb + j, C[i, j] at i * ldc + j, S[i, j] at i * lds + j.
    S is zero where `lds` is -1, one row for all (a bias) where it is 0, and may be C itself, which then accumulates.
    """
    sig = types.void(lanes, c, _INT, c, _INT, c, _INT, _INT, c, _INT, rows, _INT, columns)
    return _product(lanes, sig, "c ldc s lds a a_row a_step b ldb rows k columns")


@intrinsic
def tile_finishing(typingctx, lanes, c, ldc, a, a_row, a_step, b, ldb, rows, k, columns, finish, more):
    """C = A B as `tile`, and what `finish` says is done before the numbers leave the registers.

    0 nothing, 1 plus a row M[j], 2 relu of that, 3 times (M > 0) where M[i, j] is at i * ldc + j.
    """
    sig = types.void(lanes, c, _INT, c, _INT, _INT, c, _INT, rows, _INT, columns, _INT, c)
    return _product(lanes, sig, "c ldc a a_row a_step b ldb rows k columns finish more")


@intrinsic
def tile_copying(typingctx, lanes, c, ldc, a, a_row, a_step, b, ldb, rows, k, columns, finish, more, copy):
    """`tile_finishing`, which also writes each row of B that it reads to `copy`, `lanes` elements apart, for the blocks that follow."""
    sig = types.void(lanes, c, _INT, c, _INT, _INT, c, _INT, rows, _INT, columns, _INT, c, c)
    return _product(lanes, sig, "c ldc a a_row a_step b ldb rows k columns finish more copy")


@intrinsic
def turn(typingctx, y, ldy, x, ldx, rows, columns):
    """Y[j, i] = X[i, j] for 16 rows and 16 columns, in registers: four perfect shuffles of the rows. Strides from row to row in elements.

    `columns` of X are read, the others are zeros, and `rows` are written to Y. A literal 16 is all of them.
    """
    def codegen(context, builder, signature, args):
        y, ldy, x, ldx, height, width = args
        vector = ir.VectorType(context.get_value_type(signature.args[2].dtype), 16)
        first = [None if isinstance(kind, types.IntegerLiteral) else _first_lanes(builder, vector, number)
                 for kind, number in zip(signature.args[4:], (height, width), strict=True)]
        block, read = _Block(builder, vector, first[0]), _Block(builder, vector, first[1])
        rows = [read.load(x, builder.mul(_word(i), ldx)) for i in range(16)]
        low, high = (ir.Constant(ir.VectorType(_I32, 16), [half + i // 2 + 16 * (i % 2) for i in range(16)]) for half in (0, 8))
        for _ in range(4):
            rows = [builder.shuffle_vector(rows[i // 2], rows[i // 2 + 8], high if i % 2 else low) for i in range(16)]
        for i, row in enumerate(rows):
            block.store(row, y, builder.mul(_word(i), ldy))
        return context.get_dummy_value()

    return types.void(y, _INT, x, _INT, rows, columns), codegen


@intrinsic
def lower(typingctx, y, n, top):
    """top[i] = the greatest Y[j, i] of n rows of 16 numbers; Y[j, i] -= top[i]."""
    def step(builder, found, row):
        return builder.select(builder.fcmp_ordered("<", found, row), row, found)

    return _over_rows(types.void(y, n, top), step, lambda builder, row, top: builder.fsub(row, top))


@intrinsic
def total(typingctx, y, n, sums):
    """sums[i] = the sum of Y[j, i] over n rows of 16 numbers, from the first to the last."""
    return _over_rows(types.void(y, n, sums), lambda builder, found, row: builder.fadd(found, row), None)


@intrinsic
def scale(typingctx, y, n, factors):
    """Y[j, i] *= factors[i] for n rows of 16 numbers."""
    return _over_rows(types.void(y, n, factors), None, lambda builder, row, factors: builder.fmul(row, factors))


def _over_rows(sig, step, change):
    """The code of a pass over rows of 16 numbers that folds them by `step` into the third argument, and of one that changes each row by that."""
    def codegen(context, builder, signature, args):
        y, n, folded = args
        block = _Block(builder, ir.VectorType(context.get_value_type(signature.args[0].dtype), 16), None)
        if step:
            found = cgutils.alloca_once_value(builder, block.load(y, _word(0)))
            with cgutils.for_range(builder, builder.sub(n, _word(1))) as loop:
                row = block.load(y, builder.mul(builder.add(loop.index, _word(1)), _word(16)))
                builder.store(step(builder, builder.load(found), row), found)
            block.store(builder.load(found), folded, _word(0))
        if change:
            by = block.load(folded, _word(0))
            with cgutils.for_range(builder, n) as loop:
                at = builder.mul(loop.index, _word(16))
                block.store(change(builder, block.load(y, at), by), y, at)
        return context.get_dummy_value()

    return sig, codegen


def _product(lanes, sig, names):
    """The signature and the code of a block of a product. `names` say what the arguments after `lanes` are."""
    if not isinstance(lanes, types.IntegerLiteral):
        return None
    kinds = dict(zip(names.split(), sig.args[1:], strict=True))
    known = {name: kind.literal_value for name, kind in kinds.items() if isinstance(kind, types.IntegerLiteral)}

    def codegen(context, builder, signature, args):
        given = dict(zip(kinds, args[1:], strict=True))
        vector = ir.VectorType(context.get_value_type(kinds["c"].dtype), lanes.literal_value)
        block = _Block(builder, vector, None if known.get("columns") == vector.count else _first_lanes(builder, vector, given["columns"]))
        for rows in _cases(builder, given["rows"], [known["rows"]] if "rows" in known else range(1, HEIGHT + 1)):
            sums = [cgutils.alloca_once_value(builder, block.zero) for _ in range(rows)]
            if "s" in given:
                block.start(sums, given["s"], given["lds"])
            block.accumulate(sums, given)
            if "finish" in given:
                block.finish(sums, given["finish"], given["more"], given["ldc"])
            for i, total in enumerate(sums):
                block.store(builder.load(total), given["c"], builder.mul(_word(i), given["ldc"]))
        return context.get_dummy_value()

    return sig, codegen


def _cases(builder, value, numbers):
    """Write the code for each number in turn, to be run when `value` is that number."""
    if len(numbers) == 1:
        yield numbers[0]
        return
    end = builder.append_basic_block("end")
    switch = builder.switch(value, end)
    for number in numbers:
        builder.position_at_end(builder.append_basic_block(f"case{number}"))
        switch.add_case(_word(number), builder.block)
        yield number
        builder.branch(end)
    builder.position_at_end(end)


class _Block:
    """Vectors of one type, of which the lanes within a mask are read and written; all of them without one."""

    def __init__(self, builder, vector, mask):
        self.builder, self.vector, self.mask = builder, vector, mask
        self.zero = ir.Constant(vector, [ir.Constant(vector.element, 0.0)] * vector.count)
        self.size = 4 if str(vector.element) == "float" else 8

    def load(self, pointer, shift):
        """The vector at `shift` elements; zeros, and nothing is read, outside the mask."""
        if self.mask is None:
            return self.builder.load(self._at(pointer, shift, self.vector), align=self.size)
        return self._call("masked.load", self.vector, self._at(pointer, shift), ir.Constant(_I32, self.size), self.mask, self.zero)

    def store(self, value, pointer, shift):
        if self.mask is None:
            self.builder.store(value, self._at(pointer, shift, self.vector), align=self.size)
        else:
            self._call("masked.store", ir.VoidType(), value, self._at(pointer, shift), ir.Constant(_I32, self.size), self.mask)

    def _call(self, name, result, *args):
        suffix = f"v{self.vector.count}{'f32' if self.size == 4 else 'f64'}" + (".p0" if "masked" in name else "")
        kind = ir.FunctionType(result, [arg.type for arg in args])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.{name}.{suffix}"), args)

    def _at(self, pointer, shift, kind=ir.IntType(8)):
        return self.builder.bitcast(self.builder.gep(pointer, [shift]), kind.as_pointer())

    def start(self, sums, s, lds):
        """Begin with the rows of S, unless `lds` says that there are none."""
        with self.builder.if_then(self.builder.icmp_signed(">=", lds, _word(0))):
            for i, total in enumerate(sums):
                self.builder.store(self.load(s, self.builder.mul(_word(i), lds)), total)

    def accumulate(self, sums, given):
        """Add A B to the accumulators, one row of B at a time."""
        builder = self.builder
        with cgutils.for_range(builder, given["k"]) as loop:
            right = self.load(given["b"], builder.mul(loop.index, given["ldb"]))
            if "copy" in given:
                self.store(right, given["copy"], builder.mul(loop.index, _word(self.vector.count)))
            along = builder.mul(loop.index, given["a_step"])
            for i, total in enumerate(sums):
                at = builder.add(builder.mul(_word(i), given["a_row"]), along)
                left = _splat(builder, builder.load(builder.gep(given["a"], [at])), self.vector)
                builder.store(self._call("fma", self.vector, left, right, builder.load(total)), total)

    def finish(self, sums, finish, more, ldm):
        """Change the accumulators as `finish` says (see `tile_finishing`)."""
        builder, one = self.builder, ir.Constant(self.vector, [ir.Constant(self.vector.element, 1.0)] * self.vector.count)
        plus_row = builder.or_(builder.icmp_signed("==", finish, _word(1)), builder.icmp_signed("==", finish, _word(2)))
        with builder.if_then(plus_row):
            row = self.load(more, _word(0))
            for total in sums:
                builder.store(builder.fadd(builder.load(total), row), total)
        with builder.if_then(builder.icmp_signed("==", finish, _word(2))):
            for total in sums:
                value = builder.load(total)
                builder.store(builder.select(builder.fcmp_ordered("<", value, self.zero), self.zero, value), total)
        with builder.if_then(builder.icmp_signed("==", finish, _word(3))):
            for i, total in enumerate(sums):
                passes = builder.fcmp_ordered(">", self.load(more, builder.mul(_word(i), ldm)), self.zero)
                builder.store(builder.fmul(builder.load(total), builder.select(passes, one, self.zero)), total)


def _word(value):
    return ir.Constant(_I64, value)


def _first_lanes(builder, vector, number):
    """Which lanes of a vector are the first `number`."""
    places = ir.Constant(ir.VectorType(_I64, vector.count), list(range(vector.count)))
    return builder.icmp_signed("<", places, _splat(builder, number, places.type))


def _splat(builder, value, vector):
    """A vector with `value` in every lane."""
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(_I32, vector.count), [0] * vector.count))
