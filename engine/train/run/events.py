"""What a run tells: events, in the order in which things happen. The service stores them as they are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from zlib import crc32

import numpy as np

from engine.errors import Problem
from engine.train.callbacks.actions import Stop


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
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    payload: bytes | None = None


def number(value: float) -> str:
    """A number as people read it."""
    return f"{value:.4g}"


def epoch_event(values: dict[str, Any], curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Event:
    """`values` are the event's data: epoch, epochs, step, train_loss, ..."""
    shown = listed({name: value for name, value in values.items() if name.startswith(("train_", "valid_"))})
    return Event("epoch", f"Epoch {values['epoch']} of {values['epochs']}: {shown}.", values, key=f"epoch:{values['epoch']}", curves=curves)


def listed(values: Mapping[str, float]) -> str:
    """`train loss 0.25, train accuracy 0.9`."""
    return ", ".join(f"{name.replace('_', ' ')} {number(value)}" for name, value in values.items())


def step_event(epoch: int, step: int, loss: float, learning_rate: float, norm: float,
               curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Event:
    data = {"epoch": epoch, "step": step, "loss": loss, "learning_rate": learning_rate, "gradient_norm": norm}
    return Event("step", f"Step {step}: loss {number(loss)}.", data, curves=curves)


def checkpoint_event(epoch: int, step: int, best: bool, metrics: dict[str, float], payload: bytes, kept: Sequence[int] = (),
                     curves: Mapping[str, tuple[np.ndarray, np.ndarray]] = {}) -> Event:
    """`kept` are the steps of the checkpoints that a callback wants to stay, this one among them."""
    data = {"epoch": epoch, "step": step, "best": best, "last": True, "metrics": metrics} | ({"kept": list(kept)} if kept else {})
    return Event("checkpoint", f"Checkpoint after epoch {epoch}, step {step}.", data, key=f"checkpoint:{step}", curves=curves,
                 payload=payload)


def adjusted_event(by: str, epoch: int, step: int, changed: Mapping[str, Mapping[str, Any]], place: int = 0) -> Event:
    """`changed` is {name: {"from", "to"}}; `place` the number of a live change."""
    shown = ", ".join(f"{name} from {_shown(values['from'])} to {_shown(values['to'])}" for name, values in list(changed.items())[:3])
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    data = {"by": by, "epoch": epoch, "step": step, "changes": dict(changed)} | ({"number": place} if place else {})
    what = f"{by}:{step}:{crc32(json.dumps(data['changes']).encode())}"
    return Event("adjusted", f"Changed by {by}: {shown or 'nothing'}{more}.", data, key=f"adjusted:{place or what}")


def left_out(by: str, epoch: int, step: int, problem: Problem, place: int = 0) -> Event:
    """A change that could not be made; `place` as above."""
    data = {"code": problem.code, "epoch": epoch, "step": step} | ({"number": place} if place else {})
    return Event("warning", f"A change by {by} was left out: {problem.detail}.", data, "warn", f"adjusted:{place}" if place else None)


def _shown(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)


def stopped_event(stop: Stop, epoch: int, best_epoch: int | None) -> Event:
    value = None if stop.value is None else float(stop.value)
    best = stop.best_epoch or best_epoch
    data = {"by": stop.reason, "metric": stop.metric, "value": value, "epoch": epoch, "best_epoch": best, "level": stop.level}
    what = f": {stop.metric} is {number(value)}" if stop.metric and value is not None else ""
    return Event("stopped_early", f"Stopped by {stop.reason}{what}.", {k: v for k, v in data.items() if v is not None})


def finished_event(reason: str, metrics: dict[str, float], best: dict[str, Any] | None, error: dict[str, Any] | None,
                   curves: Mapping[str, tuple[np.ndarray, np.ndarray]] = {}) -> Event:
    """The end; with an `error` a bad one."""
    data = {"status": "succeeded", "status_reason": reason, "metrics": metrics, "best": best}
    if error is not None:
        return Event("finished", "The run failed.", {**data, "status": "failed", "error": error}, "error", curves=curves)
    return Event("finished", "The run is complete.", data, curves=curves)
