"""A program: everything a run does, as plans over one arena.

    control | parameters | buffers | optimiser state | gradients | sums | rules' scalars | batch rows | temporaries

Parameters, gradients and optimiser state are contiguous slabs. A program has phases (train, valid, ...); a phase has plans for its full and for its
last batch, and each plan has sections: gather, compute, guard, update, metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from engine.core import CONSTANT, FLOATS, Address, Launch, Node, Shape, count, topological
from engine.data import gather
from engine.data.augment import Changes
from engine.data.feed import Feed
from engine.ops.matmul_grid import round_operands
from engine.plan import control
from engine.plan.graphs import GraphMaker, StepGraph
from engine.plan.memory import Cursor, align
from engine.plan.plan import Place, Plan, join, lay, make
from engine.plan.slab import Slab, Slot
from engine.plan.update import Computed, Update

SECTIONS = ("gather", "compute", "guard", "update", "metrics")


@dataclass
class Source:
    """Where batches come from."""

    feeds: Sequence[Feed]
    index: np.ndarray | None
    mode: str
    repeats: int
    changes: Changes = field(default_factory=dict)


@dataclass
class Phase:
    """One way to go through some rows of the data: full batches, then perhaps a smaller last one."""

    name: str
    training: bool
    rows: int
    batch: int
    steps: int            # batches in one pass
    full_steps: int       # of them with a full batch
    source: Source
    graphs: list[StepGraph | None] = field(default_factory=list)     # of the full and the last batch, until the plans are made
    plans: list[Plan] = field(default_factory=list)                  # the sections of the full batch, then of the last
    batches: list[dict[str, Slot]] = field(default_factory=list)     # of the full and the last batch: where the leaves of the batch are
    outputs: list[dict[str, Slot]] = field(default_factory=list)     # and where outputs and per-row values are


class Program:
    """Plans over one arena, made phase by phase. `finish` fixes the size of the arena; then `image` is what it holds before the first step."""

    def __init__(self, parameters: dict[str, Shape], buffers: dict[str, Shape], dtype: str = "float32", device: str = "cpu", precision: str = "full"):
        self.dtype, self.device, self.precision = dtype, device, precision
        self.phases: dict[str, Phase] = {}
        self.lasting = Cursor(control.NBYTES)
        self.parameters = self._slab(parameters)
        self.buffers = self._slab(buffers)
        self.state: dict[str, Slab] = {}
        self.gradients = self._slab({})
        self.sums: dict[str, Slab] = {}
        self.rows: dict[str, Slab] = {}       # by phase, values of all its rows
        self.update: Update | None = None
        self.update_parts: list[list[Launch] | Computed] = []
        self.constants: dict[tuple[str, Shape, bytes], int] = {}      # (type, shape, bytes) -> offset

    def _slab(self, shapes: dict[str, Shape], dtype: str = "") -> Slab:
        dtype = dtype or self.dtype
        slab = Slab(self.lasting.take(sum(map(count, shapes.values())) * np.dtype(dtype).itemsize), dtype)
        for name, shape in shapes.items():
            slab.add(name, shape)
        return slab

    def train_with(self, update: Update) -> None:
        """Give the program its optimiser: gradients and state get their slabs, in the layout of the trained parameters."""
        shapes = {path: self.parameters.slots[path].shape for path in update.paths}
        self.gradients = self._slab(shapes)
        self.state = {name: self._slab(shapes) for name in update.state}
        self.update = update
        update.place(self.parameters, self.gradients, self.state, self.lasting.take(update.nbytes))

    # ---------------------------------------------------------------- phases

    def add_phase(self, name: str, make_graph: GraphMaker, feeds: Sequence[Feed], *, rows: int, batch: int, index: np.ndarray | None = None,
                  training: bool = False, mode: str = "sequential", steps: int | None = None, drop_last: bool = False, repeats: int = 1,
                  changes: Changes | None = None) -> Phase:
        """Add a way to go through `rows` rows (those of `index`, where given) in batches, changed as `changes` say. `finish` makes its plans."""
        total = rows * repeats
        full = total // batch if steps is None else steps
        last = 0 if steps is not None or drop_last else total - full * batch
        phase = Phase(name, training, rows, batch, full + (1 if last else 0), full, Source(feeds, index, mode, repeats, changes or {}))
        phase.graphs = [make_graph(size, training).simplified() if size and wanted else None for size, wanted in ((batch, full), (last, last))]
        sums = next(graph.sums for graph in phase.graphs if graph is not None)
        self.sums[name] = self._slab({key: node.shape for key, node in sums.items()}, "float64")
        self.rows[name] = self._slab(_all_rows(phase))
        self.phases[name] = phase
        return phase

    def finish(self) -> None:
        """Make all plans. They share the bytes behind the slabs, for only one of them runs at a time."""
        constants = {id(graph): self._constants(graph.results()) for phase in self.phases.values() for graph in phase.graphs if graph is not None}
        self.update_parts = self.update.parts(self.device) if self.update else []
        for part in self.update_parts:
            if isinstance(part, Computed):
                part.placed |= self._constants([node for node, _ in part.results])
        for phase in self.phases.values():
            for graph in phase.graphs:
                self._plan_batch(phase, graph, constants.get(id(graph), {}))
            phase.graphs = []

    def _constants(self, results: Sequence[Node]) -> dict[Node, int]:
        """Places for the numbers and arrays that are part of a graph, each value once in the program."""
        placed = {}
        for node in topological(results):
            if node.op is CONSTANT or node.value is not None:
                value = np.asarray(node.attrs["value"] if node.value is None else node.value, node.dtype)
                key = (node.dtype, node.shape, value.tobytes())
                if key not in self.constants:
                    self.constants[key] = self.lasting.take(value.nbytes)
                placed[node] = self.constants[key]
        return placed

    def _plan_batch(self, phase: Phase, graph: StepGraph | None, constants: dict[Node, int]) -> None:
        if graph is None:
            phase.plans += [Plan() for _ in SECTIONS]
            phase.batches.append({})
            phase.outputs.append({})
            return
        base = Cursor(self.cursor)
        average = {} if phase.training else self.averages
        placed = {**constants, **{node: average.get(path, self.parameters.slots[path]).offset for path, node in graph.parameters.items()},
                  **{node: self.buffers.slots[path].offset for path, node in graph.buffers.items()}}
        if graph.key is not None:
            placed[graph.key] = control.SEED
        fill = self._fill(phase, graph, placed, base)
        phase.batches.append({name: Slot(placed[node], node.shape, node.dtype) for name, node in graph.batch.items()})
        self._plan_sections(phase, graph, fill, placed, base.at)

    def _fill(self, phase: Phase, graph: StepGraph, placed: dict[Node, int], base: Cursor) -> list[Launch]:
        """The launches that make a batch, and places for its leaves."""
        source, rows_at = phase.source, base.take(8 * graph.rows)
        fill = [gather.sample(rows_at, source.index, phase.rows, source.mode, phase.batch, graph.rows, source.repeats)]
        spread: dict[tuple[int, int], int] = {}     # where the rows of windows are, by (ahead, steps)
        for feed in source.feeds:
            if (span := feed.span) is not None and (span.ahead, span.steps) not in spread:
                spread[span.ahead, span.steps] = base.take(8 * graph.rows * span.steps)
                fill.append(gather.spread(spread[span.ahead, span.steps], rows_at, graph.rows, span))
        for name, node in graph.batch.items():
            nbytes, changes = node.size * np.dtype(node.dtype).itemsize, source.changes.get(name, ())
            real = node.dtype if node.dtype in FLOATS else self.dtype
            places = [base.take(nbytes) for _ in range(len(changes) + 1)]       # as gathered, then after each change
            placed[node] = places[-1]
            for feed in (f for f in source.feeds if f.target == name):
                at, steps = (rows_at, 1) if feed.span is None else (spread[feed.span.ahead, feed.span.steps], feed.span.steps)
                fill += gather.launches(feed, places[0], at, graph.rows * steps, count(node.shape[1:]) // steps, real)
            fill += [change.launch(places[k + 1], places[k], use, graph.rows, node.shape[1:], self.dtype) for k, (change, use) in enumerate(changes)]
        if graph.counters:
            placed.update({node: base.take(8) for node in graph.counters.values()})
            fill.append(Launch("count_steps", self.dtype, (placed[graph.counters["step"]], placed[graph.counters["epoch"]]), 1))
        return fill

    def _plan_sections(self, phase: Phase, graph: StepGraph, fill: list[Launch], placed: dict[Node, int], base: int) -> None:
        sums = self.sums[phase.name]
        training = phase.training and self.update is not None
        results = [(graph.gradients[p], self.gradients.slots[p].offset) for p in self.gradients.slots] if training else []
        compute = make(graph.kept(), placed, base, results, self.device)
        round_operands(compute.rows, self.precision)
        top = base + align(compute.nbytes)
        guard, update = [], Plan(base=top)
        if training and self.update is not None:
            squares, partial, blocks = control.squares(self.gradients.offset, self.gradients.nbytes // np.dtype(self.dtype).itemsize, self.dtype)
            guard = [squares, Launch("guard", self.dtype, (partial, blocks, compute.at(graph.loss)), 1)]
            assigned = [_copy(compute.at(node), self.buffers.slots[path]) for path, node in graph.assigned.items()]
            update = join([_planned(part, top, self.device) for part in (*self.update_parts, assigned)], top)
        add = [Launch("add_up", node.dtype, (sums.slots[name].offset, compute.at(node)), max(node.size, 1)) for name, node in graph.sums.items()]
        for name, node in graph.kept_rows.items():
            slot = self.rows[phase.name].slots[name]
            width = slot.nbytes // slot.shape[0]
            add.append(Launch("keep_rows", "float32", (slot.offset, compute.at(node), width, slot.shape[0] // phase.steps), node.shape[0]))
        phase.plans += [lay(fill, top), compute, lay(guard, top), update, lay(add, top)]
        phase.outputs.append({name: Slot(compute.at(node), node.shape, node.dtype) for name, node in {**graph.outputs, **graph.per_row}.items()})

    @property
    def averages(self) -> dict[str, Slot]:
        """Where the averages of the trained parameters are that stand in for them outside training; none, where the optimiser keeps none."""
        name = self.update.average if self.update else None
        return {} if name is None else self.state[name].slots

    @property
    def outside(self) -> list[np.ndarray]:
        """The arrays outside the arena that plans read, each once."""
        words = (word for phase in self.phases.values() for plan in phase.plans for row in plan.rows for word in row.words)
        return list({id(word.array): word.array for word in words if isinstance(word, Address)}.values())

    @property
    def cursor(self) -> int:
        """Where that ends which outlives a step, and batches begin."""
        return self.lasting.at

    @property
    def nbytes(self) -> int:
        """Bytes of the whole arena."""
        return max([self.cursor, *(plan.base + align(plan.nbytes) for phase in self.phases.values() for plan in phase.plans)])


def _all_rows(phase: Phase) -> dict[str, Shape]:
    """Room for the kept values of all batches of a phase."""
    graph = next(graph for graph in phase.graphs if graph is not None)
    return {name: (phase.steps * node.shape[0], *node.shape[1:]) for name, node in graph.kept_rows.items()}


def _planned(part: list[Launch] | Computed, base: int, device: str) -> Plan:
    """A part of the update as a plan."""
    if not isinstance(part, Computed):
        return lay(part, base)
    plan = make([], part.placed, base, part.results, device)
    for group in plan.groups:
        group.gate = part.gate
    return plan


def _copy(source: int, slot: Slot) -> Launch:
    return Launch("copy_bytes", "float32", (Place(slot.offset), Place(source), np.dtype(slot.dtype).itemsize), slot.size, cost=0.2)
