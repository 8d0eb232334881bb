"""Training at a prompt: `train` on any Python function of a model, after Flux's `train!`. Jobs run in run/loop.py.

In each step the loss and its gradient are computed, then the update is made, then callbacks are called.
"""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from types import FunctionType
from typing import Any, Literal

import numpy as np

from engine.autodiff.api import withgradient
from engine.autodiff.implicit import Params
from engine.autodiff.origin import origin
from engine.autodiff.tree import leaves
from engine.errors import NonFiniteError, SkipUpdate, StopTraining, TrainyardError
from engine.nn.model import Model
from engine.optim.chain import Chain
from engine.optim.rules import Rule
from engine.optim.state import Leaf, at_epoch, each, made_by_setup, setup, tree_of, update
from engine.optim.step import OptimiserStep
from engine.train.prompt.bar import PARTS, Bar
from engine.train.prompt.given import check, listed, taking
from engine.train.prompt.quiet import is_quiet
from engine.train.prompt.told import LOSS, NORM, Event, metrics_of, old_style
from engine.train.prompt.traced import Pass, traced_pass
from engine.train.prompt.triggers import throttle

OnNonfinite = Literal["stop", "skip", "rollback"]
MOST_ROLLBACKS = 100
Differentiate = Callable[..., tuple[Any, Any]]
Callbacks = Callable[[Event], Any] | Sequence[Callable[[Event], Any]]


def train(f: Callable[..., Any], model: Any, data: Iterable[Any], state: Any, *, epochs: int = 1, callbacks: Callbacks = (),
          on_nonfinite: OnNonfinite = "stop", progress: bool = False, cb: Any = ()) -> None:
    """One pass over `data`, or `epochs` of them: `f(model, *item)` for a tuple, else `f(model, item)`, returns the loss, or (loss, dict of metrics).

    model, state  a model or tree of arrays, and what `setup` made for it; a rule instead of a state is set up for this call only
    callbacks     functions of one Event, or one alone, called after each step; see `each_epoch`, `before_update`. One that returns True ends the
                  run, as StopTraining does (or only the epoch, with level="epoch"). SkipUpdate, raised in `f` or before the update, leaves it out
    on_nonfinite  of a loss or gradient: "stop" raises NonFiniteError, "skip" warns and goes on, "rollback" returns to what was at the start
                  of the epoch and goes on at half the learning rate; the parameters never see such a step
    progress      a line on standard error shows how far it is

    The implicit style: `train(loss, params(model), data, rule, cb=…)`, where `loss(*item)` calls the model and `cb` are functions without arguments.
    """
    check(f, data, epochs, on_nonfinite)
    told, bare = list(listed(callbacks)), list(listed(cb))
    calls = [*told, *([old_style(bare)] if bare else [])]
    bar = Bar(epochs) if progress else None
    try:
        if isinstance(model, Params):
            loop = _Loop(_implicit(f, model), list(model), _remembered(model, state), calls, on_nonfinite, bar)
        else:
            loop = _Loop(compile_step(f, model), model, _set_up(state, model), calls, on_nonfinite, bar, f)
        loop.run(data, epochs)
    except StopTraining:
        pass
    finally:
        if bar:
            bar.close()
        for callback in [*told, *bare]:
            if isinstance(callback, throttle):
                callback.flush()


def train_step(f: Callable[..., Any], model: Any, item: Any, state: Any) -> Any:
    """One step on one item of data: gradient and update in place. The value of `f` before the update; where that is not finite, no update is made."""
    value, gradients = compile_step(f, model)(*_arguments(item))
    if _finite(loss_of(value), gradients):
        update(state, model, gradients)
    return value


def compile_step(f: Callable[..., Any], model: Any) -> Differentiate:
    """`(*item) -> (value of f, gradients of the model)`."""
    def step(*item: Any) -> tuple[Any, Any]:
        with taking(f, item):
            value, (gradients,) = withgradient(lambda m: f(m, *item), model)
        return value, gradients

    return step


def _implicit(f: Callable[..., Any], ps: Params) -> Differentiate:
    def step(*item: Any) -> tuple[Any, Any]:
        with taking(f, item, model=False):
            value, found = withgradient(lambda: f(*item), ps)
        return value, [found[p] for p in ps]

    return step


def _remembered(ps: Params, rule: Any) -> Any:
    """The rule's state for these parameters, kept between calls as long as `ps` is, as old rules kept theirs."""
    known = ps.states.get(id(rule))
    if known is None or len(known[1]) != len(ps):
        known = ps.states[id(rule)] = (rule, setup(rule, list(ps)))
    return known[1]


