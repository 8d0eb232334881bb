"""State of optimisation, apart from rules: `setup` makes a tree of leaves that mirrors the model's, `update` moves the model's arrays in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from pydantic import ValidationError

from engine.autodiff.implicit import key
from engine.autodiff.tree import leaves, transform
from engine.core import FLOATS, Node
from engine.errors import ShapeError, SpecError, TrainyardError, nearest, shown
from engine.nn.model import Model
from engine.nn.paths import join
from engine.optim.averages import EMA
from engine.optim.chain import Chain
from engine.optim.leaf import Leaf, move
from engine.optim.rules import Rule
from engine.optim.step import OptimiserStep
from engine.spec import FOREIGN_NAMES, problems


def tree_of(model: Any) -> Any:
    """A model's arrays as nested dicts and lists. Raises TrainyardError for a layer, which has none."""
    if hasattr(model, "build"):
        raise TrainyardError(f"there is nothing to train in {shown(model)}: a layer has no arrays yet; make a model of it with "
                             "model = layer.build(input_shape=...)")
    return model.tree() if isinstance(model, Model) else model


def trains(value: Any) -> bool:
    """Whether a leaf of a model is an array that can be trained: real numbers in the machine's byte order, not integers."""
    return isinstance(value, np.ndarray) and value.dtype.name in FLOATS and value.dtype.isnative


def setup(rule: OptimiserStep | Chain, model: Any) -> Any:
    """The state of `rule` for a model, or for nested dicts and lists of arrays: a tree of `Leaf`, {} or None where there is nothing to train.

    An array that appears twice has one leaf. A rule's `groups` are resolved by path.
    """
    if not isinstance(rule, OptimiserStep | Chain):
        raise TrainyardError(f"setup takes a rule such as optim.Adam() first and the model second, found {shown(rule)}")
    made: dict[Any, Leaf] = {}
    seed = model.seed if isinstance(model, Model) else 0

    def leaf(path: str, value: Any) -> Leaf | None:
        return made.setdefault(key(value), _leaf(rule, path, value, seed)) if trains(value) else None

    state = transform(tree_of(model), leaf)
    if not made:
        raise TrainyardError(f"there is nothing to train in {shown(model)}: it has no arrays of real numbers")
    return state


def _leaf(rule: OptimiserStep | Chain, path: str, array: np.ndarray, seed: int) -> Leaf:
    steps = tuple(s.for_path(path) if isinstance(s, Rule) else s for s in rule.listed)
    memory = tuple({name: np.full(array.shape, s.start(name, array), array.dtype) for name in s.state} for s in steps)
    return Leaf(steps, memory, path=path, seed=seed)


def update(state: Any, model: Any, gradients: Any) -> None:
    """Move the model's arrays in place by one step. Raises ShapeError where a gradient's shape differs, NonFiniteError where a norm is not finite.

    A gradient of None leaves its array and its state alone; a gradient of zeros moves what has momentum. A rule without state may be given in
    place of the state.
    """
    if isinstance(state, OptimiserStep | Chain):
        if any(s.state for s in state.listed):
            raise TrainyardError(f"{type(state).__name__} remembers past gradients: make its state once with state = setup(rule, model), "
                                 "and give that in its place")
        state = setup(state, model)
    made_by_setup(state)
    work: dict[int, tuple[Leaf, np.ndarray, np.ndarray]] = {}
    for leaf, array, gradient in _together(state, tree_of(model), gradients, ""):
        if id(leaf) in work:
            gradient = work[id(leaf)][2] + gradient     # the same array in two places: their gradients add up
        work[id(leaf)] = (leaf, array, gradient)
    move([(leaf, array, np.array(g, array.dtype, order="C")) for leaf, array, g in work.values() if not leaf.frozen])


def _together(state: Any, tree: Any, gradients: Any, path: str) -> Iterator[tuple[Leaf, np.ndarray, np.ndarray]]:
    if gradients is None or state is None:
        return
    if _form(state) != _form(tree):
        raise TrainyardError(f"this state was made for another model: at {path or 'the top'} it has {_form(state)}, the model has {_form(tree)}; "
                             "make the model's own with setup(rule, model)")
    if isinstance(state, Leaf):
        gradient = np.asarray(gradients) if not isinstance(gradients, Mapping | list | tuple) else None
        if gradient is None or gradient.shape != tree.shape:
            found = f"shape {list(gradient.shape)}" if gradient is not None else f"a {type(gradients).__name__}"
            hint = "; gradient() returns a tuple, one entry for each argument: pass grads[0]" if isinstance(gradients, tuple) else ""
            raise ShapeError(f"the gradient of {path or 'the array'} has {found}, the array has shape {list(tree.shape)}{hint}")
        if not tree.flags.writeable:
            raise TrainyardError(f"{path or 'the array'} is read-only, and update moves arrays in place: train a copy of it")
        yield state, tree, gradient
        return
    if isinstance(gradients, tuple) and not isinstance(tree, tuple):
        raise TrainyardError("update was given the whole tuple that gradient() returns, which has one entry for each argument: pass grads[0]")
    if isinstance(state, Mapping):
        _known(gradients, state, path)
        for name, child in state.items():
            yield from _together(child, tree[name], _child(gradients, name, path), join(path, str(name)))
    elif isinstance(state, list | tuple):
        for i, child in enumerate(state):
            yield from _together(child, tree[i], _child(gradients, i, path), join(path, str(i)))


