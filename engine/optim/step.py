"""What rules and transforms have in common: a few lines of formula over one array and its gradient, made into one fused pass.

`lines` are over x (the parameter), g (its gradient), the names in `state`, the hyper-parameters, `factor` (of the schedule) and `t` (updates of this
array, from 1). A rule's lines assign d, and x becomes x - d; a transform's assign g. `state` names arrays of the parameter's shape; they begin at 0,
or at the hyper-parameter that `initial` names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from engine.kernels.formula import pass_text
from engine.kernels.library import define
from engine.spec import Family, Spec

steps = Family("optimiser", {"clip_gradient": "clip_grad", "l2": "weight_decay", "clipnorm": "clip_norm", "clipvalue": "clip_grad"},
               planned=("muon", "accumulate", "gradient_noise", "lookahead", "ema"))
"""Rules and transforms together: what a list of optimisers may hold."""


class OptimiserStep(Spec):
    """One rule or transform: its hyper-parameters, nothing else."""

    equation: ClassVar[str] = ""
    lines: ClassVar[str] = ""
    state: ClassVar[tuple[str, ...]] = ()
    initial: ClassVar[Mapping[str, str]] = {}

    @property
    def steps(self) -> tuple[OptimiserStep, ...]:
        return (self,)

    @classmethod
    def hyper_names(cls) -> list[str]:
        """The names of the hyper-parameters, in the order of the kernel's table."""
        return [name for name in cls.model_fields if name not in cls.named_only]

    @classmethod
    def arrays(cls) -> tuple[str, ...]:
        """The arrays of the pass, in the order of the kernel's words; the table's offset follows."""
        return ("x", "g", *cls.state)

    def table(self, factor: float = 1.0, t: int = 1) -> np.ndarray:
        """The kernel's float64 scalars: schedule factor, count of updates, hyper-parameters."""
        return np.array([factor, t, *(float(getattr(self, name)) for name in self.hyper_names())], np.float64)

    def start(self, name: str) -> float:
        """What a state array begins as."""
        return float(getattr(self, self.initial[name])) if name in self.initial else 0.0

    def adjusted(self, changes: Mapping[str, Any]) -> OptimiserStep:
        """The same step with other hyper-parameters, validated."""
        return type(self)(**{**{name: getattr(self, name) for name in type(self).model_fields}, **changes})


def define_passes(cls: type[OptimiserStep], prefix: str) -> None:
    """Put the step's kernels into the library: `rule_adam` moves x, `rule_adam_onward` gives its step to the next of a list as its gradient."""
    scalars = ("factor", "t", *cls.hyper_names())
    lines = "\n".join(line for line in cls.lines.splitlines() if line)
    name = f"{prefix}_{cls.kind_name()}"
    if prefix == "rule":
        define(name, pass_text(lines, cls.arrays(), scalars, ("x", *cls.state)))
        define(f"{name}_onward", pass_text(lines + "\ng = d", cls.arrays(), scalars, ("g", *cls.state)))
    else:
        define(name, pass_text(lines, cls.arrays(), scalars, ("g", *cls.state)))
