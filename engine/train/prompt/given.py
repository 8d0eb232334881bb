"""What `train` is given: mistakes are told before anything is computed, with what to write instead."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from engine.errors import TrainyardError, shown
from engine.nn.layer import Layer
from engine.nn.model import Model

WRITE = "write train(lambda m, x, y: losses.mse(m(x), y), model, DataLoader((x, y), batch_size=32), state)"

ONE = "An item of several arrays is a tuple: give DataLoader((x, y), batch_size=32), or [(x, y)] for one batch of all rows"
SEVERAL = "Give it a parameter for each, as in lambda m, x, y: losses.mse(m(x), y)"


def check(f: Any, data: Any, epochs: Any, on_nonfinite: str) -> None:
    """Raises TrainyardError or ValueError for what cannot be trained."""
    if on_nonfinite not in ("stop", "skip", "rollback"):
        raise ValueError(f"on_nonfinite is 'stop', 'skip' or 'rollback', found {on_nonfinite!r}")
    if not callable(f) or isinstance(f, Layer | Model):
        raise TrainyardError(f"train takes the loss first, a function of the model and of an item of data, found {shown(f)}: {WRITE}")
    if not isinstance(data, Iterable) or isinstance(data, Mapping | str):
        raise TrainyardError(f"train takes its data third, batches to go through one by one, found {shown(data)}: {WRITE}")
    if not isinstance(epochs, int | np.integer) or isinstance(epochs, bool) or epochs < 0:
        raise ValueError(f"epochs is a whole number from 0, found {shown(epochs)}")
    if epochs > 1 and isinstance(data, Iterator):
        raise TrainyardError(f"a {type(data).__name__} is used up after one pass, {epochs} epochs need more: give a list or a DataLoader")


def listed(callbacks: Any) -> Iterable[Any]:
    """Callbacks, where there may be one alone."""
    return [callbacks] if callable(callbacks) else callbacks


@contextmanager
def taking(f: Callable[..., Any], item: tuple[Any, ...], model: bool = True) -> Iterator[None]:
    """A function that cannot be called with the model and an item of data is told of as that, whatever Python says of it."""
    try:
        yield
    except TypeError:
        if (parameters := _parameters(f, len(item) + model)) is None:
            raise
        called, style = getattr(f, "__name__", "<lambda>").replace("<lambda>", "the loss"), "f(model, *item)" if model else "f(*item)"
        here = ", ".join(["model"] * model + [shown(value) for value in item])
        raise TrainyardError(f"{called} takes ({parameters}), and train calls it as {style} for each item of the data, here as ({here}). "
                             f"{SEVERAL if len(item) > 1 else ONE}") from None


def _parameters(f: Callable[..., Any], count: int) -> str | None:
    """What a function takes, where it cannot be called with so many arguments."""
    try:
        signature = inspect.signature(f)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(*range(count))
    except TypeError:
        return ", ".join(signature.parameters)
    return None