def _set_up(state: Any, model: Any) -> Any:
    if not isinstance(state, OptimiserStep | Chain):
        made_by_setup(state)
        return state
    if any(s.state for s in state.listed):
        warnings.warn(f"{type(state).__name__} remembers past gradients, and forgets them after this call of train: make its state once with "
                      "setup(rule, model) to keep it", stacklevel=3)
    return setup(state, model)


def _arguments(item: Any) -> tuple[Any, ...]:
    return tuple(item) if isinstance(item, tuple) else (item,)


def loss_of(value: Any) -> float:
    """The loss in what a function returned."""
    return float(next(iter(value.values())) if isinstance(value, dict) else value[0] if isinstance(value, tuple) else value)


def _finite(loss: float, gradients: Any) -> bool:
    return math.isfinite(loss) and all(np.isfinite(g).all() for _, g in leaves(gradients) if g is not None)


class _Loop:
    def __init__(self, differentiate: Differentiate, model: Any, state: Any, callbacks: Sequence[Callable[[Event], Any]], on_nonfinite: OnNonfinite,
                 bar: Bar | None, f: Callable[..., Any] | None = None):
        self.f = f      # what may be traced once and run without Python
        self.differentiate, self.model, self.state, self.on_nonfinite, self.bar = differentiate, model, state, on_nonfinite, bar
        self.callbacks = {at: [c for c in callbacks if getattr(c, "at", "step") == at] for at in ("update", "step", "epoch")}
        self.steps, self.rollbacks, self.started = max(leaf.step for leaf in each(state)), 0, time.perf_counter()
        self.number = next(each(state)).epoch

    def run(self, data: Iterable[Any], epochs: int) -> None:
        """All epochs. Those that nobody looks at go by in one compiled pass after the other."""
        while epochs:
            at_epoch(self.state, self.number)
            traced = self.traced(data)
            together = epochs if traced is not None and not self.callbacks["epoch"] else 1
            if traced is None:
                self.one_by_one(data)
            else:
                self.passes(traced, data, together)
            epochs -= together

    def one_by_one(self, data: Iterable[Any]) -> None:
        """An epoch of single steps."""
        if self.bar:
            self.bar.epoch(data)
        saved = _snapshot(self.model, self.state) if self.on_nonfinite == "rollback" else None
        told: list[dict[str, float]] = []
        try:
            for place, item in enumerate(data, 1):
                try:
                    told.append(self.step(item, place, saved))
                except SkipUpdate:
                    continue
        except StopTraining as stop:
            if stop.level == "run":
                raise
        names = dict.fromkeys(name for one in told for name in one)
        self.close({name: float(np.mean([one[name] for one in told if name in one])) for name in names})

    def close(self, means: dict[str, float]) -> None:
        """Tell of the epoch by the means of its steps: LOSS, NORM, and metrics."""
        metrics = {name: value for name, value in means.items() if name not in (LOSS, NORM)}
        self.tell("epoch", means.get(LOSS, math.nan), metrics, None, means.get(NORM, math.nan))
        self.next_epoch()

    def next_epoch(self) -> None:
        self.number += 1
        at_epoch(self.state, self.number)

    def traced(self, data: Iterable[Any]) -> Pass | None:
        """The epoch as one compiled pass, where nobody wants to hear of single steps."""
        listening = self.callbacks["update"] or self.callbacks["step"] or self.on_nonfinite == "rollback"
        return None if listening or self.f is None else traced_pass(self.f, self.model, data, self.state)

    def passes(self, traced: Pass, data: Iterable[Any], epochs: int) -> None:
        """So many epochs, a pass each; the model and its state hear of them at the end."""
        try:
            for k in range(epochs):
                if k:
                    self.next_epoch()
                if self.bar:
                    self.bar.epoch(data)
                traced.begin()
                self.whole_pass(traced)
        finally:
            self.steps += traced.close()
        self.close(traced.means())

    def whole_pass(self, traced: Pass) -> None:
        while (before := traced.position) < traced.steps:
            if (loss := traced.run(-(-traced.steps // PARTS) if self.bar else traced.steps)) is not None:
                try:
                    self.nonfinite(loss, traced.position + 1, None, traced.item)
                except SkipUpdate:
                    traced.skip()
            if self.bar:
                self.bar.step(traced.losses[traced.position - 1, 0], traced.position - before)

    def step(self, item: Any, place: int, saved: Any) -> dict[str, float]:
        """One step; what there is to tell of it in numbers."""
        buffers = {path: array.copy() for path, array in self.model.buffers.items()} if isinstance(self.model, Model) else {}
        value, gradients = self.differentiate(*_arguments(item))
        loss = loss_of(value)
        if not _finite(loss, gradients):
            if buffers:
                self.model.assign(buffers)
            self.nonfinite(loss, place, saved, lambda: _arguments(item))
        if all(g is None for _, g in leaves(gradients)):
            raise TrainyardError("the loss does not depend on what is trained: compute it from the model that the function is given, "
                                 "and do not turn values into numbers on the way (float, numpy)")
        metrics, norm = metrics_of(value), self.norm(gradients)
        self.tell("update", loss, metrics, gradients, norm)
        update(self.state, self.model, gradients)
        self.steps += 1
        if self.bar:
            self.bar.step(loss)
        self.tell("step", loss, metrics, gradients, norm)
        return {**{name: float(x) for name, x in metrics.items() if np.ndim(x) == 0 and np.asarray(x).dtype.kind in "biuf"}, LOSS: loss, NORM: norm}

    def norm(self, gradients: Any) -> float:
        """Over the trained arrays; not computed where nobody hears of it."""
        if not any(self.callbacks.values()):
            return math.nan
        frozen = {path for path, leaf in leaves(self.state) if leaf.frozen}
        return math.sqrt(sum(float(np.vdot(g, g)) for path, g in leaves(gradients) if isinstance(g, np.ndarray) and path not in frozen))

    def tell(self, at: Literal["update", "step", "epoch"], loss: float, metrics: dict[str, Any], gradients: Any, norm: float) -> None:
        if not self.callbacks[at]:
            return
        event = Event(at, self.number, self.steps, loss, metrics, time.perf_counter() - self.started, _learning_rate(self.state), gradients, norm)
        for callback in self.callbacks[at]:
            try:
                answer = callback(event)
            except SkipUpdate:
                if at == "update":
                    raise
                raise TrainyardError("a callback after the update cannot skip it: wrap it in callbacks.before_update") from None
            if isinstance(answer, bool | np.bool_) and answer:
                raise StopTraining(f"{callback} said so")

    def nonfinite(self, loss: float, place: int, saved: Any, item: Callable[[], tuple[Any, ...]]) -> None:
        what = f"the loss is {loss}" if not math.isfinite(loss) else f"the loss is {loss:.6g} and its gradient is not finite"
        where = f"{what} at item {place} of epoch {self.number}"
        self.rollbacks += self.on_nonfinite == "rollback"
        if self.on_nonfinite == "stop" or self.rollbacks > MOST_ROLLBACKS:
            first = origin(self.f, self.model, *item()) if isinstance(self.f, FunctionType) and is_quiet(self.f) else None
            where += f", first in {first}" if first else ""
            raise NonFiniteError(f"{where}; the parameters are as they were before it. Try a smaller learning rate, or look at this item; "
                                 "on_nonfinite='skip' leaves such items out")
        done = "the item is skipped" if saved is None else "back to the start of the epoch, at half the learning rate"
        warnings.warn(f"{where}: {done}", stacklevel=4)
        if saved is not None:
            _restore(self.model, self.state, saved)
        raise SkipUpdate(where)


def _learning_rate(state: Any) -> float | None:
    leaf = next(each(state))
    rate = getattr(leaf.rule, "learning_rate", None)
    return rate * leaf.rule.factor(max(leaf.step, 1), leaf.epoch) if rate is not None and isinstance(leaf.rule, Rule) else rate


def _snapshot(model: Any, state: Any) -> Any:
    buffers = {path: array.copy() for path, array in model.buffers.items()} if isinstance(model, Model) else {}
    return {path: np.copy(x) for path, x in leaves(tree_of(model))}, [copy.deepcopy((leaf.state, leaf.step)) for leaf in each(state)], buffers


def _restore(model: Any, state: Any, saved: Any) -> None:
    arrays, memories, buffers = saved
    for path, x in leaves(tree_of(model)):
        if isinstance(x, np.ndarray):
            x[...] = arrays[path]
    for leaf, (remembered, step) in zip(each(state), memories, strict=True):
        leaf.state, leaf.step = copy.deepcopy(remembered), step
        _slow(leaf)
    if buffers:
        model.assign(buffers)


def _slow(leaf: Leaf) -> None:
    """Half the learning rate, of the rules that have one."""
    leaf.steps = tuple(s if (rate := getattr(s, "learning_rate", None)) is None else s.adjusted({"learning_rate": rate * 0.5}) for s in leaf.steps)
