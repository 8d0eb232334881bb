"""The addresses of BLAS's matrix products, taken from scipy, pinned to one thread.

Pinned, because OpenBLAS with two threads gives other bits than with one; the plan shares products among threads itself.
"""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

_LETTER = {"float32": "s", "float64": "d"}


@cache
def gemm_address(dtype: str) -> int:
    """Where `sgemm` or `dgemm` starts."""
    _pin()
    cython_blas = _extension()
    capsule = cython_blas.__pyx_capi__[_LETTER[dtype] + "gemm"]
    name = ctypes.pythonapi.PyCapsule_GetName
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return int(pointer(capsule, name(capsule)))


@cache
def _extension() -> Any:
    """scipy's module of BLAS's addresses, alone: `import scipy.linalg` would take 15 MB more."""
    path = next((_folder() / "linalg").glob("cython_blas*.so"))
    spec = spec_from_file_location("scipy.linalg.cython_blas", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _folder() -> Path:
    found = find_spec("scipy")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent


@cache
def _pin() -> None:
    for path in (_folder().parent / "scipy.libs").glob("libscipy_openblas*"):
        library = ctypes.CDLL(str(path))
        for symbol in ("scipy_openblas_set_num_threads", "scipy_openblas_set_num_threads64_"):
            if hasattr(library, symbol):
                getattr(library, symbol)(1)
