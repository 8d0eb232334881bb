"""Matrix products by NVIDIA's cuBLASLt, where it is installed, instead of launches of our own.

cuBLASLt's matrices lie in columns, ours in rows. Numbers in rows are the transposed matrix in columns, so C = A B is asked for as Cᵀ = Bᵀ Aᵀ: B
comes first, nothing is moved, and a bias for each column of C is one for each row of Cᵀ, as the library has it. It allocates nothing: its workspace
is ours, and descriptors and the choice of an algorithm are made before any graph is recorded. The choice is the library's first, never timed, so a
job has the same bits each time. A product may be refused (no algorithm, relu or a gate to finish with): then our own kernels make it.
"""

from __future__ import annotations

import ctypes
import re
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from math import gcd
from typing import Any, Protocol

import numpy as np

from engine.core import FLOATS
from engine.errors import DeviceError
from engine.ops.matmul_grid import PRECISIONS, ROW, WIDTHS
from engine.plan.plan import Row

KERNELS = {f"product_{width}" for width in WIDTHS}
Call = Callable[[int, int], None]
"""A product made ready: (handle of the stream, address of the arena)."""

COMPUTE = {("float32", PRECISIONS["full"]): 68, ("float32", PRECISIONS["tf32"]): 77, ("float32", PRECISIONS["bf16"]): 75, ("float64", 0): 70}
KINDS = {"float32": 0, "float64": 1}                        # CUDA_R_32F, CUDA_R_64F
EPILOGUES = {0: 1, ROW: 4}      # default, bias. A gate would want a mask of bits that we do not keep, and nobody says that relu there passes NaN on
TURN_A, TURN_B, EPILOGUE, BIAS = 3, 4, 7, 8                 # attributes of an operation
BATCH, STRIDE = 5, 6                                        # of a layout
WORKSPACE_BYTES, ALIGNMENTS = 1, (5, 6, 7, 8)               # of a preference
CHOICE = 96                                                 # bytes of an algorithm (64) and what is said of it: workspace, state, ...
MOST_ALIGNED = 256


class Refused(DeviceError):
    """The library does not do what it was asked for."""


class Library(Protocol):
    """cuBLASLt's functions by their names in C, without what they all begin with. Raises Refused for a status other than success."""

    def make(self, name: str, *arguments: int) -> int:
        """What a function makes that writes a pointer to its first argument."""
        ...

    def call(self, name: str, *arguments: int) -> None: ...


class Direct:
    """The library by ctypes."""

    def __init__(self, path: str):
        self._library = ctypes.CDLL(path)

    def make(self, name: str, *arguments: int) -> int:
        made = ctypes.c_void_p()
        self.call(name, ctypes.addressof(made), *arguments)
        return made.value or 0

    def call(self, name: str, *arguments: int) -> None:
        function = getattr(self._library, f"cublasLt{name}")
        function.argtypes = _ARGUMENTS.get(name, [_P])
        if status := function(*arguments):
            raise Refused(f"cublasLt{name} returned {status}")


_P, _I, _N = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_SET = [_P, _I, _P, _N]
_ARGUMENTS = {"MatmulDescCreate": [_P, _I, _I], "MatmulDescSetAttribute": _SET, "MatrixLayoutCreate": [_P, _I, _N, _N, _N],
              "MatrixLayoutSetAttribute": _SET, "MatmulPreferenceSetAttribute": _SET,
              "MatmulAlgoGetHeuristic": [_P] * 7 + [_I, _P, _P], "Matmul": [_P] * 14 + [_N, _P]}


class Bound:
    """The library by `nvmath.bindings`, which costs a tenth of a call by ctypes."""

    def __init__(self, bindings: Any):
        self._bindings = bindings

    def make(self, name: str, *arguments: int) -> int:
        try:
            return getattr(self._bindings, re.sub(r"(?<=.)([A-Z])", r"_\1", name).lower())(*arguments)
        except self._bindings.cuBLASLtError as error:
            raise Refused(f"cublasLt{name}: {error}") from error

    def call(self, name: str, *arguments: int) -> None:
        self.make(name, *arguments)


