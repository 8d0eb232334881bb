"""A pass over a loader without Python in between: `train`'s function is traced once for each batch size, and the compiled loop does the rest.

That is the same computation only where Python has nothing to do between two steps. So the function must ask for no value, keep no node, and change
nothing; and the data must be a DataLoader of arrays. Everything else is trained step by step.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from types import FunctionType
from typing import Any

import numpy as np

from engine.autodiff.api import scalar
from engine.autodiff.reverse import pullback
from engine.autodiff.tree import leaves
from engine.autodiff.variable import tracing
from engine.core import FLOATS, LEAF, Node, leaf, topological
from engine.data.feed import Feed
from engine.data.loader import DataLoader
from engine.devices.cpu.session import Session
from engine.graph.signature import signature
from engine.nn.model import Model
from engine.optim.rules import Rule
from engine.optim.state import Leaf
from engine.plan import control
from engine.plan.graphs import StepGraph
from engine.plan.program import Program
from engine.plan.update import Update
from engine.train.prompt.quiet import captured_by, is_quiet
from engine.train.prompt.told import LOSS, NORM, metrics_of

MOST_KEPT = 8
_kept: OrderedDict[Hashable, Pass] = OrderedDict()


def traced_pass(f: Callable[..., Any], model: Any, data: Any, state: Any) -> Pass | None:
    """A compiled pass over `data`, or None where the steps have to be made one by one."""
    remembered = _leaves_by_path(model, state) if isinstance(model, Model) and isinstance(data, DataLoader) else None
    columns = _columns(data) if remembered else None
    if not remembered or columns is None or not isinstance(f, FunctionType):
        return None
    captured, setting = captured_by(f), _setting(model, data, columns, remembered)
    quick = None if captured is None else (f.__code__, captured, id(model), setting)
    found = _kept.get(quick) if quick else None     # then it was quiet, and nothing that it reads has changed
    if found is None or found.model is not model:
        found = _compiled(f, model, data, columns, remembered, setting) if is_quiet(f) else None
    if found is None:
        return None
    if quick:
        _keep(quick, found)
    return found.ready(model, data, [remembered[path] for path in found.trained])


def _compiled(f: Callable[..., Any], model: Model, data: DataLoader, columns: Sequence[np.ndarray], remembered: dict[str, Leaf],
              setting: Hashable) -> Pass | None:
    """A pass from new traces, or one kept for equal traces."""
    full, rest = data.rows >= data.batch_size, data.rows % data.batch_size
    sizes = [size for size, wanted in ((data.batch_size, full), (rest, rest and data.partial)) if wanted]
    graphs = {size: graph for size in sizes if (graph := _traced(f, model, columns, size)) is not None}
    if not sizes or len(graphs) < len(sizes):
        return None
    keys = tuple((_key(graph), tuple(graph.sums)) for graph in graphs.values())
    trained = [path for path in graphs[sizes[0]].gradients if not remembered[path].frozen]
    chains, counts = ({getattr(remembered[path], name) for path in trained} for name in ("steps", "step"))
    if len(chains) != 1 or len(counts) != 1 or not _same_again(f, model, columns, sizes[0], keys[0][0]):
        return None
    if _traced(f, model, columns, data.rows, known=True) is None:
        return None
    key = (keys, setting)
    if key not in _kept:
        _keep(key, Pass(model, columns, data, graphs, chains.pop(), trained))
    return _kept[key]


def _keep(key: Hashable, found: Pass) -> None:
    _kept[key] = found
    _kept.move_to_end(key)
    if len(_kept) > MOST_KEPT:
        _kept.popitem(last=False)


def _setting(model: Model, data: DataLoader, columns: Sequence[np.ndarray], remembered: dict[str, Leaf]) -> Hashable:
    """What a pass is made for, beside the function."""
    places = tuple((c.__array_interface__["data"][0], c.shape, c.dtype.name) for c in columns)
    first = next(iter(remembered.values()))
    chains = tuple((path, kept.steps, kept.frozen, kept.step == first.step) for path, kept in remembered.items())
    return places, data.batch_size, data.partial, chains, model.dtype


class Pass:
    """The program of a traced step and a session that runs it; parameters and state are copied in by `ready`, out by `close`, passes in between."""

    def __init__(self, model: Model, columns: Sequence[np.ndarray], data: DataLoader, graphs: dict[int, StepGraph], chain: Any, trained: list[str]):
        shapes = {path: array.shape for path, array in model.parameters.items()}
        program = Program(shapes, {path: array.shape for path, array in model.buffers.items()}, model.dtype)
        program.train_with(Update(chain, shapes, trained))
        self.order = np.arange(data.rows, dtype=np.int64)
        feeds = [Feed(f"item.{i}", column, "number" if column.dtype.name in FLOATS else "code", width=int(np.prod(column.shape[1:])), classes=2**31)
                 for i, column in enumerate(columns)]
        self.phase = program.add_phase("train", lambda rows, _: graphs[rows], feeds, rows=data.rows, batch=data.batch_size, index=self.order,
                                       training=True, drop_last=not data.partial)
        program.finish()
        self.session = Session(program)
        self.trained, self.model = trained, model
        self.states = {(path, name): slab.slots[path].view(self.session.arena) for name, slab in program.state.items() for path in trained}

    def ready(self, model: Model, data: DataLoader, remembered: list[Leaf]) -> Pass:
        """Take up a model, its state and a loader."""
        self.model, self.data, self.remembered = model, data, remembered
        session = self.session
        for mine, theirs in ((session.parameters, model.parameters), (session.buffers, model.buffers)):
            for path, array in mine.items():
                array[...] = theirs[path]
        for mine, theirs in self._states():
            mine[...] = theirs
        first = remembered[0]
        whole = session.whole
        whole[:] = 0
        whole[control.SEED // 8], whole[control.STEP // 8], whole[control.UPDATES // 8] = model.seed, model.calls + 1, first.step
        self.rule = next((step for step in reversed(first.steps) if isinstance(step, Rule)), None)
        self.done = self.finite = 0     # batches of earlier passes, and those of them with a finite loss
        self.begun = False
        return self

    def begin(self) -> None:
        """The loader's next pass, from its first batch."""
        self._count()
        self.session.whole[control.POSITION // 8] = 0
        self.session.clear_sums("train")
        order = self.data.order(self.data.epoch)
        self.order[:] = np.arange(self.data.rows) if order is None else order
        self.losses = np.zeros((self.phase.steps, 2))       # and gradient norms
        self.begun = True

    def _count(self) -> None:
        """The pass that was begun, if one was, belongs to the earlier ones."""
        if self.begun:
            self.done, self.finite, self.data.epoch = self.done + self.position, self.finite + len(self._told()), self.data.epoch + 1
        self.begun = False

    def _told(self) -> np.ndarray:
        """Loss and gradient norm of the pass's batches, without those that were left out."""
        told = self.losses[:self.position]
        return told[np.isfinite(told[:, 0])]

    def means(self) -> dict[str, float]:
        """Of the last pass: loss, gradient norm, and what the function told beside the loss."""
        told = self._told()
        if not len(told):
            return {}
        sums = {name: float(value) / len(told) for name, value in self.session.sums("train").items()}
        return {**sums, LOSS: float(told[:, 0].mean()), NORM: float(told[:, 1].mean())}

    def _states(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The state arrays of the session beside those of the leaves."""
        each = [(path, i, state) for path, kept in zip(self.trained, self.remembered, strict=True) for i, state in enumerate(kept.state)]
        return [(self.states[path, f"{i}.{name}"], array) for path, i, state in each for name, array in state.items()]

    @property
    def position(self) -> int:
        """Batches done."""
        return int(self.session.whole[control.POSITION // 8])

    @property
    def steps(self) -> int:
        """Batches of the pass."""
        return self.phase.steps

    def run(self, most: int) -> float | None:
        """Go on with the pass for so many batches. The loss of the next batch where that, or its gradient, is not finite, else None."""
        start, left = self.position, min(most, self.steps - self.position)
        first = self.remembered[0]
        updates = int(self.session.whole[control.UPDATES // 8])
        scheduled = self.rule is not None and self.rule.schedule is not None
        factors = np.array([self.rule.factor(updates + 1 + k, first.epoch) for k in range(left)]) if scheduled else np.ones(left)  # type: ignore[union-attr]
        done = self.session.run(self.phase, left, factors, self.losses[start:])
        return None if done == left else float(self.session.number[0])

    def item(self) -> tuple[np.ndarray, ...]:
        """The next batch; the model becomes what it is before it."""
        self.model.assign({**{path: self.session.parameters[path] for path in self.trained}, **self.session.buffers})
        columns, size = self.data.data, self.data.batch_size
        rows = self.order[self.position * size: (self.position + 1) * size]
        return tuple(column[rows] for column in (columns if isinstance(columns, tuple) else (columns,)))

    def skip(self) -> None:
        """Leave out the next batch."""
        self.losses[self.position] = np.nan
        self.session.whole[control.STEP // 8] += 1
        self.session.whole[control.POSITION // 8] += 1

    def close(self) -> int:
        """Give the model and its state what they have become; how many batches were done, without those that were left out."""
        self._count()
        session = self.session
        self.model.assign({path: session.parameters[path] for path in self.trained})
        self.model.assign(dict(session.buffers))
        for mine, theirs in self._states():
            theirs[...] = mine
        for kept in self.remembered:
            kept.step = int(session.whole[control.UPDATES // 8])
        self.model.calls += self.done
        return self.finite


# ---------------------------------------------------------------- what can be traced

def _leaves_by_path(model: Model, state: Any) -> dict[str, Leaf] | None:
    """The leaf of each parameter; None where arrays are shared or the state is not the model's."""
    paths, kept = ([value for _, value in leaves(tree)] for tree in (model.nest({path: path for path in model.parameters}), state))
    if model.ties or len(paths) != len(kept) or not all(isinstance(one, Leaf) for one in kept):
        return None
    return dict(zip(paths, kept, strict=True))


def _columns(data: DataLoader) -> list[np.ndarray] | None:
    """The arrays of the loader: floats, or whole numbers that fit in int32 and are not negative."""
    listed = list(data.data) if isinstance(data.data, tuple) else [data.data] if isinstance(data.data, np.ndarray) else []
    for column in listed:
        whole = column.dtype.name in ("int32", "int64", "uint8") and bool(column.size) and column.min() >= 0 and column.max() < 2**31
        if not column.flags.c_contiguous or not column.dtype.isnative or not (whole or column.dtype.name in FLOATS):
            return None
    return listed or None


def _traced(f: Callable[..., Any], model: Model, columns: Sequence[np.ndarray], rows: int, known: bool = False) -> StepGraph | None:
    """The step's graph for a batch of `rows`; None where the function asks for a value, fails, or keeps a node. Where the numbers of the `known`
    columns are looked at too, a class number that is no class fails."""
    parameters, buffers = ({path: leaf(a.shape, a.dtype.name, name=path) for path, a in kept.items()} for kept in (model.parameters, model.buffers))
    types = [c.dtype.name if c.dtype.name in FLOATS else "int32" for c in columns]
    batch = {f"item.{i}": leaf((rows, *c.shape[1:]), dtype, value=c.astype(dtype, copy=False) if known else None)
             for i, (c, dtype) in enumerate(zip(columns, types, strict=True))}
    calls = model.calls
    try:
        twin = model.bind({**parameters, **buffers}, training=True)
        with tracing():
            value = f(twin, *batch.values())
            loss, metrics = scalar(value), metrics_of(value)
    except Exception:
        return None     # step by step, whatever it is comes up again, or is no matter
    finally:
        model.calls = calls
    if loss is None or not all(isinstance(node, Node) and not node.shape and node.dtype in FLOATS for node in metrics.values()):
        return None
    found = pullback(loss, None, list(parameters.values()))
    gradients = {path: node for path, node in zip(parameters, found, strict=True) if node is not None}
    keys = [node for node in topological([loss]) if node.op is LEAF and node.name == "key"]
    if not gradients or len(keys) > 1:
        return None
    return StepGraph(rows, batch, parameters, buffers, keys[0] if keys else None, loss, gradients, dict(twin.assigned), {LOSS: loss, **metrics})


def _key(graph: StepGraph) -> Hashable:
    """Equal for graphs that compute the same from the same captured arrays."""
    found, inputs = signature(graph.results())
    own = {*graph.batch.values(), *graph.parameters.values(), *graph.buffers.values(), graph.key}
    return found, tuple((node.name if node in own else node.value.tobytes() if node.value is not None else "") for node in inputs)


def _same_again(f: Callable[..., Any], model: Model, columns: Sequence[np.ndarray], rows: int, key: Hashable) -> bool:
    """Whether a second trace gives the same graph, and leaves no node behind in something of the function's."""
    graph = _traced(f, model, columns, rows)
    same = graph is not None and _key(graph) == key
    nodes = [weakref.ref(node) for node in topological(graph.results())] if graph is not None else []
    del graph
    return same and not any(ref() is not None for ref in nodes)
