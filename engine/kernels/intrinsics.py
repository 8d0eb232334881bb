"""What numba's Python has no words for: typed pointers into the arena, bits of numbers, calls through an address, atomics.

Every kernel has the C signature `void(arena: uint8*, words: const int64*, begin: int64, end: int64)`.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

SIGNATURE = types.void(types.CPointer(types.uint8), types.CPointer(types.int64), types.int64, types.int64)

_I32, _I64, _PTR = ir.IntType(32), ir.IntType(64), ir.IntType(8).as_pointer()


@intrinsic
def view(typingctx, arena, offset, kind):
    """A pointer to numbers of type `kind`, `offset` bytes into the arena. Indexing it checks nothing."""
    result = types.CPointer(kind.instance_type)

    def codegen(context, builder, signature, args):
        return builder.bitcast(builder.gep(args[0], [args[1]]), context.get_value_type(result))

    return result(arena, offset, kind), codegen


@intrinsic
def view_at(typingctx, address, kind):
    """A pointer to numbers of type `kind` at an absolute address."""
    result = types.CPointer(kind.instance_type)

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(result))

    return result(types.int64, kind), codegen


def _bitcast(source, target):
    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], context.get_value_type(target))

    return target(source), codegen


@intrinsic
def bits_of(typingctx, number):
    """The bits of a float32 as int32, of a float64 as int64."""
    return _bitcast(number, types.int32 if number == types.float32 else types.int64)


@intrinsic
def number_of(typingctx, bits):
    """The float32 with the bits of an int32, the float64 with those of an int64."""
    return _bitcast(bits, types.float32 if bits == types.int32 else types.float64)


@intrinsic
def call_row(typingctx, address, arena, words, begin, end):
    """Call the kernel at `address`."""
    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [context.get_value_type(t) for t in SIGNATURE.args])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), list(args[1:]))
        return context.get_dummy_value()

    return types.void(types.int64, *SIGNATURE.args), codegen


@intrinsic
def gemm(typingctx, address, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
    """Fortran's `?gemm` at `address`: column-major C = alpha op(A) op(B) + beta C. `trans_*` are the letters' codes (78 N, 84 T)."""
    real = a.dtype
    whole = types.int64
    sig = types.void(whole, whole, whole, whole, whole, whole, real, a, whole, b, whole, real, c, whole)

    def codegen(context, builder, signature, args):
        code, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc = args
        char, number = ir.IntType(8), context.get_value_type(real)

        def byref(value, kind):
            with builder.goto_entry_block():
                slot = builder.alloca(kind)
            builder.store(builder.trunc(value, kind) if value.type != kind else value, slot)
            return slot

        slots = [byref(ta, char), byref(tb, char), byref(m, _I32), byref(n, _I32), byref(k, _I32), byref(alpha, number), a, byref(lda, _I32),
                 b, byref(ldb, _I32), byref(beta, number), c, byref(ldc, _I32)]
        slots = [builder.bitcast(s, _PTR) for s in slots]
        kind = ir.FunctionType(ir.VoidType(), [_PTR] * len(slots))
        builder.call(builder.inttoptr(code, kind.as_pointer()), slots)
        return context.get_dummy_value()

    return sig, codegen


@intrinsic
def prefetch(typingctx, pointer):
    """Ask for the cache line at `pointer`, which will be read soon. Any address is allowed."""
    def codegen(context, builder, signature, args):
        ask = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), [_PTR, _I32, _I32, _I32]), "llvm.prefetch.p0")
        builder.call(ask, [builder.bitcast(args[0], _PTR), *(ir.Constant(_I32, word) for word in (0, 3, 1))])     # to read, into every cache, data
        return context.get_dummy_value()

    return types.void(pointer), codegen


@intrinsic
def atomic_add(typingctx, pointer, amount):
    """Add to an int64 that threads share; the value before."""
    def codegen(context, builder, signature, args):
        return builder.atomic_rmw("add", args[0], args[1], "seq_cst")

    return types.int64(types.CPointer(types.int64), types.int64), codegen


@intrinsic
def atomic_load(typingctx, pointer):
    """Read an int64 that another thread writes."""
    def codegen(context, builder, signature, args):
        return builder.load_atomic(args[0], "seq_cst", 8)

    return types.int64(types.CPointer(types.int64)), codegen


@intrinsic
def atomic_store(typingctx, pointer, value):
    """Write an int64 that another thread reads."""
    def codegen(context, builder, signature, args):
        builder.store_atomic(args[1], args[0], "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.CPointer(types.int64), types.int64), codegen


@intrinsic
def call_address(typingctx, address):
    """Call a C function without arguments (sched_yield) at `address`."""
    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(_I32, [])
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), [])

    return types.int32(types.int64), codegen
