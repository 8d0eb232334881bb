"""The library of GPU kernels: text by name, for grids of threads.

A CPU kernel makes `[begin, end)` of its output, in ranges that know nothing of each other. So most need no second text: on a GPU each thread makes
ranges of `grain`. Where threads do better together, the file of the op holds a GPU kernel as well, under the same name and with the same words.

A GPU kernel is an undecorated function of `(arena, words, size)`, in the words of CUDA's Python (`cuda.threadIdx.x`, `cuda.shared.array`,
`cuda.syncthreads`) and of CPU kernels (`view`, `load`, `store`, `select`, `exp`, `real`, `WIDTH`). Its blocks share the numbers `0 .. size - 1`:

    for unit in range(cuda.blockIdx.x, size, cuda.gridDim.x):

so that any grid computes the same. Nothing is added up in an order that the hardware chooses: no atomics on floats.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

import numpy as np

from engine.kernels import together
from engine.kernels.library import KERNELS, CastLiterals, Source, Text, text_of

RANGES = 256      # threads of a block, where each makes ranges of its own

_COMPILED = """\
import math

from numba import float32, float64, int32, int64, njit, uint8, uint32, uint64
from engine.kernels.gpu import cuda, four_of, put_four, view_of
from engine.kernels.intrinsics import bits_of, number_of, view, view_at
from engine.kernels.vecmath.{dtype} import *
from engine.kernels.vecmath.circle import cos_{dtype} as cos, sin_{dtype} as sin, tan_{dtype} as tan
"""
_SIMULATED = """\
import math

from engine.kernels.simulated import *
from engine.kernels.simulated import RANDOM
SPARE, UNIT = RANDOM[{dtype}]
"""
_TYPE = """\
real = {dtype}
WIDTH = {width}

"""
_RUN = """

def run(arena, words, size, grain, gate, when):
    if (gate != 0 and view(arena, gate, int64)[0] == 0) or (when != 0 and view(arena, when, int64)[0] == 0):
        return
"""
_OF_RANGES = """\
    begin = (int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x) * grain
    while begin < size:
        compute(arena, words, begin, min(begin + grain, size))
        begin += int64(cuda.gridDim.x) * cuda.blockDim.x * grain
"""
_OF_BLOCKS = """\
    compute(arena, words, size)