class Owner:
    """A library that is given back whatever it made when this is forgotten."""

    def __init__(self, library: Library):
        self._library, self._made = library, list[tuple[str, int]]()
        self.call = library.call
        weakref.finalize(self, _give_back, library, self._made).atexit = False

    def make(self, name: str, *arguments: int) -> int:
        self._made.append((name, self._library.make(name, *arguments)))
        return self._made[-1][1]


def _give_back(library: Library, made: list[tuple[str, int]]) -> None:
    while made:
        name, thing = made.pop()
        library.call(name.replace("Create", "Destroy"), thing)


def find() -> Library | None:
    """The library, if it is installed."""
    if find_spec("nvmath"):
        with suppress(Exception):       # experimental, and without the library it raises one of several kinds
            bindings = import_module("nvmath.bindings.cublasLt")
            bindings.get_version()
            return Bound(bindings)
    try:
        finder = import_module("cuda.pathfinder")
        return Direct(finder.load_nvidia_dynamic_lib("cublasLt").abs_path)
    except (ImportError, OSError, RuntimeError):
        return None


def workspace(arch: int) -> int:
    """Bytes that the library wants to have at hand on a GPU of compute capability `arch` (90 for 9.0)."""
    return (32 if arch >= 90 else 8) << 20


def open_blas(arch: int, take: Callable[[int], int]) -> Blas | None:
    """The library ready to work, or None where there is none. `take` gives the address of so many bytes on the GPU, aligned to 256."""
    library = find()
    try:
        return Blas(library, take(workspace(arch)), workspace(arch)) if library else None
    except Refused:
        return None


@dataclass(frozen=True)
class Product:
    """What an algorithm is chosen by: C (m by n) = op(A) op(B), `batch` of them, and what all places in the arena are multiples of."""

    dtype: str
    m: int
    n: int
    k: int
    turned_a: int
    turned_b: int
    batch: int
    finish: int
    precision: int
    aligned: int


def product_of(row: Row) -> Product:
    """What a row of one of our kernels of products is to make (see `engine/ops/matmul_grid.py` for its words)."""
    words: Any = row.words
    c, a, b, m, n, k, turned_a, turned_b, batch, finish, more, _, precision = words[:13]
    return Product(row.dtype, m, n, k, turned_a, turned_b, batch, finish, precision, gcd(MOST_ALIGNED, c, a, b, more if finish else 0))


class Blas:
    """Makes rows of products ready. `at` is the address of a workspace of `nbytes`, which one product after the other uses."""

    def __init__(self, library: Library, at: int, nbytes: int):
        self._library, self._at, self._nbytes = Owner(library), at, nbytes
        self._handle = self._library.make("Create")
        self._kept: dict[Product, Prepared | None] = {}
        self._numbers = {dtype: np.array([1, 0], dtype) for dtype in FLOATS}     # alpha and beta

    def plan(self, row: Row) -> Call | None:
        """What to do instead of launching a row, or None where the library does not make it. What it does heeds no gate.

        Where a sum in parts was planned, the product is made as a whole and finished in place of the parts, and adding them up is left out.
        """
        if row.kernel != "product_sum" and row.kernel not in KERNELS:
            return None
        prepared = self._prepared(product_of(row))
        if prepared is None or row.kernel == "product_sum":
            return prepared and _nothing
        c, a, b, more = row.words[0], row.words[1], row.words[2], row.words[10] if prepared.biased else -1
        return lambda stream, arena: prepared(stream, arena, c, a, b, more)      # type: ignore[arg-type]

    def _prepared(self, product: Product) -> Prepared | None:
        if product not in self._kept:
            possible = product.finish in EPILOGUES and (product.dtype, product.precision) in COMPUTE and min(product.m, product.n, product.k) > 0
            self._kept[product] = self._prepare(product) if possible else None
        return self._kept[product]

    def _prepare(self, product: Product) -> Prepared | None:
        try:
            return Prepared(self._library, self._handle, product, self._at, self._nbytes, self._numbers[product.dtype])
        except Refused:
            return None


