"""A CUDA driver without a GPU, made of `null.c`: what processes do around a GPU can be tested with it, numbers cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def _missing() -> str:
    if shutil.which("gcc") is None:
        return "there is no gcc to make the null driver"
    try:
        return "" if version("cuda-core") and version("nvidia-nvjitlink") else "unknown"
    except PackageNotFoundError:
        return "numba-cuda is not installed"


MISSING = _missing()


def environment(folder: Path) -> dict[str, str]:
    """Make the driver in a folder; the variables with which a process finds it. While `folder/fault` exists, its GPU fails."""
    source = Path(__file__).parent / "null.c"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-fvisibility=hidden", "-Wl,-soname,libcuda.so.1", "-o", folder / "libcuda.so.1", source,
                    "-ldl"], check=True)
    found = os.environ.get("LD_LIBRARY_PATH")
    return {"LD_LIBRARY_PATH": f"{folder}{os.pathsep + found if found else ''}", "NULL_DRIVER_FAULT": str(folder / "fault")}
