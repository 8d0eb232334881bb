"""The null driver: a `libcuda.so.1` in C in which every call succeeds and nothing is computed. It shows that the host's side goes through."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def driver(folder: Path) -> Path:
    """The driver, built in a folder. Skips the test where there is no C compiler."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc to build the null driver with")
    made = folder / "libcuda.so.1"
    source = Path(__file__).parent / "null_driver.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-w", "-Wl,-soname,libcuda.so.1", str(source), "-o", str(made), "-ldl"], check=True)
    return made
