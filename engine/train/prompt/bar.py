"""A progress bar for training at a prompt: one line on standard error, which shows the epoch, its steps, the loss and the time that is left."""

from __future__ import annotations

import sys
from collections.abc import Sized
from importlib import import_module
from typing import Any

PARTS = 100     # in which a pass of the compiled loop is run, so that the bar moves


class Bar:
    """`steps` counts those of the epoch; how many there will be is not known of data without a length."""

    def __init__(self, epochs: int):
        self.epochs, self.begun, self.steps = epochs, 0, 0
        show, console = import_module("rich.progress"), import_module("rich.console")      # only where a bar is shown: they take memory
        columns = (show.TextColumn("{task.description}"), show.BarColumn(), show.MofNCompleteColumn(), show.TextColumn("loss {task.fields[loss]}"),
                   show.TimeRemainingColumn())
        self.line = show.Progress(*columns, console=console.Console(file=sys.stderr))
        self.task = self.line.add_task("", loss="")
        self.line.start()

    def epoch(self, data: Any) -> None:
        """Another epoch begins."""
        self.begun, self.steps = self.begun + 1, 0
        total = len(data) if isinstance(data, Sized) else None
        self.line.reset(self.task, total=total, description=f"epoch {self.begun} of {self.epochs}")

    def step(self, loss: float, steps: int = 1) -> None:
        """So many steps more; the last one had this loss."""
        self.steps += steps
        self.line.update(self.task, completed=self.steps, loss=f"{loss:.6g}")

    def close(self) -> None:
        self.line.stop()
