"""warm."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from enum import StrEnum
from importlib.util import find_spec
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from engine.data.table import Table
from engine.devices.cuda import probe
from engine.devices.cuda.build import ARCHITECTURES
from engine.devices.cuda.build import build as build_for_gpu
from engine.kernels import grid, library
from engine.train import Job, start

PROCESSES = 2       # a compiling process takes about 300 MB
TINY = {"model": {"kind": "dense", "units": 1}, "loss": "mse", "optimiser": "descent", "epochs": 1,
        "data": {"dataset": {"columns": {"x": [[0.0], [1.0]], "y": [0.0, 1.0]}}, "target": "y"}}


class Type(StrEnum):
    float32 = "float32"
    float64 = "float64"


def warm(dtype: Annotated[Type, typer.Option(help="the number type to compile for")] = Type.float32,
         everything: Annotated[bool, typer.Option("--all", help="compile for every number type")] = False,
         cuda: Annotated[bool, typer.Option("--cuda", help="compile for GPUs as well; none is needed for that")] = False) -> None:
    if cuda and find_spec("numba_cuda") is None:
        raise typer.BadParameter(f"compiling for GPUs needs more packages: {probe.INSTALL}", param_hint="--cuda")
    types = list(Type if everything else [dtype])
    console = Console(file=sys.stderr)
    wanted = [(name, str(one)) for one in types for name in sorted(library.KERNELS)]
    show(console, "compiling kernels", compiled(wanted), len(wanted))
    loop()
    print(f"{len(wanted)} kernels are ready in {library.folder()}")
    if cuda:
        wanted = [(name, str(one)) for one in types for name in grid.names()]
        show(console, "compiling kernels for GPUs", compiled(wanted, build_for_gpus), len(wanted))
        print(f"{len(wanted)} kernels for GPUs of compute capability {', '.join(str(arch / 10) for arch in ARCHITECTURES)} are ready")


def show(console: Console, what: str, done: Iterator[str], total: int) -> None:
    """Go through what is done, with a bar on a terminal."""
    for _ in track(done, what, total, console=console, disable=not console.is_terminal):
        pass


def build(name: str, dtype: str) -> str:
    """Compile one kernel, unless it is in the cache."""
    library.address(name, dtype)
    return name


def build_for_gpus(name: str, dtype: str) -> str:
    """The same for GPUs of every architecture."""
    for arch in ARCHITECTURES:
        build_for_gpu(name, dtype, arch)
    return name


def compiled(wanted: list[tuple[str, str]], make: Callable[[str, str], str] = build) -> Iterator[str]:
    """Compile kernels to the cache folder in a few processes; the name of each as it is done."""
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(make, name, dtype) for name, dtype in wanted]):
            yield done.result()


def loop() -> None:
    """Compile the loop that runs all plans, by the smallest of all jobs."""
    columns = TINY["data"]["dataset"]["columns"]
    for _ in start(Job.model_validate(TINY), {"inline": Table.from_columns(columns)}).events():
        pass