def _form(tree: Any) -> str:
    """What a branch of a model or of its state looks like."""
    if isinstance(tree, Mapping):
        return f"entries {', '.join(map(str, tree))}"
    return f"a list of {len(tree)}" if isinstance(tree, list | tuple) else "an array"


def _known(found: Any, state: Mapping[str, Any], path: str) -> None:
    wrong = next((name for name in found if name not in state), None) if isinstance(found, Mapping) else None
    if wrong is not None:
        raise TrainyardError(f"there is a gradient of {join(path, str(wrong))}, which the model has not; here it has {', '.join(map(str, state))}")


def _child(gradients: Any, name: Any, path: str) -> Any:
    if isinstance(gradients, Mapping):
        return gradients.get(name)
    if isinstance(gradients, list | tuple) and isinstance(name, int):
        return gradients[name] if name < len(gradients) else None
    found = f"expected an entry {name!r}, found a {type(gradients).__name__}"
    raise TrainyardError(f"the gradients do not mirror the model at {path or 'the top'}: {found}")


def adjust(state: Any, learning_rate: float | None = None, **changes: float) -> None:
    """Change hyper-parameters in a state tree or a part of it (`state["layers"][0]`), in place; momenta stay.

    Raises TrainyardError with the nearest name for one that no rule here has.
    """
    changes = {**({} if learning_rate is None else {"learning_rate": learning_rate}), **changes}
    found = list(each(state))
    known = sorted({name for leaf in found for s in leaf.steps for name in s.hyper_names()})
    for name in changes:
        if name not in known:
            foreign = FOREIGN_NAMES.get(name)
            hint = foreign if foreign in known else nearest(name, known)
            raise TrainyardError(f"no rule here has a {name!r}" + (f"; did you mean {hint!r}?" if hint else f"; they have {', '.join(known)}"))
    try:
        changed = [tuple(s.adjusted({k: v for k, v in changes.items() if k in s.hyper_names()}) for s in leaf.steps) for leaf in found]
    except ValidationError as error:
        raise SpecError(problems(error, changes)) from None
    for leaf, steps in zip(found, changed, strict=True):
        leaf.steps = steps


def each(state: Any) -> Iterator[Leaf]:
    """The leaves of a state tree, each once."""
    seen: set[int] = set()
    for _, leaf in leaves(state):
        if isinstance(leaf, np.ndarray | Node | Model | OptimiserStep | Chain):
            raise TrainyardError(f"this is {shown(leaf)}; what changes rules, freezes and thaws takes the state that setup(rule, model) made")
        if isinstance(leaf, Leaf) and id(leaf) not in seen:
            seen.add(id(leaf))
            yield leaf


def made_by_setup(state: Any) -> None:
    """Raises TrainyardError for what is no state."""
    if next(each(state), None) is None:
        raise TrainyardError(f"a state is what setup(rule, model) made, found {shown(state)}: write state = setup(optim.Adam(), model)")


def averaged(state: Any, model: Any) -> Any:
    """A copy of the model, or of nested arrays, with the averages that EMA keeps in their place. Raises TrainyardError where it keeps none."""
    made_by_setup(state)
    kept = {path: leaf.state[i]["a"] for path, leaf in leaves(state) if isinstance(leaf, Leaf)
            for i, step in enumerate(leaf.steps) if isinstance(step, EMA)}
    if not kept:
        raise TrainyardError("this state keeps no averages: put EMA into the list, as in setup(Chain(Adam(), EMA(0.999)), model)")
    if isinstance(model, Model):
        twin = model.astype(model.dtype)
        twin.assign({path: array for path, array in kept.items() if path in twin.parameters})
        return twin
    return transform(model, lambda path, value: kept[path].copy() if path in kept else value)


def freeze(state: Any) -> None:
    """Leave the arrays of a state tree or a part of it as they are, and their state, until `thaw`."""
    _set(state, frozen=True)


def thaw(state: Any) -> None:
    """Train again what `freeze` stopped."""
    _set(state, frozen=False)


def at_epoch(state: Any, epoch: int) -> None:
    """Say which epoch it is, from 1: schedules per epoch look at it."""
    _set(state, epoch=epoch)


def _set(state: Any, **values: Any) -> None:
    for leaf in each(state):
        for name, value in values.items():
            setattr(leaf, name, value)