"""


@dataclass(frozen=True)
class Grid:
    """`threads` of a block, which makes `units` numbers of the size before it goes on; `wide`: it computes in float64 on purpose."""

    written: Text
    threads: int
    units: int
    called: tuple[Callable[..., Any], ...] = ()
    wide: bool = False

    @cached_property
    def text(self) -> str:
        return self.written if isinstance(self.written, str) else self.written()

    @cached_property
    def uses(self) -> str:
        return "\n\n".join(_device(text_of(f)) for f in self.called)


GRIDS: dict[str, Grid] = {}
"""GPU kernels that have a text of their own."""

WIDE = {"guard", "refresh_scalars", "open_gate", "noise_key", "clip_factor", "add_up", "gather_number", "gather_indicator", "gather_code",
        "gather_one_hot", "sample_rows", "batch_moments_join"}
"""CPU kernels that compute some numbers in float64 on purpose, on a GPU too."""

OF_TYPE = {"real", "WIDTH", "INFINITY", "NAN", "SPARE", "UNIT", "cos", "cos_turn", "erf", "exp", "expm1", "greatest", "isfinite", "isnan", "log",
           "log1p", "ordered", "sigmoid", "sign", "sin", "sin_turn", "softplus", "tan", "tanh", "unordered"}
"""Words of kernels that each number type has its own of."""

CPU_ONLY = {"attention", "attention_grad", "batch_moments_blocks", "batch_norm_sums_blocks", "conv", "conv_weights", "depthwise", "depthwise_weights",
            "gru", "gru_grad", "gru_v3", "gru_v3_grad", "lstm", "lstm_grad", "matmul_blas", "matmul_panels", "matmul_tiles", "matmul_turned",
            "max_pool", "max_pool_grad", "max_pool_quads", "max_pool_quads_grad", "mean_pool", "mean_pool_grad", "recurrent_weigh",
            "rnn_relu", "rnn_relu_grad", "rnn_tanh", "rnn_tanh_grad", "scatter_add", "softmax_cross_entropy_few", "softmax_cross_entropy_few_grad",
            "transpose_2d"}
"""CPU kernels that no GPU runs, for it cannot (they are made of vectors in registers, calls of BLAS, or rooms of a thread's own) or has better ones
under other names. Their ops have other launches."""


def define_grid(name: str, text: Text, threads: int = RANGES, units: int = 1, uses: Iterable[Callable[..., Any]] = (),
                wide: bool = False) -> None:
    """Add a GPU kernel's text (one `def` of arena, words, size)."""
    if name in GRIDS:
        raise ValueError(f"GPU kernel {name!r} is defined twice")
    GRIDS[name] = Grid(text, threads, units, tuple(uses), wide)


def grid(name: str, threads: int, units: int = 1, uses: Iterable[Callable[..., Any]] = (),
         wide: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add an undecorated function to the GPU kernels. A block has `threads` threads and makes `units` numbers of the size before it goes on."""
    def add(function: Callable[..., None]) -> Callable[..., None]:
        define_grid(name, partial(text_of, function), threads, units, uses, wide)
        return function

    return add


def exists(name: str) -> bool:
    """Whether there is a kernel of that name for a GPU."""
    return name in GRIDS or (name in KERNELS and name not in CPU_ONLY)


def names() -> list[str]:
    """All kernels that a GPU may be asked for: those with a text of their own, and CPU kernels that are not the CPU's alone."""
    return sorted(set(GRIDS) | (set(KERNELS) - CPU_ONLY))


def is_wide(name: str, dtype: str) -> bool:
    """Whether a kernel may compute in float64."""
    return dtype == "float64" or name in WIDE or (name in GRIDS and GRIDS[name].wide)


def threads(name: str) -> int:
    """Threads of a block of a kernel."""
    return GRIDS[name].threads if name in GRIDS else RANGES


def shape(name: str, size: int, grain: int, most: int) -> tuple[int, int]:
    """(blocks, threads) of a launch: no more blocks than `most`, and none idle."""
    units = GRIDS[name].units if name in GRIDS else RANGES * max(grain, 1)
    return max(1, min(most, -(-size // units))), threads(name)


def source(name: str, dtype: str, simulated: bool = False) -> str:
    """The whole text of a GPU kernel's file for one number type, for the compiler or for the simulator. Where the type is nothing to it: one."""
    kernel = GRIDS.get(name) or KERNELS[name]
    return _whole(kernel, dtype if _has_type(kernel) else "float32", simulated)


@cache
def _has_type(kernel: Grid | Source) -> bool:
    """Whether a kernel says a word that is another one for each number type. A float literal is one, too."""
    words, called = _words(kernel.text) | _words(kernel.uses), {function.__name__: _words(inspect.getsource(function)) for function in together.ALL}
    while more := {word for name in words & set(called) for word in called[name]} - words:
        words |= more
    return bool(words & OF_TYPE)


def _words(text: str) -> set[str]:
    return {node.id for node in ast.walk(CastLiterals().visit(ast.parse(text))) if isinstance(node, ast.Name)}


@cache
def _whole(kernel: Grid | Source, dtype: str, simulated: bool) -> str:
    uses, tree = kernel.uses, CastLiterals().visit(ast.parse(kernel.text))
    tree.body[0].name = "compute"
    body = ast.unparse(ast.fix_missing_locations(tree))
    called = [inspect.getsource(function) for function in together.ALL]
    if simulated:
        parts = [*called, "\n".join(line for line in uses.splitlines() if not line.startswith("@njit")), body]
    else:
        parts = [*map(_device, called), uses, _device(body)]
    head = (_SIMULATED if simulated else _COMPILED).format(dtype=dtype) + _TYPE.format(dtype=dtype, width=np.dtype(dtype).itemsize)
    return head + "\n".join(parts) + _RUN + (_OF_BLOCKS if isinstance(kernel, Grid) else _OF_RANGES)


def _device(text: str) -> str:
    return f'@njit(error_model="numpy")\n{text}\n'
