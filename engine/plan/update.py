"""The update section of a step: the optimiser's passes over the slabs.

Trained parameters fall into regions: runs of neighbouring arrays with the same hyper-parameters, and single arrays that a rule works on as a whole.
Each pass covers a region at once. Steps that act at every n-th update are behind a gate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.core import Launch, Node, Scratch, Shape, apply, count, leaf
from engine.graph.rewrite import simplify
from engine.optim.averages import EMA
from engine.optim.passes import launches
from engine.optim.rules import Descent, Rule, closing, makes_step
from engine.optim.step import OptimiserStep, noise_place, order
from engine.optim.transforms import ClipGlobalNorm, ClipNorm
from engine.plan.control import clip
from engine.plan.plan import Place
from engine.plan.slab import Slab


@dataclass
class Region:
    """Neighbouring trained arrays: from element `at` of the gradient slab, `parameter_at` of the parameter slab. `shape` is that of a single one."""

    at: int
    parameter_at: int
    size: int
    steps: tuple[OptimiserStep, ...]    # the chain with this region's hyper-parameters
    paths: list[str]
    shape: Shape | None = None
    missed: int = 0                     # updates that it was not part of

    def computes(self, i: int) -> bool:
        """Whether a step of the chain works on it as a whole."""
        return self.shape is not None and self.steps[i].is_whole(self.shape)


@dataclass
class Computed:
    """A part of the update that is a graph: where its leaves are, where its results go, and the gate it is behind."""

    placed: dict[Node, int]
    results: list[tuple[Node, int]]
    gate: int


class Update:
    """The optimiser of a program: a chain of steps for each region, and the float64 table of their scalars."""

    def __init__(self, chain: Sequence[OptimiserStep], shapes: Mapping[str, Shape], trained: Sequence[str], missed: Mapping[str, int] | None = None):
        self.paths = list(trained)
        self.chain = tuple(chain) if makes_step(chain) else (*chain, Descent(1.0))
        self.given = len(chain)     # a closing step of -g may follow, on which no schedule works
        self.order = order(self.chain)
        self.regions = _regions(self.chain, shapes, trained, missed or {})
        self.state = [f"{i}.{name}" for i, step in enumerate(self.chain) for name in step.state]
        tables = [step.table() for region in self.regions for step in region.steps]
        self.starts = np.cumsum([0, *(len(t) for t in tables)])[:-1]
        self.scalars = np.concatenate(tables) if tables else np.zeros(1)
        self.waits = list(dict.fromkeys(waiting for _, waiting in self.order if waiting))
        self.scalars_at = 0

    def place(self, parameters: Slab, gradients: Slab, state: Mapping[str, Slab], scalars_at: int) -> None:
        """Say where in the arena everything is that an update reads and writes."""
        self.parameters, self.gradients, self.slabs, self.scalars_at = parameters, gradients, state, scalars_at
        self.dtype, self.width = parameters.dtype, np.dtype(parameters.dtype).itemsize

    # ---------------------------------------------------------------- what it keeps in the arena

    @property
    def nbytes(self) -> int:
        """Of the scalars, and behind them two int64 for each gate (its pace, whether it is open) and for each step with noise (its key)."""
        return self.scalars.nbytes + 16 * (len(self.waits) + len(self.chain))

    def table_at(self, region: int, step: int) -> int:
        """Offset of the scalars of a step in a region."""
        return self.scalars_at + 8 * int(self.starts[region * len(self.chain) + step])

    def _pace_at(self, waiting: tuple[int, ...]) -> int:
        return self.scalars_at + self.scalars.nbytes + 16 * self.waits.index(waiting) if waiting else 0

    def _gate(self, waiting: tuple[int, ...]) -> int:
        return self._pace_at(waiting) + 8 if waiting else 0

    def _key_at(self, step: int) -> int:
        return self.scalars_at + self.scalars.nbytes + 16 * (len(self.waits) + step)

    def write_scalars(self, arena: np.ndarray) -> None:
        arena[self.scalars_at: self.scalars_at + self.scalars.nbytes] = self.scalars.view(np.uint8)

    def tune(self, arena: np.ndarray, chain: Sequence[OptimiserStep]) -> None:
        """Put the hyper-parameters of `chain`, the same steps with other numbers, into the table."""
        for number, region in enumerate(self.regions):
            for i, step in enumerate(chain):
                values = (step.for_path(region.paths[0]) if isinstance(step, Rule) else step).table()[2:]
                at = self.table_at(number, i) + 16
                arena[at: at + values.nbytes] = values.view(np.uint8)

    def fill_state(self, slabs: Mapping[str, np.ndarray], parameters: Mapping[str, np.ndarray]) -> None:
        """Write what each slab of state begins as, given the parameters by path."""
        for region in self.regions:
            at = region.at
            for path in region.paths:
                x = np.ravel(parameters[path])
                for i, step in enumerate(region.steps):
                    for name in step.state:
                        slabs[f"{i}.{name}"][at: at + x.size] = step.start(name, x)
                at += x.size

    @property
    def copies(self) -> list[str]:
        """The states that begin as the parameters."""
        return [f"{i}.{name}" for i, step in enumerate(self.chain) for name in step.copies]

    @property
    def average(self) -> str | None:
        """The state that is the average of the parameters, with which a model is evaluated; None where there is none."""
        return next((f"{i}.a" for i, step in enumerate(self.chain) if isinstance(step, EMA)), None)

    # ---------------------------------------------------------------- what it does

    def parts(self, device: str = "cpu") -> list[list[Launch] | Computed]:
        """One update on a device, in the order in which the steps act."""
        parts: list[list[Launch] | Computed] = [self._refresh()]
        for i, waiting in self.order:
            gate = self._gate(waiting)
            parts.append([replace(launch, gate=gate) for launch in self._step(i, device)])
            parts += [Computed(*self._computed(r, i), gate) for r, region in enumerate(self.regions) if region.computes(i)]
        return [part for part in parts if part]

    def _refresh(self) -> list[Launch]:
        """Gates and scalar tables, made ready for this update."""
        found = []
        for waiting in self.waits:
            counts = [self.table_at(0, k) + 8 * self.chain[k].scalars().index("steps") for k in waiting]
            found.append(Launch("open_gate", self.dtype, (self._pace_at(waiting), len(counts), *counts), 1))
        for waiting in dict.fromkeys(waiting for _, waiting in self.order):
            tables = [(self.table_at(r, i), region.missed) for r, region in enumerate(self.regions) for i, mine in self.order
                      if mine == waiting and i < self.given]
            words = (self._pace_at(waiting), len(tables), *(word for table in tables for word in table))
            found += [Launch("refresh_scalars", self.dtype, words, 1)] if tables else []
        return found

    def _step(self, i: int, device: str) -> list[Launch]:
        """One step of the chain over all regions but those that are computed as a whole."""
        step = self.chain[i]
        if isinstance(step, ClipGlobalNorm):
            spans = [(self.gradients.offset + region.at * self.width, region.size) for region in self.regions]
            return clip(spans, self.table_at(0, i) + 16, self.dtype) if spans else []
        if isinstance(step, ClipNorm):
            slots = [self.gradients.slots[path] for path in self.paths]
            return [launch for slot in slots for launch in clip([(slot.offset, slot.size)], self.table_at(0, i) + 16, self.dtype)]
        regions = [r for r, region in enumerate(self.regions) if not region.computes(i)]
        if step.noise:
            key = Launch("noise_key", self.dtype, (self._key_at(i), self.table_at(0, i)), 1)
            return [key, *(launch for r in regions for launch in self._noisy(r, i, device))]
        return [launch for r in regions for launch in self._pass(r, i, device)]

    def _pass(self, number: int, i: int, device: str) -> list[Launch]:
        region, step = self.regions[number], self.regions[number].steps[i]
        name = f"transform_{step.kind_name()}"
        if isinstance(step, Rule):
            name = f"rule_{step.kind_name()}" + ("" if i == closing(self.chain) else "_onward")
        places = self._places(region, i)
        arrays = [Place(places[array]) for array in step.arrays()]
        return launches(name, self.dtype, arrays, self.table_at(number, i), region.size, 0.3 + 0.2 * len(arrays), device)

    def _places(self, region: Region, i: int) -> dict[str, int]:
        """Where a step finds the arrays of a region."""
        at = region.at * self.width
        return {"x": self.parameters.offset + region.parameter_at * self.width, "g": self.gradients.offset + at,
                **{name: self.slabs[f"{i}.{name}"].offset + at for name in self.chain[i].state}}

    def _noisy(self, number: int, i: int, device: str) -> list[Launch]:
        """Random numbers for each array, and the pass that uses them: the same numbers however arrays are put into regions."""
        found = []
        for path in self.regions[number].paths:
            x, g = self.parameters.slots[path], self.gradients.slots[path]
            noise = Scratch(g.nbytes)
            found.append(Launch("normal", self.dtype, (noise, self._key_at(i), noise_place(path, i), 0), g.size, grain=4, cost=2.0))
            arrays = [Place(x.offset), Place(g.offset), noise]
            found += launches(f"transform_{self.chain[i].kind_name()}", self.dtype, arrays, self.table_at(number, i), g.size, 1.0, device)
        return found

    def _computed(self, number: int, i: int) -> tuple[dict[Node, int], list[tuple[Node, int]]]:
        """The graph of a rule on one array as a whole: places of its leaves, results and where they go."""
        region = self.regions[number]
        step, shape = region.steps[i], region.shape
        assert shape is not None
        places = self._places(region, i)
        arrays = {name: leaf(shape, self.dtype, name=name) for name in places}
        table = {name: leaf((), "float64", name=name) for name in step.scalars()}
        scalars = {name: node if self.dtype == "float64" else apply("cast", node, dtype=self.dtype) for name, node in table.items()}
        d, changed = step.compute(arrays["g"], arrays["x"], {name: arrays[name] for name in step.state}, scalars)
        moved = (arrays["x"] - d, places["x"]) if i == closing(self.chain) else (d, places["g"])
        wanted = [(node, places[name]) for name, node in changed.items()] + [moved]
        placed = {arrays[name]: place for name, place in places.items()}
        placed |= {node: self.table_at(number, i) + 8 * k for k, node in enumerate(table.values())}
        return placed, list(zip(simplify([node for node, _ in wanted]), [place for _, place in wanted], strict=True))


def _regions(chain: Sequence[OptimiserStep], shapes: Mapping[str, Shape], trained: Sequence[str], missed: Mapping[str, int]) -> list[Region]:
    """Cut the trained arrays where one between them is not trained, hyper-parameters or the count of updates change, or a rule takes an array as a
    whole.
    """
    chosen = set(trained)
    regions: list[Region] = []
    at = parameter_at = 0
    for path, shape in shapes.items():
        size = count(shape)
        if path in chosen:
            steps = tuple(step.for_path(path) if isinstance(step, Rule) else step for step in chain)
            whole = any(step.is_whole(shape) for step in steps)
            last = regions[-1] if regions and regions[-1].shape is None and not whole else None
            late = missed.get(path, 0)
            if last and last.parameter_at + last.size == parameter_at and (last.steps, last.missed) == (steps, late):
                last.size += size
                last.paths.append(path)
            else:
                regions.append(Region(at, parameter_at, size, steps, [path], shape if whole else None, late))
            at += size
        parameter_at += size
    return regions