def _nothing(stream: int, arena: int) -> None:
    """Everything was done before."""


class Prepared:
    """Descriptors and the algorithm of one kind of product. Raises Refused where there is none."""

    def __init__(self, library: Library, handle: int, product: Product, at: int, nbytes: int, numbers: np.ndarray):
        self._library, self._handle, self._at, self._nbytes, self._numbers = library, handle, at, nbytes, numbers
        self._width, self.biased = numbers.itemsize, product.finish != 0
        m, n, k, kind = product.m, product.n, product.k, KINDS[product.dtype]
        self._operation = library.make("MatmulDescCreate", COMPUTE[product.dtype, product.precision], kind)
        for name, value in ((TURN_A, product.turned_b), (TURN_B, product.turned_a), (EPILOGUE, EPILOGUES[product.finish])):
            self._set("MatmulDescSetAttribute", self._operation, name, value, np.int32)
        if self.biased:
            self._bias = product.aligned
            self._set("MatmulDescSetAttribute", self._operation, BIAS, self._bias, np.int64)     # no place yet, but as well aligned
        self._b = self._layout(kind, *((k, n) if product.turned_b else (n, k)), product.batch)
        self._a = self._layout(kind, *((m, k) if product.turned_a else (k, m)), product.batch)
        self._c = self._layout(kind, n, m, product.batch)
        self._choice = self._choose(product.aligned)

    def _set(self, function: str, place: int, name: int, value: int, kind: type) -> None:
        held = np.array([value], kind)
        self._library.call(function, place, name, held.ctypes.data, held.itemsize)

    def _layout(self, kind: int, rows: int, columns: int, batch: int) -> int:
        """A matrix that lies in columns, one after the other."""
        layout = self._library.make("MatrixLayoutCreate", kind, rows, columns, rows)
        if batch > 1:
            self._set("MatrixLayoutSetAttribute", layout, BATCH, batch, np.int32)
            self._set("MatrixLayoutSetAttribute", layout, STRIDE, rows * columns, np.int64)
        return layout

    def _choose(self, aligned: int) -> np.ndarray:
        """The algorithm that the library thinks best."""
        preference = self._library.make("MatmulPreferenceCreate")
        self._set("MatmulPreferenceSetAttribute", preference, WORKSPACE_BYTES, self._nbytes, np.int64)
        for name in ALIGNMENTS:
            self._set("MatmulPreferenceSetAttribute", preference, name, aligned, np.int32)
        choice, found = np.zeros(CHOICE, np.uint8), np.zeros(1, np.int32)
        self._library.call("MatmulAlgoGetHeuristic", self._handle, self._operation, self._b, self._a, self._c, self._c, preference, 1,
                           choice.ctypes.data, found.ctypes.data)
        if not found[0] or choice[72:76].view(np.int32)[0] or choice[64:72].view(np.int64)[0] > self._nbytes:
            raise Refused("there is no algorithm")
        return choice

    def __call__(self, stream: int, arena: int, c: int, a: int, b: int, more: int) -> None:
        """Enqueue the product of what is at `a` and `b` in the arena."""
        if self.biased and self._bias != arena + more:
            self._bias = arena + more
            self._set("MatmulDescSetAttribute", self._operation, BIAS, self._bias, np.int64)
        alpha = self._numbers.ctypes.data
        self._library.call("Matmul", self._handle, self._operation, alpha, arena + b, self._b, arena + a, self._a, alpha + self._width,
                           arena + c, self._c, arena + c, self._c, self._choice.ctypes.data, self._at, self._nbytes, stream)
