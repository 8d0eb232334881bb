"""The update section of a step: the optimiser's passes over the slabs.

Trained parameters fall into regions: runs of neighbouring arrays with the same hyper-parameters. Each pass covers a region at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.core import Launch, Shape, count
from engine.optim.rules import Descent, Rule
from engine.optim.step import OptimiserStep
from engine.optim.transforms import ClipGlobalNorm, ClipNorm
from engine.plan.control import clip
from engine.plan.plan import Place
from engine.plan.slab import Slab


@dataclass
class Region:
    """Neighbouring trained arrays: from element `at` of the gradient slab, `parameter_at` of the parameter slab."""

    at: int
    parameter_at: int
    size: int
    steps: tuple[OptimiserStep, ...]    # the chain with this region's hyper-parameters
    paths: list[str]


class Update:
    """The optimiser of a program: a chain of steps for each region, and the float64 table of their scalars."""

    def __init__(self, chain: Sequence[OptimiserStep], shapes: Mapping[str, Shape], trained: Sequence[str]):
        self.paths = list(trained)
        self.chain = tuple(chain) if chain and isinstance(chain[-1], Rule) else (*chain, Descent(1.0))
        self.plain_end = self.chain[len(chain):]     # a closing step of -g, on which no schedule works
        self.regions = _regions(self.chain, shapes, trained)
        self.state = [f"{i}.{name}" for i, step in enumerate(self.chain) for name in step.state]
        tables = [step.table() for region in self.regions for step in region.steps]
        self.starts = np.cumsum([0, *(len(t) for t in tables)])[:-1]
        self.scalars = np.concatenate(tables) if tables else np.zeros(1)
        self.scalars_at = 0

    def table_at(self, region: int, step: int) -> int:
        """Offset of the scalars of a step in a region."""
        return self.scalars_at + 8 * int(self.starts[region * len(self.chain) + step])

    def write_scalars(self, arena: np.ndarray) -> None:
        arena[self.scalars_at: self.scalars_at + self.scalars.nbytes] = self.scalars.view(np.uint8)

    def initial_state(self) -> dict[str, np.ndarray]:
        """What each slab of state begins as: one number per element, by region."""
        total = sum(region.size for region in self.regions)
        start = {name: np.zeros(total) for name in self.state}
        for region in self.regions:
            for i, step in enumerate(region.steps):
                for name in step.state:
                    start[f"{i}.{name}"][region.at: region.at + region.size] = step.start(name)
        return start

    def launches(self, parameters: Slab, gradients: Slab, state: Mapping[str, Slab]) -> list[Launch]:
        """The passes of one update, in the order of the chain."""
        dtype, width = parameters.dtype, np.dtype(parameters.dtype).itemsize
        scheduled = [self.table_at(r, i) for r in range(len(self.regions)) for i, step in enumerate(self.chain) if step not in self.plain_end]
        launches = [Launch("refresh_scalars", dtype, (len(scheduled), *scheduled), 1)] if scheduled else []
        for i, step in enumerate(self.chain):
            if isinstance(step, ClipGlobalNorm):
                spans = [(gradients.offset + region.at * width, region.size) for region in self.regions]
                launches += clip(spans, self.table_at(0, i) + 16, dtype) if spans else []
            elif isinstance(step, ClipNorm):
                for path in self.paths:
                    slot = gradients.slots[path]
                    launches += clip([(slot.offset, slot.size)], self.table_at(0, i) + 16, dtype)
            else:
                launches += [self._pass(parameters, gradients, state, r, i) for r in range(len(self.regions))]
        return launches

    def _pass(self, parameters: Slab, gradients: Slab, state: Mapping[str, Slab], number: int, i: int) -> Launch:
        region, last = self.regions[number], i == len(self.chain) - 1
        step, width = region.steps[i], np.dtype(parameters.dtype).itemsize
        at = region.at * width
        places = {"x": parameters.offset + region.parameter_at * width, "g": gradients.offset + at,
                  **{name: state[f"{i}.{name}"].offset + at for name in step.state}}
        name = f"rule_{step.kind_name()}" + ("" if last else "_onward") if isinstance(step, Rule) else f"transform_{step.kind_name()}"
        words = (*(Place(places[array]) for array in step.arrays()), self.table_at(number, i))
        return Launch(name, parameters.dtype, words, region.size, grain=16, cost=0.3 + 0.2 * len(step.arrays()))


def _regions(chain: Sequence[OptimiserStep], shapes: Mapping[str, Shape], trained: Sequence[str]) -> list[Region]:
    """Cut the trained arrays where one between them is not trained, or the hyper-parameters change."""
    chosen = set(trained)
    regions: list[Region] = []
    at = parameter_at = 0
    for path, shape in shapes.items():
        size = count(shape)
        if path in chosen:
            steps = tuple(step.for_path(path) if isinstance(step, Rule) else step for step in chain)
            last = regions[-1] if regions else None
            if last and last.parameter_at + last.size == parameter_at and last.steps == steps:
                last.size += size
                last.paths.append(path)
            else:
                regions.append(Region(at, parameter_at, size, steps, [path]))
            at += size
        parameter_at += size
    return regions
