"""A CUDA driver without a GPU, made of `null.c`: what processes do around a GPU can be tested with it, numbers cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest


def _has_packages() -> bool:
    try:
        return bool(version("cuda-core") and version("nvidia-nvjitlink"))
    except PackageNotFoundError:
        return False


needed = pytest.mark.skipif(not _has_packages(), reason="numba-cuda is not installed")
"""For tests that go through the driver with CUDA's packages."""


def built(folder: Path, name: str = "libcuda.so.1") -> Path:
    """The driver, made in a folder; one that this very process loads needs another name, or it would be found again as the machine's.

    Skips the test where there is no C compiler.
    """
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc to make the null driver")
    made = folder / name
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", f"-Wl,-soname,{made.name}", "-o", made, Path(__file__).parent / "null.c", "-ldl"], check=True)
    return made


def environment(folder: Path) -> dict[str, str]:
    """Make the driver in a folder; the variables with which a process finds it. While `folder/fault` exists, its GPU fails."""
    found = os.environ.get("LD_LIBRARY_PATH")
    return {"LD_LIBRARY_PATH": f"{built(folder).parent}{os.pathsep + found if found else ''}", "NULL_DRIVER_FAULT": str(folder / "fault")}
