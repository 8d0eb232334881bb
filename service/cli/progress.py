"""How a job's events look on a terminal: a bar that moves; elsewhere one line an epoch."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

from service.client import Event, Job

STARTS = {"job.queued": "waiting for a worker", "job.started": "starting; first kernels of a kind are compiled", "job.requeued": "waiting again",
          "job.pausing": "pausing", "job.paused": "paused", "job.resumed": "waiting again", "job.cancelling": "cancelling"}
QUIET = ("checkpoint", "step", "epoch", "job.queued", "job.started", "job.succeeded")      # told by the bar alone


def follow(job: Job, events: Iterable[Event], quiet: bool = False) -> str:
    """Show events until the last; how the job ended: its type without "job."."""
    ended = "failed"
    with _shown(job, quiet) as show:
        for event in events:
            show(event)
            if event.is_last:
                ended = event.type.removeprefix("job.")
    return ended


class _shown:
    """A bar, lines, or nothing; a function of one event either way."""

    def __init__(self, job: Job, quiet: bool):
        console = Console(file=sys.stderr)
        self.bar = Bar(job, console) if console.is_terminal and not quiet else None
        self.show: Callable[[Event], None] = self.bar.show if self.bar else (lambda event: None) if quiet else line

    def __enter__(self) -> Callable[[Event], None]:
        if self.bar:
            self.bar.progress.start()
        return self.show

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.progress.stop()


def line(event: Event) -> None:
    """One event as a line; steps and checkpoints are left out."""
    if event.type == "epoch":
        print(epoch_line(event.data), flush=True)
    elif event.type not in ("step", "checkpoint") and not event.is_last:
        print(event.message, flush=True)


def epoch_line(data: dict[str, Any]) -> str:
    """`epoch  3/20  train_loss 0.2431  …  48,210 samples/s`."""
    width = len(str(data.get("epochs", "")))
    rate = data.get("samples_per_second")
    return "  ".join([f"epoch {data['epoch']:>{width}}/{data.get('epochs', '?')}", *scores(data), *([f"{rate:,.0f} samples/s"] if rate else [])])


def scores(data: dict[str, Any]) -> list[str]:
    """Losses and metrics of an epoch, by name."""
    return [f"{name} {value:.4f}" for name, value in data.items() if name.startswith(("train_", "valid_")) and isinstance(value, float)]


class Bar:
    """One bar for all epochs; it moves with every `step` event."""

    def __init__(self, job: Job, console: Console):
        self.progress = Progress(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), TaskProgressColumn(),
                                 TextColumn("{task.fields[told]}"), console=console)
        self.task = self.progress.add_task(job.name or job.id, total=job.epochs, told="")
        self.batch, self.steps, self.last = job.spec.get("data", {}).get("batch_size"), 0.0, ""

    def show(self, event: Event) -> None:
        data = event.data
        if event.type == "job.started":
            self._learn_steps(data.get("rows") or {})
        if event.type in STARTS:
            self.progress.update(self.task, told=STARTS[event.type])
        elif event.type == "step" and self.steps:
            self.progress.update(self.task, completed=data["step"] / self.steps, told=self._told(f"loss {data['loss']:.4f}"))
        elif event.type == "epoch":
            self.steps = data["step"] / data["epoch"]
            self._remember(data)
            self.progress.update(self.task, completed=data["epoch"], total=data.get("epochs"), told=self._told("".join(scores(data)[:1])))
        if event.type not in QUIET:
            self.progress.console.print(event.message, markup=False, highlight=False)

    def _learn_steps(self, rows: dict[str, int]) -> None:
        """A first guess of the steps of an epoch; the first `epoch` event knows."""
        if isinstance(self.batch, int) and rows.get("train"):
            self.steps = float(math.ceil(rows["train"] / self.batch))

    def _remember(self, data: dict[str, Any]) -> None:
        """What the last epoch said, to be shown until the next one."""
        parts = [part for part in scores(data) if part.startswith("valid_")]
        if rate := data.get("samples_per_second"):
            parts.append(f"{rate:,.0f} samples/s")
        if eta := data.get("eta_seconds"):
            parts.append(f"{duration(eta)} left")
        self.last = "  ".join(parts)

    def _told(self, loss: str) -> str:
        return f"{loss}  {self.last}"


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = math.ceil(seconds)
    minutes, rest = divmod(whole, 60)
    hours, part = divmod(minutes, 60)
    return f"{hours} h {part} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
