"""What is remembered of one array, and how its steps act on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np

from engine.core import evaluate, lift
from engine.errors import NonFiniteError
from engine.kernels.library import call
from engine.optim.rules import Descent, Rule, closing, makes_step
from engine.optim.step import OptimiserStep, every, noise_place, order
from engine.optim.transforms import ClipGlobalNorm, NormTransform


@dataclass(eq=False)
class Leaf:
    """What is remembered of one array: its steps, their state arrays by name, whether it is frozen, how often it was updated.

    `path` and `seed` decide its random numbers.
    """

    steps: tuple[OptimiserStep, ...]
    state: tuple[dict[str, np.ndarray], ...]
    frozen: bool = False
    step: int = 0
    epoch: int = 1
    path: str = ""
    seed: int = 0
    _made: Any = field(default=None, repr=False)

    @property
    def rule(self) -> OptimiserStep:
        """The last rule, or the last step of a chain without one."""
        return next((step for step in reversed(self.steps) if isinstance(step, Rule)), self.steps[-1])

    @property
    def actions(self) -> list[Action]:
        """How its steps act, in their order; made anew where steps or state were replaced."""
        if self._made is None or self._made[0] is not self.steps or self._made[1] is not self.state:
            steps = self.steps if makes_step(self.steps) else (*self.steps, Descent(1.0))
            state = (*self.state, {})
            self._made = self.steps, self.state, [Action(self, i, steps[i], state[i], every(steps, waiting), i == closing(steps))
                                                  for i, waiting in order(steps)]
        return self._made[2]

    def __repr__(self) -> str:
        return f"Leaf({', '.join(map(repr, self.steps))}{', frozen' if self.frozen else ''}, step={self.step})"


class Action:
    """One step of a list on one array: it acts at every `pace`-th update; where it `closes`, x moves."""

    def __init__(self, leaf: Leaf, place: int, step: OptimiserStep, state: dict[str, np.ndarray], pace: int, closes: bool):
        self.leaf, self.place, self.step, self.state, self.pace, self.closes = leaf, place, step, state, pace, closes
        self.table, self.arrays = step.table(), step.arrays()
        self.scheduled = step if isinstance(step, Rule) and step.schedule is not None else None
        ends = "" if closes else "_onward"
        self.kernel = f"rule_{step.kind_name()}{ends}" if isinstance(step, Rule) else f"transform_{step.kind_name()}"

    @property
    def count(self) -> int:
        """How often it has acted, with this time."""
        return self.leaf.step // self.pace

    def act(self, x: np.ndarray, g: np.ndarray, total: float) -> None:
        """Change x, or g for those that follow, and the state. `total` is the norm of all gradients, for who asks for it."""
        if isinstance(self.step, NormTransform):
            norm = total if isinstance(self.step, ClipGlobalNorm) else _norm(g)
            if not np.isfinite(norm):
                raise NonFiniteError(f"{self.step.kind_name()}: the norm of the gradient is {norm}")
            _pass("transform_scale", g, [x, g], np.array([self.step.scale(norm)]))
            return
        self.table[1] = self.count
        if self.scheduled is not None:
            self.table[0] = self.scheduled.factor(self.leaf.step, self.leaf.epoch)
        if self.step.is_whole(x.shape):
            self._whole(x, g)
        else:
            given = {"x": x, "g": g, **self.state, **{name: self._normal(x) for name in self.step.noise}}
            _pass(self.kernel, x, [given[name] for name in self.arrays], self.table)

    def _normal(self, x: np.ndarray) -> np.ndarray:
        """Normal random numbers for this array and this time."""
        made, key = np.empty(x.shape, x.dtype), np.array([self.leaf.seed, self.count], np.int64)
        call("normal", x.dtype.name, [made.ctypes.data, key.ctypes.data, noise_place(self.leaf.path, self.place), 0], made.size)
        return made

    def _whole(self, x: np.ndarray, g: np.ndarray) -> None:
        """A step that works on the array as a whole."""
        state = {name: lift(np.ascontiguousarray(a)) for name, a in self.state.items()}
        scalars = {name: lift(np.asarray(number, x.dtype)) for name, number in zip(self.step.scalars(), self.table, strict=True)}
        d, changed = self.step.compute(lift(g), lift(np.ascontiguousarray(x)), state, scalars)
        evaluate([d, *changed.values()])
        for name, node in changed.items():
            self.state[name][...] = node.numpy()
        if self.closes:
            x[...] -= d.numpy()
        else:
            g[...] = d.numpy()


def move(work: list[tuple[Leaf, np.ndarray, np.ndarray]]) -> None:
    """One update of arrays by their gradients: all arrays step by step together, because a global norm looks at all gradients."""
    for leaf, _, _ in work:
        leaf.step += 1
    turns = [[(action, x, g) for action in leaf.actions] for leaf, x, g in work]
    for row in zip_longest(*turns):     # one step of the list, of all arrays
        acting = [turn for turn in row if turn is not None and turn[0].leaf.step % turn[0].pace == 0]
        total = float(np.sqrt(sum(_norm(g) ** 2 for action, _, g in acting if isinstance(action.step, ClipGlobalNorm))))
        for action, x, g in acting:
            action.act(x, g, total)


def _norm(g: np.ndarray) -> float:
    return float(np.linalg.norm(g.astype(np.float64)))


def _pass(name: str, like: np.ndarray, arrays: list[np.ndarray], table: np.ndarray) -> None:
    """Run one fused pass over whole arrays. The first may be a view with steps: then a copy is moved and put back."""
    x = np.ascontiguousarray(arrays[0])
    words = [a.ctypes.data for a in (x, *arrays[1:])]
    call(name, like.dtype.name, [*words, table.ctypes.data], like.size)
    if x is not arrays[0]:
        arrays[0][...] = x
