"""What training at a prompt tells of itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from engine.errors import SkipUpdate

LOSS, NORM = " loss", " gradient norm"      # among the means of an epoch, beside metrics, which have other names


@dataclass
class Event:
    """What a callback is told after each step (`at` "step"), before each update ("update") or after each epoch ("epoch").

    epoch and step, that of updates, count from 1 and go on where the state stands. `metrics` is the dict that the function returned beside the
    loss, `learning_rate` that of the first array, times its schedule's factor (None for a rule without one), `gradient_norm` that over all trained
    arrays, before any clipping. Of an epoch, loss, metrics (those that are numbers) and gradient_norm are the means of its steps', and there are no
    gradients.
    """

    at: Literal["update", "step", "epoch"]
    epoch: int
    step: int
    loss: float
    metrics: dict[str, Any]
    seconds: float
    learning_rate: float | None
    gradients: Any
    gradient_norm: float


def metrics_of(value: Any) -> dict[str, Any]:
    """The dict that a function returned beside its loss."""
    return value[1] if isinstance(value, tuple) and len(value) > 1 and isinstance(value[1], dict) else {}


def old_style(callbacks: Sequence[Callable[[], Any]]) -> Callable[[Event], None]:
    """Callbacks without arguments, as old loops had them, as one: what they return says nothing, and SkipUpdate, which comes after the update here,
    leaves out those that follow.
    """
    def call(_: Event) -> None:
        with suppress(SkipUpdate):
            for callback in callbacks:
                callback()

    return call
