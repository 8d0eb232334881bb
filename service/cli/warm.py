"""warm."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from engine.data.table import Table
from engine.kernels import library
from engine.train import Job, start

PROCESSES = 2       # a compiling process takes about 300 MB
TINY = {"model": {"kind": "dense", "units": 1}, "loss": "mse", "optimiser": "descent", "epochs": 1,
        "data": {"dataset": {"columns": {"x": [[0.0], [1.0]], "y": [0.0, 1.0]}}, "target": "y"}}


class Type(StrEnum):
    float32 = "float32"
    float64 = "float64"


def warm(dtype: Annotated[Type, typer.Option(help="the number type to compile for")] = Type.float32,
         everything: Annotated[bool, typer.Option("--all", help="compile for every number type")] = False) -> None:
    wanted = [(name, str(one)) for one in (Type if everything else [dtype]) for name in sorted(library.KERNELS)]
    console = Console(file=sys.stderr)
    for _ in track(compiled(wanted), "compiling kernels", len(wanted), console=console, disable=not console.is_terminal):
        pass
    loop()
    print(f"{len(wanted)} kernels are ready in {library.folder()}")


def compiled(wanted: list[tuple[str, str]]) -> Iterator[str]:
    """Compile kernels to the cache folder in a few processes; the name of each as it is done."""
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(build, name, dtype) for name, dtype in wanted]):
            yield done.result()


def build(name: str, dtype: str) -> str:
    """Compile one kernel, unless it is in the cache."""
    library.address(name, dtype)
    return name


def loop() -> None:
    """Compile the loop that runs all plans, by the smallest of all jobs."""
    columns = TINY["data"]["dataset"]["columns"]
    for _ in start(Job.model_validate(TINY), {"inline": Table.from_columns(columns)}).events():
        pass
