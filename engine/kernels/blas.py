"""The addresses of BLAS's matrix products, taken from scipy, pinned to one thread.

Pinned, because OpenBLAS with two threads gives other bits than with one; the plan shares products among threads itself.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import scipy
from scipy.linalg import cython_blas

_LETTER = {"float32": "s", "float64": "d"}


@cache
def gemm_address(dtype: str) -> int:
    """Where `sgemm` or `dgemm` starts."""
    _pin()
    capsule = cython_blas.__pyx_capi__[_LETTER[dtype] + "gemm"]
    name = ctypes.pythonapi.PyCapsule_GetName
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return int(pointer(capsule, name(capsule)))


@cache
def _pin() -> None:
    for path in (Path(scipy.__file__).parent.parent / "scipy.libs").glob("libscipy_openblas*"):
        library = ctypes.CDLL(str(path))
        for symbol in ("scipy_openblas_set_num_threads", "scipy_openblas_set_num_threads64_"):
            if hasattr(library, symbol):
                getattr(library, symbol)(1)
