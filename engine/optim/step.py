"""What rules and transforms have in common: a few lines of formula over one array and its gradient, made into one fused pass.

`lines` are over x (the parameter), g (its gradient), the names in `state`, the hyper-parameters, `factor` (of the schedule) and `t` (how often the
step has acted on this array, from 1). A rule's lines assign d, and x becomes x - d; a transform's assign g; an average's come after the step and have
no g. `state` names arrays of the parameter's shape; they begin at 0, at the hyper-parameter that `initial` names, or as the parameter (`copies`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar
from zlib import crc32

import numpy as np

from engine.core import Node, Shape
from engine.errors import TrainyardError
from engine.optim.passes import define_pass
from engine.spec import Family, Spec

steps = Family("optimiser", {"clip_gradient": "clip_grad", "l2": "weight_decay", "clipnorm": "clip_norm", "clipvalue": "clip_grad"})
"""Rules and transforms together: what a list of optimisers may hold."""


STEPPING = ("step", "zero_grad", "minimize", "apply_gradients", "apply", "init", "update")   # what optimisers elsewhere do
NO_STATE = ("a rule has numbers and no state; write state = setup(optim.{0}(), model), then train(loss, model, data, state) "
            "or update(state, model, grads)")


class OptimiserStep(Spec):
    """One rule or transform: its hyper-parameters, nothing else."""

    equation: ClassVar[str] = ""
    lines: ClassVar[str] = ""
    state: ClassVar[tuple[str, ...]] = ()
    initial: ClassVar[Mapping[str, str]] = {}
    copies: ClassVar[tuple[str, ...]] = ()
    noise: ClassVar[tuple[str, ...]] = ()     # arrays of normal random numbers, new at each update
    last: ClassVar[bool] = False              # acts after x has moved, wherever it stands in a list

    @classmethod
    def advice(cls, args: Sequence[Any]) -> str:
        """Optimisers of other libraries are given what they move."""
        return "" if isinstance(args[0], int | float | str) else NO_STATE.format(cls.__name__)

    def __call__(self, *_: Any) -> Any:
        raise TrainyardError(f"{type(self).__name__} is no function: {NO_STATE.format(type(self).__name__)}")

    def __getattr__(self, name: str) -> Any:
        if name in STEPPING:
            raise AttributeError(f"{type(self).__name__} has no {name!r}: {NO_STATE.format(type(self).__name__)}")
        return super().__getattr__(name)  # type: ignore[misc]

    @property
    def listed(self) -> tuple[OptimiserStep, ...]:
        """As a list of one."""
        return (self,)

    @classmethod
    def hyper_names(cls) -> list[str]:
        """The names of the hyper-parameters, in the order of the kernel's table."""
        return [name for name in cls.model_fields if name not in cls.named_only]

    @classmethod
    def arrays(cls) -> tuple[str, ...]:
        """The arrays of the pass, in the order of the kernel's words; the table's offset follows."""
        return ("x", *(() if cls.last else ("g",)), *cls.state, *cls.noise)

    @property
    def pace(self) -> int:
        """It acts at every so many-th update."""
        return 1

    @property
    def waits(self) -> int:
        """It lets every so many-th gradient through."""
        return 1

    def is_whole(self, shape: Shape) -> bool:
        """Whether an array of this shape is worked on as a whole, by `compute`, and not number by number."""
        return False

    def compute(self, g: Node, x: Node, state: Mapping[str, Node], scalars: Mapping[str, Node]) -> tuple[Node, dict[str, Node]]:
        """For a whole array: the step d, and what changes of the state. `scalars` are those of `table`, by name."""
        raise TypeError(f"{self.kind_name()} works number by number")

    @classmethod
    def scalars(cls) -> tuple[str, ...]:
        """The names of what `table` holds."""
        return ("factor", "t", *cls.hyper_names())

    def table(self, factor: float = 1.0, t: int = 1) -> np.ndarray:
        """The kernel's float64 scalars: schedule factor, count of updates, hyper-parameters."""
        return np.array([factor, t, *(float(getattr(self, name)) for name in self.hyper_names())], np.float64)

    def start(self, name: str, x: np.ndarray) -> np.ndarray | float:
        """What the state array `name` of the parameter `x` begins as."""
        return x if name in self.copies else float(getattr(self, self.initial[name])) if name in self.initial else 0.0

    def adjusted(self, changes: Mapping[str, Any]) -> OptimiserStep:
        """The same step with other hyper-parameters, validated."""
        return type(self)(**{**{name: getattr(self, name) for name in type(self).model_fields}, **changes})


def order(steps: Sequence[OptimiserStep]) -> list[tuple[int, tuple[int, ...]]]:
    """The places of a list's steps in the order in which they act, each with the places of those it waits for."""
    found, waiting = [], ()
    for place in sorted(range(len(steps)), key=lambda k: steps[k].last):
        found.append((place, (*waiting, *((place,) if steps[place].pace > 1 else ()))))
        waiting = (*waiting, *((place,) if steps[place].waits > 1 else ()))
    return found


def every(steps: Sequence[OptimiserStep], waiting: Sequence[int]) -> int:
    """At every how many-th update a step acts that waits for those at these places."""
    return prod(steps[k].waits * steps[k].pace for k in waiting)


def noise_place(path: str, place: int) -> int:
    """Which random numbers the step at a place of a list has for one array (see ops/random.py)."""
    return crc32(f"{path}:noise.{place}".encode())


def define_passes(cls: type[OptimiserStep], prefix: str) -> None:
    """Put the step's kernels into the library: `rule_adam` moves x, `rule_adam_onward` gives its step to the next of a list as its gradient."""
    lines = "\n".join(line for line in cls.lines.splitlines() if line)
    name = f"{prefix}_{cls.kind_name()}"
    if prefix == "rule":
        define_pass(name, lines, cls.arrays(), cls.scalars(), ("x", *cls.state))
        define_pass(f"{name}_onward", lines + "\ng = d", cls.arrays(), cls.scalars(), ("g", *cls.state))
    else:
        changed = ("g",) if not cls.last else ("x",) if "\nx = " in f"\n{lines}" else ()
        define_pass(name, lines, cls.arrays(), cls.scalars(), (*changed, *cls.state))
