"""Changes of a run under way: what they make of the optimiser, and whether they can be made at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from engine.core import Shape
from engine.data.fit import Notes
from engine.errors import ShapeError, SpecError, nearest
from engine.nn.paths import selected
from engine.optim.rules import Rule
from engine.optim.step import OptimiserStep
from engine.spec import FOREIGN_NAMES
from engine.train.callbacks.actions import Change
from engine.train.callbacks.callback import Callback
from engine.train.callbacks.changing import Adjust, Freeze, OfPaths, ReduceOnPlateau, Replace, Thaw, initialiser

Steps = tuple[OptimiserStep, ...]


# ---------------------------------------------------------------- the optimiser's numbers

def hyper_parameters(chain: Sequence[OptimiserStep]) -> dict[str, float]:
    """The numbers that may change as training goes on, by name; of several steps with one name the last."""
    return {name: getattr(step, name) for step in chain for name in _numbers(step)}


def _numbers(step: OptimiserStep) -> list[str]:
    return [name for name in step.hyper_names() if isinstance(getattr(step, name), float)]


def tuned(chain: Steps, values: Mapping[str, float]) -> Steps:
    """The steps with other numbers, those of their groups too. Raises ValidationError for a number that a step does not take."""
    made = []
    for step in chain:
        own: dict[str, Any] = {name: value for name, value in values.items() if name in _numbers(step)}
        if own and isinstance(step, Rule) and step.groups:
            own["groups"] = [{name: own.get(name, value) for name, value in group.items()} for group in step.groups]
        made.append(step.adjusted(own) if own else step)
    return tuple(made)


def slowed(chain: Steps, factor: float, floor: float = 0.0) -> Steps:
    """The steps with learning rates `factor` times as large, but no less than `floor`; a rate below it stays."""
    def less(name: str, value: Any) -> Any:
        return max(value * factor, min(value, floor)) if name == "learning_rate" else value

    made = []
    for step in chain:
        own: dict[str, Any] = {name: less(name, getattr(step, name)) for name in _numbers(step) if name == "learning_rate"}
        if own and isinstance(step, Rule) and step.groups:
            own["groups"] = [{name: less(name, value) for name, value in group.items()} for group in step.groups]
        made.append(step.adjusted(own) if own else step)
    return tuple(made)


# ---------------------------------------------------------------- what cannot be done

def check_callbacks(callbacks: Sequence[Callback], chain: Steps, shapes: Mapping[str, Shape], trained: Sequence[str], notes: Notes) -> None:
    """The hyper-parameters, paths and new values of callbacks must be there and fit."""
    for place, callback in enumerate(callbacks):
        pointer = f"/callbacks/{place}"
        if isinstance(callback, Adjust):
            check_values(chain, callback.set, f"{pointer}/set", notes)
        elif isinstance(callback, ReduceOnPlateau) and "learning_rate" not in hyper_parameters(chain):
            notes.problem(pointer, "unknown_field", "the optimiser has no learning_rate that could be reduced")
        elif isinstance(callback, OfPaths):
            check_paths(callback.paths, list(shapes), f"{pointer}/paths", notes)
            if isinstance(callback, Replace):
                _check_init(callback, shapes, pointer, notes)
    _check_something_trained(callbacks, list(shapes), trained, notes)


def check_values(chain: Steps, values: Mapping[str, Any], pointer: str, notes: Notes) -> None:
    """Hyper-parameters must be the optimiser's, and in its range."""
    known = hyper_parameters(chain)
    for name, value in values.items():
        if name not in known:
            foreign = FOREIGN_NAMES.get(name)
            detail = f"the optimiser has no hyper-parameter {name!r} that can change; it has {', '.join(known) or 'none'}"
            notes.problem(f"{pointer}/{name}", "unknown_field", detail, foreign if foreign in known else nearest(name, known))
            continue
        try:
            tuned(chain, {name: value})
        except ValidationError as error:
            detail = error.errors()[0]
            code = "invalid_value" if "type" in detail["type"] else "out_of_range"
            notes.problem(f"{pointer}/{name}", code, f"{name}: {detail['msg'].lower()}, found {value!r}")


def check_paths(patterns: Sequence[str], paths: Sequence[str], pointer: str, notes: Notes) -> None:
    """Each pattern must choose a parameter."""
    for place, pattern in enumerate(patterns):
        if not any(selected(path, [pattern.removeprefix("!")]) for path in paths):
            detail = f"no parameter is called {pattern!r}; there are {', '.join(paths[:20])}"
            notes.problem(f"{pointer}/{place}", "unknown_path", detail, nearest(pattern, paths))


def _check_init(callback: Replace, shapes: Mapping[str, Shape], pointer: str, notes: Notes) -> None:
    for path in (path for path in shapes if selected(path, callback.paths)):
        init = initialiser(callback.init, path)
        if init is None:
            notes.problem(f"{pointer}/init", "missing_field", f"'init' says nothing of {path!r}: name its last part, or leave it out of 'paths'")
            return
        try:
            init.check(shapes[path])
        except ShapeError as error:
            notes.problem(f"{pointer}/init", "shape_mismatch", f"{path}: {error}")
            return


def _check_something_trained(callbacks: Sequence[Callback], paths: Sequence[str], trained: Sequence[str], notes: Notes) -> None:
    """Through all freezing and thawing at their epochs something is trained."""
    now = set(trained)
    timed = [(callback.at.epoch, place, callback) for place, callback in enumerate(callbacks) if isinstance(callback, OfPaths)]
    for epoch, place, callback in sorted(timed, key=lambda item: item[:2]):
        if isinstance(callback, Thaw):
            now |= {path for path in paths if chosen(path, callback.paths)}
        elif isinstance(callback, Freeze):
            now -= {path for path in paths if chosen(path, callback.paths)}
        if not now:
            notes.problem(f"/callbacks/{place}/paths", "nothing_trained", f"from epoch {epoch} on nothing would be left to be trained")
            return


def chosen(path: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns, if there are any, chooses the path."""
    return bool(patterns) and selected(path, patterns)


# ---------------------------------------------------------------- changes from outside

def read_change(raw: Mapping[str, Any], chain: Steps, paths: Sequence[str]) -> Change:
    """A change as a client asks for it: hyper-parameters by name, `epochs`, and path patterns to `freeze` and `thaw`.

    Raises SpecError with pointers into `raw`, and the nearest name for one that is not known.
    """
    notes = Notes()
    values = {name: value for name, value in raw.items() if name not in ("epochs", "freeze", "thaw")}
    check_values(chain, values, "", notes)
    epochs = raw.get("epochs")
    if epochs is not None and (isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1):
        notes.problem("/epochs", "invalid_value", f"epochs is how many there are in all, a whole number from 1; found {epochs!r}")
    patterns = {name: _patterns(raw.get(name, ()), f"/{name}", paths, notes) for name in ("freeze", "thaw")}
    if notes.problems:
        raise SpecError(notes.problems)
    return Change("user", values, epochs=epochs, freeze=patterns["freeze"], thaw=patterns["thaw"])


def _patterns(given: Any, pointer: str, paths: Sequence[str], notes: Notes) -> tuple[str, ...]:
    listed = (given,) if isinstance(given, str) else given
    if not isinstance(listed, list | tuple) or not all(isinstance(pattern, str) for pattern in listed):
        notes.problem(pointer, "invalid_value", f"expected a list of path patterns, found {given!r}")
        return ()
    check_paths(listed, paths, pointer, notes)
    return tuple(listed)
