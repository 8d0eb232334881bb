"""Whether there is a GPU to train on, asked of the driver alone: nothing of CUDA's Python packages is imported before this has said yes.

(Without a driver `cuda.core` fails in ways that cannot be caught.)
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version

DRIVER = "libcuda.so.1"
LEAST = 75                  # compute capability 7.5, Turing: older ones are not known to the compilers of CUDA 13
OLDEST = 12000              # CUDA 12.0: driver 525
THIRTEEN = 13000            # CUDA 13.0: driver 580
INSTALL = 'pip install "trainyard[cuda]"'
INSTALL_12 = 'pip install "trainyard[cuda12]"'
PACKAGES = (("numba-cuda",), ("cuda-core",), ("nvidia-nvjitlink", "nvidia-nvjitlink-cu12"))
TOOLKIT = (("nvidia-nvvm", "nvidia-cuda-nvcc-cu12"), ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"))
"""What must be installed, one of each. The toolkit's may come with a CUDA toolkit of the system instead."""

_MAJOR, _MINOR = 75, 76     # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


@dataclass(frozen=True)
class Gpu:
    """A GPU as its driver tells of it; `capability` is 90 for 9.0, `memory` in bytes."""

    index: int
    name: str
    capability: int
    memory: int


class _Failed(Exception):
    """Why the driver does not answer."""


@cache
def reason() -> str | None:
    """Why no GPU can be used, in words that say what to do; None where one can."""
    try:
        driver, found = _driver_version(), devices()
    except _Failed as error:
        return str(error)
    if not found:
        return "no NVIDIA GPU: the driver finds none (CUDA_VISIBLE_DEVICES may hide them)"
    if driver < OLDEST:
        return f"the NVIDIA driver is too old: it is for CUDA {_shown(driver)}, and CUDA 12.0 (driver 525) is the least"
    if all(gpu.capability < LEAST for gpu in found):
        best = max(found, key=lambda gpu: gpu.capability)
        return f"{best.name} has compute capability {best.capability / 10}, and 7.5 (Turing) is the least"
    return _missing(driver)


def chosen() -> Gpu:
    """The GPU that is used: the first that is new enough. Call it only where `reason()` is None."""
    return next(gpu for gpu in devices() if gpu.capability >= LEAST)


@cache
def devices() -> list[Gpu]:
    """All GPUs, in the driver's order; those that CUDA_VISIBLE_DEVICES hides are left out. Raises nothing: none where there is no driver."""
    try:
        _driver_version()
    except _Failed:
        return []
    driver, count = ctypes.CDLL(DRIVER), ctypes.c_int()
    return [_gpu(driver, index) for index in range(count.value)] if driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else []


def _gpu(driver: ctypes.CDLL, index: int) -> Gpu:
    device, memory, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    major, minor = (_attribute(driver, device, which) for which in (_MAJOR, _MINOR))
    return Gpu(index, name.value.decode(errors="replace"), 10 * major + minor, memory.value)


def _attribute(driver: ctypes.CDLL, device: ctypes.c_int, which: int) -> int:
    value = ctypes.c_int()
    driver.cuDeviceGetAttribute(ctypes.byref(value), which, device)
    return value.value


@cache
def _driver_version() -> int:
    """13000 for a driver of CUDA 13.0."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        raise _Failed(f"no NVIDIA driver: {DRIVER} is not there") from None
    status, found = driver.cuInit(0), ctypes.c_int()
    if status == 100:       # CUDA_ERROR_NO_DEVICE
        raise _Failed("no NVIDIA GPU: the driver finds none (CUDA_VISIBLE_DEVICES may hide them)")
    if status != 0 or driver.cuDriverGetVersion(ctypes.byref(found)) != 0:
        raise _Failed(f"the NVIDIA driver does not start: cuInit gives error {status}")
    return found.value


# ---------------------------------------------------------------- packages

def _missing(driver: int) -> str | None:
    """What is wrong with the installed packages, for a driver of this version."""
    install = INSTALL if driver >= THIRTEEN else INSTALL_12
    system = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    absent = [names[0] for names in (*PACKAGES, *(() if system else TOOLKIT)) if not any(_version(name) for name in names)]
    if absent:
        return f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed: {install}"
    if int(_version("cuda-core").split(".")[0]) < 1:
        return f"cuda-core {_version('cuda-core')} is too old, and 1.0 is the least: {install}"
    bindings = _version("cuda-bindings")
    if driver < THIRTEEN and bindings and int(bindings.split(".")[0]) >= 13:
        return (f"the installed packages are for CUDA {bindings.split('.')[0]}, which needs driver 580 or later, and this driver is for CUDA "
                f"{_shown(driver)}: {INSTALL_12}")
    return None


def _version(package: str) -> str:
    """Of an installed package; "" where it is not."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _shown(driver: int) -> str:
    return f"{driver // 1000}.{driver % 1000 // 10}"
