"""The library of CPU kernels: text by name, machine code on demand.

A kernel is an undecorated function of `(arena, words, begin, end)` in the file of its op, or text made from a formula. Its text is written to a
file per number type, in a cache folder named by the hash of what kernels call and of versions, and compiled there with numba's disk cache.
In the text, `real` is the number type, `WIDTH` its bytes; float literals are cast to `real` by the generator, because a bare literal would
promote a float32 expression to double.
"""

from __future__ import annotations

import ast
import ctypes
import hashlib
import importlib.util
import inspect
import os
import platform
import sys
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from engine import env

_HEADER = """\
import math

from numba import cfunc, float32, float64, int32, int64, njit, uint8, uint32, uint64
from engine.kernels.intrinsics import SIGNATURE, bits_of, gemm, number_of, prefetch, view, view_at
from engine.kernels.tile import lower, scale, tile, tile_copying, tile_finishing, total, turn
from engine.kernels.vecmath.{dtype} import *
real = {dtype}
WIDTH = {width}

{uses}@cfunc(SIGNATURE, cache=True, error_model="numpy", fastmath={fastmath})
"""


Text = str | Callable[[], str]
"""A kernel's text, or what makes it: most of hundreds are never asked for, and a program is to start at once."""


@dataclass(frozen=True)
class Source:
    """A kernel: its text, and that of the plain functions that it calls, when they are asked for."""

    written: Text
    fastmath: frozenset[str]
    called: tuple[Callable[..., Any], ...] = ()
    inline: bool = False

    @cached_property
    def text(self) -> str:
        return self.written if isinstance(self.written, str) else self.written()

    @cached_property
    def uses(self) -> str:
        return "".join(f'@njit(error_model="numpy", forceinline={self.inline})\n{text_of(f)}\n\n' for f in self.called)


KERNELS: dict[str, Source] = {}
_loaded: dict[tuple[str, str], Any] = {}


def text_of(function: Callable[..., Any]) -> str:
    """The text of a function from its `def` on."""
    lines = textwrap.dedent(inspect.getsource(function))
    return lines[lines.index("def "):]


def define(name: str, text: Text, fastmath: Iterable[str] = ("contract",), uses: Iterable[Callable[..., Any]] = (), inline: bool = False) -> None:
    """Add a kernel's text (one `def`) to the library under `name`. `uses` are plain functions that it calls, each after what it calls itself.

    The compiler decides what it copies into the kernel. `inline` copies all: nanoseconds faster, where calls are short, and much longer to compile.
    """
    if name in KERNELS:
        raise ValueError(f"kernel {name!r} is defined twice")
    KERNELS[name] = Source(text, frozenset(fastmath), tuple(uses), inline)


def kernel(name: str, fastmath: Iterable[str] = ("contract",), uses: Iterable[Callable[..., Any]] = (),
           inline: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add an undecorated function to the library.

    `fastmath` is a subset of contract, reassoc, nsz, arcp; never the whole, under which NaN tests are dropped.
    """
    def add(function: Callable[..., None]) -> Callable[..., None]:
        define(name, partial(text_of, function), fastmath, uses, inline)
        return function

    return add


class CastLiterals(ast.NodeTransformer):
    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Call(ast.Name("real", ast.Load()), [node], []) if isinstance(node.value, float) else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id in ("float32", "float64", "real"):
            return node   # already said which
        return self.generic_visit(node)


def source(name: str, dtype: str) -> str:
    """The whole text of a kernel's file for one number type."""
    found = KERNELS[name]
    tree = CastLiterals().visit(ast.parse(found.text))
    tree.body[0].name = "run"
    fastmath = "{" + ", ".join(repr(flag) for flag in sorted(found.fastmath)) + "}" if found.fastmath else "False"
    header = _HEADER.format(dtype=dtype, width=np.dtype(dtype).itemsize, uses=found.uses, fastmath=fastmath)
    return header + ast.unparse(ast.fix_missing_locations(tree)) + "\n"


@cache
def folder() -> Path:
    """The cache folder for what kernels call as it is now, on this processor: numba does not notice when a function in another file changes."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("**/*.py")):     # what kernels call; a kernel's own text is compared with its file
        digest.update(path.read_bytes())
    processor = (os.environ.get("NUMBA_CPU_NAME", ""), os.environ.get("NUMBA_CPU_FEATURES", ""), platform.machine())
    digest.update(repr((version("numba"), version("llvmlite"), np.__version__, sys.version_info[:2], processor)).encode())
    return env.CACHE / f"kernels-{digest.hexdigest()[:16]}"


def load_module(name: str, text: str) -> Any:
    """Write `text` to the cache folder, unless it is there, and import it from that file, so that numba's disk cache finds it again."""
    path = folder() / f"{name}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(text)
        os.replace(temporary, path)
    spec = importlib.util.spec_from_file_location(f"trainyard_kernels.{name}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def compiled(name: str, dtype: str) -> Any:
    """The numba cfunc of a kernel for one number type, compiled or loaded from disk."""
    key = (name, dtype)
    if key not in _loaded:
        if env.DEBUG >= 4:
            print(folder() / f"{name.replace('.', '_')}_{dtype}.py", file=sys.stderr)
        _loaded[key] = load_module(f"{name.replace('.', '_')}_{dtype}", source(name, dtype)).run
    return _loaded[key]


def address(name: str, dtype: str) -> int:
    """Where a kernel's machine code starts."""
    return compiled(name, dtype).address


_PROTOTYPE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


def call(name: str, dtype: str, words: Iterable[int], size: int, arena: int = 0) -> None:
    """Run one kernel over `[0, size)` now. With the default arena the words that are offsets are absolute addresses."""
    table = np.fromiter(words, np.int64)
    _PROTOTYPE(address(name, dtype))(arena, table.ctypes.data, 0, size)
