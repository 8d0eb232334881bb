"""Machine code for GPUs: each kernel's text to PTX to a cubin, kept on disk under the hash of everything that it depends on.

Nothing here needs a GPU or its driver: an image, or CI, can build for every architecture.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import time
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from engine import env
from engine.kernels import grid, library

ARCHITECTURES = (75, 80, 90, 100)
"""Compute capabilities that are checked: Turing, Ampere, Hopper, Blackwell."""

LOWEST = ARCHITECTURES[0]
"""PTX is made for this one and assembled for each: the code is the same, and one compilation serves all."""

REGISTERS = 65536
"""Of one multiprocessor, shared by the threads that run there: a block of 256 has 256 for each thread, of which a thread can have 255."""

FOLDER = env.CACHE / "cubins"
PACKAGES = ("numba", "numba-cuda", "nvidia-nvvm", "nvidia-cuda-nvcc-cu12", "nvidia-nvjitlink", "nvidia-nvjitlink-cu12")


@dataclass(frozen=True)
class Report:
    """What the assembler says of a kernel. Spills, stack and shared memory in bytes; `wide` counts instructions on float64."""

    registers: int
    spills: int
    stack: int
    shared: int
    wide: int
    local: int
    seconds: float


@dataclass(frozen=True)
class Cubin:
    """A kernel for one architecture: the name of its entry, its machine code, and what was found when it was made."""

    entry: str
    code: bytes
    report: Report


@cache
def _versions() -> tuple[str, ...]:
    found = []
    for package in PACKAGES:
        try:
            found.append(version(package))
        except PackageNotFoundError:
            found.append("")
    return tuple(found)


def _key(name: str, dtype: str) -> str:
    text = grid.source(name, dtype)
    return hashlib.sha256(repr((library.folder().name, _versions(), grid.threads(name), text)).encode()).hexdigest()[:32]


def _path(name: str, dtype: str, arch: int) -> Path:
    """Without an ending; kernels of the same text are one."""
    return FOLDER / f"sm{arch}-{_key(name, dtype)}"


def kin(arch: int) -> int:
    """The architecture that code is made for: of a checked one it runs on the later ones of its family, that of 8.0 on 8.6 and 8.9.

    >>> kin(89), kin(90), kin(120)
    (80, 90, 120)
    """
    return max((one for one in ARCHITECTURES if one // 10 == arch // 10 and one <= arch), default=arch)


def is_built(name: str, dtype: str, arch: int) -> bool:
    """Whether `build` would find it in the cache."""
    return _path(name, dtype, kin(arch)).with_suffix(".json").exists()


def build(name: str, dtype: str, arch: int) -> Cubin:
    """A kernel of the library for one number type and compute capability (90 for 9.0), made now or read from the cache."""
    arch = kin(arch)
    path = _path(name, dtype, arch)
    if path.with_suffix(".json").exists():
        found = json.loads(path.with_suffix(".json").read_text())
        return Cubin(found["entry"], path.with_suffix(".cubin").read_bytes(), Report(**found["report"]))
    cubin = _make(name, dtype, arch)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path.with_suffix(".cubin"), cubin.code)
    _write(path.with_suffix(".json"), json.dumps({"entry": cubin.entry, "report": asdict(cubin.report)}).encode())
    return cubin


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def _make(name: str, dtype: str, arch: int) -> Cubin:
    start = time.perf_counter()
    try:
        entry, ptx = _lowest(name, dtype, grid.source(name, dtype))
        code, said = _assemble(ptx, arch)
    except Exception:           # of several kinds: a kernel may need more than the lowest one has
        entry, ptx = to_ptx(name, dtype, arch)
        code, said = _assemble(ptx, arch)
    words = {word: sum(map(int, re.findall(pattern, said))) for word, pattern in _SAID.items()}
    wide, local = _counts(ptx)
    return Cubin(entry, code, Report(**words, wide=wide, local=local, seconds=round(time.perf_counter() - start, 3)))


_WIDE = re.compile(r"^\s+(?!mov|ld|cvt\.rn\.f32)\S*\.f64\b", re.MULTILINE)     # arithmetic; words hold float64, which is read and narrowed
_SAID = {"registers": r"Used (\d+) registers",
         "spills": r"(\d+) bytes spill stores", "stack": r"(\d+) bytes stack frame", "shared": r"(\d+) bytes smem"}


@lru_cache(maxsize=1)
def _counts(ptx: str) -> tuple[int, int]:
    """(instructions on float64, reads and writes of local memory) in PTX."""
    return len(_WIDE.findall(ptx)), len(re.findall(r"\b(?:ld|st)\.local", ptx))


@lru_cache(maxsize=32)
def _lowest(name: str, dtype: str, source: str) -> tuple[str, str]:
    """`to_ptx` for the lowest architecture, while the source is this one."""
    return to_ptx(name, dtype, LOWEST)


def to_ptx(name: str, dtype: str, arch: int) -> tuple[str, str]:
    """(entry, PTX) of a kernel."""
    gpu: Any = import_module("engine.kernels.gpu")
    module = library.load_module(f"gpu_{name.replace('.', '_')}_{dtype}", grid.source(name, dtype))
    return gpu.to_ptx(module.run, divmod(arch, 10), grid.threads(name))


def _assemble(ptx: str, arch: int) -> tuple[bytes, str]:
    """(cubin, what the assembler printed) of PTX."""
    link: Any = import_module("cuda.bindings.nvjitlink")
    options = [f"-arch=sm_{arch}", "-O3", "-verbose"]
    handle = link.create(len(options), options)
    try:
        link.add_data(handle, link.InputType.PTX, ptx.encode(), len(ptx), "kernel")
        link.complete(handle)
        code, said = bytearray(link.get_linked_cubin_size(handle)), bytearray(link.get_info_log_size(handle))
        link.get_linked_cubin(handle, code)
        link.get_info_log(handle, said)
    finally:
        link.destroy(handle)
    return bytes(code), said.decode(errors="replace")


def faults(name: str, dtype: str, report: Report) -> list[str]:
    """What a kernel's code must not have: spilled registers, a stack, memory of its own, float64 that nobody asked for, registers that keep
    threads from running.
    """
    most = min(255, REGISTERS // grid.threads(name))
    found = [f"{n} bytes of {what}" for what, n in (("spills", report.spills), ("stack", report.stack)) if n]
    found += [f"{report.local} reads or writes of local memory"] if report.local else []
    found += [f"{report.wide} instructions on float64"] if report.wide and not grid.is_wide(name, dtype) else []
    return found + ([f"{report.registers} registers, of {most} at most"] if report.registers > most else [])


def _sum(arch: int, dtype: str, made: dict[str, Cubin], bad: int) -> str:
    """The last line of a table."""
    widest = max(made, key=lambda name: made[name].report.registers)
    spilling, bare = sum(cubin.report.spills > 0 for cubin in made.values()), sum(cubin.report.registers <= 32 for cubin in made.values())
    return (f"sm_{arch} {dtype}: {len(made)} kernels, {bad} with faults, {spilling} spilling, {bare} of at most 32 registers, "
            f"{made[widest].report.registers} at most ({widest}), {sum(len(cubin.code) for cubin in made.values()) / 1e6:.1f} MB of code, "
            f"{sum(cubin.report.seconds for cubin in made.values()):.0f} s")


def main() -> None:
    """Print the table of kernels by architecture: registers, shared bytes, seconds to make, and what is wrong with them; and a line for each."""
    parser = argparse.ArgumentParser(prog="python -m engine.devices.cuda.build", description=main.__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--arch", nargs="*", type=int, default=[90])
    parser.add_argument("--dtype", nargs="*", default=["float32"])
    asked = parser.parse_args()
    import_module("engine.train")      # all ops, rules and data kernels are known once it is there
    made: dict[tuple[int, str], dict[str, Cubin]] = {(arch, dtype): {} for dtype in asked.dtype for arch in asked.arch}
    bad = Counter[tuple[int, str]]()
    for name in asked.names or grid.names():
        for (arch, dtype), cubins in made.items():
            cubin = cubins[name] = build(name, dtype, arch)
            report, wrong = cubin.report, faults(name, dtype, cubin.report)
            bad[arch, dtype] += bool(wrong)
            said = f"{report.registers:4} registers {report.spills:4} spilled {report.shared:6} shared {report.seconds:6.2f} s"
            print(f"{name:36} {dtype} sm_{arch:<4} {said}  {'; '.join(wrong)}", flush=True)
    for (arch, dtype), cubins in made.items():
        print(_sum(arch, dtype, cubins, bad[arch, dtype]))
    raise SystemExit(1 if bad.total() else 0)


if __name__ == "__main__":
    main()
