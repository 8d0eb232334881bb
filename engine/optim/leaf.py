"""What is remembered of one array, and how its steps act on it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest

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

    @property
    def rule(self) -> OptimiserStep:
        """The last rule, or the last step of a chain without one."""
        return next((step for step in reversed(self.steps) if isinstance(step, Rule)), self.steps[-1])

    def __repr__(self) -> str:
        return f"Leaf({', '.join(map(repr, self.steps))}{', frozen' if self.frozen else ''}, step={self.step})"


def move(work: list[tuple[Leaf, np.ndarray, np.ndarray]]) -> None:
    """One update of arrays by their gradients: all arrays step by step together, because a global norm looks at all gradients."""
    plans = []
    for leaf, array, g in work:
        leaf.step += 1
        steps = leaf.steps if makes_step(leaf.steps) else (*leaf.steps, _PLAIN)
        plans.append([_Turn(leaf, i, every(steps, waiting), i == closing(steps), array, g) for i, waiting in order(steps)])
    for row in zip_longest(*plans):     # one step of the list, of all arrays
        acting = [turn for turn in row if turn is not None and turn.leaf.step % turn.pace == 0]
        total = float(np.sqrt(sum(_norm(turn.g) ** 2 for turn in acting if isinstance(turn.step, ClipGlobalNorm))))
        for turn in acting:
            _act(turn, total)


_PLAIN = Descent(1.0)     # ends a list that does not end in a rule


@dataclass
class _Turn:
    """One step of a list on one array: it acts at every `pace`-th update; where it `closes`, x moves."""

    leaf: Leaf
    place: int
    pace: int
    closes: bool
    x: np.ndarray
    g: np.ndarray

    @property
    def step(self) -> OptimiserStep:
        return self.leaf.steps[self.place] if self.place < len(self.leaf.steps) else _PLAIN

    @property
    def state(self) -> dict[str, np.ndarray]:
        return self.leaf.state[self.place] if self.place < len(self.leaf.state) else {}

    @property
    def count(self) -> int:
        """How often it has acted, with this time."""
        return self.leaf.step // self.pace

    def normal(self) -> np.ndarray:
        """Normal random numbers for this array and this time."""
        made, key = np.empty(self.x.shape, self.x.dtype), np.array([self.leaf.seed, self.count], np.int64)
        call("normal", made.dtype.name, [made.ctypes.data, key.ctypes.data, noise_place(self.leaf.path, self.place), 0], made.size)
        return made


def _act(turn: _Turn, total: float) -> None:
    step, leaf = turn.step, turn.leaf
    if isinstance(step, NormTransform):
        norm = total if isinstance(step, ClipGlobalNorm) else _norm(turn.g)
        if not np.isfinite(norm):
            raise NonFiniteError(f"{step.kind_name()}: the norm of the gradient is {norm}")
        _pass("transform_scale", turn.g, [turn.x, turn.g], np.array([step.scale(norm)]))
        return
    table = step.table(step.factor(leaf.step, leaf.epoch) if isinstance(step, Rule) and step is not _PLAIN else 1.0, turn.count)
    if step.is_whole(turn.x.shape):
        _whole(turn, table)
        return
    name = f"rule_{step.kind_name()}{'' if turn.closes else '_onward'}" if isinstance(step, Rule) else f"transform_{step.kind_name()}"
    arrays = {"x": turn.x, "g": turn.g, **turn.state, **{name: turn.normal() for name in step.noise}}
    _pass(name, turn.x, [arrays[array] for array in step.arrays()], table)


def _whole(turn: _Turn, table: np.ndarray) -> None:
    """A step that works on the array as a whole."""
    step = turn.step
    nodes = {name: lift(np.ascontiguousarray(a)) for name, a in turn.state.items()}
    scalars = {name: lift(np.asarray(number, turn.x.dtype)) for name, number in zip(step.scalars(), table, strict=True)}
    d, changed = step.compute(lift(turn.g), lift(np.ascontiguousarray(turn.x)), nodes, scalars)
    evaluate([d, *changed.values()])
    for name, node in changed.items():
        turn.state[name][...] = node.numpy()
    if turn.closes:
        turn.x[...] -= d.numpy()
    else:
        turn.g[...] = d.numpy()


def _norm(g: np.ndarray) -> float:
    return float(np.linalg.norm(g.astype(np.float64)))


def _pass(name: str, like: np.ndarray, arrays: list[np.ndarray], table: np.ndarray) -> None:
    """Run one fused pass over whole arrays. The first may be a view with steps: then a copy is moved and put back."""
    x = np.ascontiguousarray(arrays[0])
    words = [a.ctypes.data for a in (x, *arrays[1:])]
    call(name, like.dtype.name, [*words, table.ctypes.data], like.size)
    if x is not arrays[0]:
        arrays[0][...] = x
