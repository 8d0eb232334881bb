"""The tree of errors.

    TrainyardError
    ├── SpecError            a description (model, job, expression) that cannot be run; carries every problem found
    ├── ShapeError           arrays or nodes whose shapes do not fit; carries the path of the layer at fault
    ├── DtypeError           a number type that the operation does not take
    ├── ScalarRequired       an objective that did not return one real number
    ├── GradientMismatch     reverse, forward and finite differences disagree
    ├── NonFiniteError       a loss, value or gradient became NaN or infinite
    ├── CheckpointError      a checkpoint that is damaged or belongs to another job
    ├── DeviceError          a device that is not there or cannot do what was asked
    └── Signal               not errors: a loss or callback steers the loop with them
        ├── StopTraining     end this epoch or the whole run
        └── SkipUpdate       leave the parameters as they are for this step
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a description: where (JSON Pointer), what kind, in words, and the nearest valid name."""

    pointer: str
    code: str
    detail: str
    suggestion: str | None = None

    def as_dict(self) -> dict[str, str]:
        found = {"pointer": self.pointer, "code": self.code, "detail": self.detail}
        return found if self.suggestion is None else {**found, "suggestion": self.suggestion}

    def under(self, prefix: str) -> Problem:
        """The same problem, with its pointer inside `prefix`."""
        return Problem(prefix + self.pointer, self.code, self.detail, self.suggestion)


class TrainyardError(Exception):
    """Everything the engine raises on purpose."""


class SpecError(TrainyardError, ValueError):
    """A description that cannot be run, with every problem in it."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems = list(problems)
        lines = [f"{p.pointer or '/'}: {p.detail}" + (f" (did you mean {p.suggestion!r}?)" if p.suggestion else "") for p in self.problems]
        super().__init__("; ".join(lines))


class ShapeError(TrainyardError, ValueError):
    """Shapes that do not fit. `path` names the layer, outermost first, once a container has added it; `pointer` is the layer's place in the
    model's description, as a JSON Pointer."""

    def __init__(self, message: str, path: str = "", pointer: str = ""):
        self.message, self.path, self.pointer = message, path, pointer
        super().__init__(f"{path}: {message}" if path else message)


class DtypeError(TrainyardError, TypeError):
    """A number type that the operation does not take."""


class ScalarRequired(TrainyardError, TypeError):
    """An objective must return one real number."""


class GradientMismatch(TrainyardError, AssertionError):
    """Reverse mode, forward mode and finite differences disagree."""


class NonFiniteError(TrainyardError, ArithmeticError):
    """A loss, value or gradient became NaN or infinite; the parameters are as they were before the step."""


class CheckpointError(TrainyardError, ValueError):
    """A checkpoint that is damaged or belongs to another job."""


class DeviceError(TrainyardError, RuntimeError):
    """A device that is not there, or cannot do what was asked of it."""


class Signal(TrainyardError):
    """Raised by a loss or a callback to steer the training loop."""


class StopTraining(Signal):
    """End this epoch (`level="epoch"`) or the whole run (`level="run"`, the default). A level may stand alone: StopTraining("epoch")."""

    def __init__(self, message: str = "", level: Literal["epoch", "run"] | None = None):
        alone = level is None and message in ("epoch", "run")
        self.level = message if alone else level or "run"
        if self.level not in ("epoch", "run"):
            raise ValueError(f"level is 'epoch' or 'run', found {level!r}")
        super().__init__("" if alone else message)


class SkipUpdate(Signal):
    """Leave the parameters and the optimiser state as they are for this step."""


def shown(value: Any) -> str:
    """What a value is, in a few words, for errors that say what was found.

    >>> shown("adam"), shown(print), shown(int), shown([1, 2])
    ("'adam'", 'the function print', 'the class int, not one made with int(...)', 'a list')
    """
    if isinstance(value, str | int | float | bool | type(None)):
        return repr(value)
    if isinstance(value, type):
        return f"the class {value.__name__}, not one made with {value.__name__}(...)"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array {list(value.shape)}"
    name = getattr(value, "__name__", "")
    if callable(value) and name:
        return f"the function {name}"
    kind = type(value).__name__
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest in spelling to `name`, or None.

    >>> nearest("dens", ["dense", "dropout"])
    'dense'
    """
    lower = {k.lower(): k for k in known}
    found = difflib.get_close_matches(str(name).lower(), list(lower), n=1, cutoff=0.6)
    return lower[found[0]] if found else None
