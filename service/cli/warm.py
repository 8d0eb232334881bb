"""warm."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from enum import StrEnum
from importlib.util import find_spec
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from engine.data.table import Table
from engine.devices.cuda import probe
from engine.devices.cuda.build import ARCHITECTURES, FOLDER, is_built
from engine.devices.cuda.build import build as build_for_gpu
from engine.kernels import grid, library
from engine.train import Job, start

PROCESSES = 2       # a compiling process takes about 300 MB
TINY = {"model": {"kind": "dense", "units": 1}, "loss": "mse", "optimiser": "descent", "epochs": 1,
        "data": {"dataset": {"columns": {"x": [[0.0], [1.0]], "y": [0.0, 1.0]}}, "target": "y"}}
Kernel = tuple[str, str]        # its name and number type
Made = tuple[str, bool]         # what is ready, and whether it was compiled just now


class Type(StrEnum):
    float32 = "float32"
    float64 = "float64"


def warm(dtype: Annotated[Type, typer.Option(help="the number type to compile for")] = Type.float32,
         everything: Annotated[bool, typer.Option("--all", help="compile for every number type")] = False,
         cuda: Annotated[bool, typer.Option("--cuda", help="compile for GPUs as well; none is needed for that")] = False) -> None:
    if cuda and find_spec("numba_cuda") is None:
        raise typer.BadParameter(f"compiling for GPUs needs more packages: {probe.INSTALL}", param_hint="--cuda")
    types = list(Type if everything else [dtype])
    wanted = kernels(library.KERNELS, types)
    with shown() as bars:
        made = follow(bars, "compiling kernels", compiled(wanted), len(wanted))
        follow(bars, "compiling the loop that runs them", loop(), 1)
        ready = f"{len(wanted)} kernels are ready in {library.folder()}"
        if cuda:
            wanted = kernels(grid.names(), types)
            made += follow(bars, "compiling kernels for GPUs", compiled(wanted, build_for_gpus), len(wanted))
            ready += f", {len(wanted)} for GPUs of compute capability {', '.join(str(arch / 10) for arch in ARCHITECTURES)} in {FOLDER}"
    print(f"{ready}; {made or 'none'} of them had to be compiled")


def kernels(names: Iterable[str], types: Iterable[Type]) -> list[Kernel]:
    return [(name, str(one)) for one in types for name in sorted(names)]


def shown() -> Progress:
    """Bars for a person at a terminal; nothing where the output goes elsewhere."""
    console = Console(file=sys.stderr)
    return Progress(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
                    TimeRemainingColumn(elapsed_when_finished=True), TextColumn("{task.fields[told]}", markup=False), console=console,
                    disable=not (console.is_terminal and sys.stdout.isatty()))


def follow(bars: Progress, what: str, done: Iterator[Made], total: int) -> int:
    """Go through what is done, with a bar; how many had to be compiled."""
    task, count = bars.add_task(what, total=total, told=""), 0
    for name, is_new in done:
        count += is_new
        bars.update(task, advance=1, told=name)
    bars.update(task, told="")
    return count


def build(name: str, dtype: str) -> Made:
    """Compile one kernel, unless it is in the cache."""
    return name, not library.compiled(name, dtype).cache_hits


def build_for_gpus(name: str, dtype: str) -> Made:
    """The same for GPUs of every architecture."""
    missing = [arch for arch in ARCHITECTURES if not is_built(name, dtype, arch)]
    for arch in missing:
        build_for_gpu(name, dtype, arch)
    return name, bool(missing)


def compiled(wanted: list[Kernel], make: Callable[[str, str], Made] = build) -> Iterator[Made]:
    """Compile kernels to the cache folder in a few processes; each as it is done."""
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(make, name, dtype) for name, dtype in wanted]):
            yield done.result()


def loop() -> Iterator[Made]:
    """Compile the loop that runs all plans, by the smallest of all jobs."""
    columns = TINY["data"]["dataset"]["columns"]
    for _ in start(Job.model_validate(TINY), {"inline": Table.from_columns(columns)}).events():
        pass
    yield "", False
