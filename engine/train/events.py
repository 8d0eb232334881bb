"""What a run tells: events, in the order in which things happen. The service stores them as they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    `message` is a sentence; `data` JSON values, in which floats may be non-finite; `key` is unique in a job, for events that a resumed run repeats;
    `curves` are per-step series since the last event: (steps counted from 1, values); `payload` the bytes of a checkpoint.
    """

    type: str
    message: str
    data: dict[str, Any] = field(default_factory=dict)
    level: Literal["info", "warn", "error"] = "info"
    key: str | None = None
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    payload: bytes | None = None


def number(value: float) -> str:
    """A number as people read it."""
    return f"{value:.4g}"


def epoch_event(values: dict[str, Any], curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> Event:
    """`values` are the event's data: epoch, epochs, step, train_loss, ..."""
    shown = ", ".join(f"{name.replace('_', ' ')} {number(value)}" for name, value in values.items() if name.startswith(("train_", "valid_")))
    return Event("epoch", f"Epoch {values['epoch']} of {values['epochs']}: {shown}.", values, key=f"epoch:{values['epoch']}", curves=curves)


def step_event(epoch: int, step: int, loss: float, learning_rate: float, norm: float, curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> Event:
    data = {"epoch": epoch, "step": step, "loss": loss, "learning_rate": learning_rate, "gradient_norm": norm}
    return Event("step", f"Step {step}: loss {number(loss)}.", data, curves=curves)


def checkpoint_event(epoch: int, step: int, best: bool, metrics: dict[str, float], payload: bytes, kept: bool = False) -> Event:
    data = {"epoch": epoch, "step": step, "best": best, "last": True, "metrics": metrics} | ({"kept": True} if kept else {})
    return Event("checkpoint", f"Checkpoint after epoch {epoch}, step {step}.", data, key=f"checkpoint:{step}", payload=payload)
