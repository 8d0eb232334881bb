"""Losses that users write: formulas over predictions and targets, in the closed grammar of engine.graph.grammar.

    names     y_hat, y, x (y_hat.price where there are several), weight, step, epoch, and the constants of the expression
    calls     any op of the catalogue; sum_squares("layers.*.weight") and sum_abs("...") over parameters by path
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from engine.core import Node, apply
from engine.errors import Problem, SpecError, nearest
from engine.graph.grammar import LONGEST, Grammar, Reader, parse
from engine.nn.loss import Loss, losses, one_hot
from engine.nn.paths import selected

NAMES = ("y_hat", "y", "x", "weight", "step", "epoch")
FORMULA = "the loss's"     # how errors call its parts
PENALTIES = ("sum_squares", "sum_abs")
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]


@dataclass(frozen=True)
class Setting:
    """What a formula may look at beside predictions and targets: inputs (one node, or several by name), counters, and parameters by path."""

    x: Any = None
    step: Node | None = None
    epoch: Node | None = None
    parameters: Mapping[str, Node] = field(default_factory=dict)


class Expression(Loss):
    """An objective written as a formula over y_hat and y; a scalar is the loss, one value for each row is averaged with the rows' weights."""

    formula: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST)]
    constants: dict[Name, Annotated[float, Field(strict=True)]] = {}
    kind: Literal["expression"] = "expression"

    @model_validator(mode="after")
    def within_grammar(self) -> Expression:
        Grammar((*NAMES, *self.constants), several=("y_hat", "y", "x"), of_text=PENALTIES).check(self.formula)
        return self

    def tree(self) -> ast.expr:
        return parse(self.formula)

    def uses(self, name: str) -> bool:
        return any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(self.tree()))

    def names(self, group: str) -> list[str]:
        """The names that follow `group` and a dot, as in y_hat.price."""
        found = [node for node in ast.walk(self.tree()) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
        return list(dict.fromkeys(node.attr for node in found if node.value.id == group))  # type: ignore[attr-defined]

    def rows(self, y_hat: Node, y: Node) -> Node | None:
        return None

    def terms(self, y_hat: Node, y: Node) -> Node:
        return self.forward(y_hat, y)

    def forward(self, y_hat: Node, y: Node | None, weight: Node | None = None, setting: Setting | None = None) -> Node:
        """The loss of a batch. Class numbers reach the formula as one-hot rows. SpecError where shapes do not fit."""
        return self.of(y_hat, None if y is None else _spread(y_hat, y), y_hat, weight, setting or Setting())

    def joint(self, y_hat: Mapping[str, Node], y: Node | Mapping[str, Node], weight: Node | None, setting: Setting) -> Node:
        """The same of several outputs by name, and of one target or the targets that they have."""
        y = {name: _spread(y_hat[name], node) for name, node in y.items()} if isinstance(y, Mapping) else y
        return self.of(y_hat, y, next(iter(y_hat.values())), weight, setting)

    def of(self, y_hat: Any, y: Any, like: Node, weight: Node | None, setting: Setting) -> Node:
        """The value of the formula for one node or several by name; `like` has the batch's rows and type."""
        values, rows = {"y_hat": y_hat, "y": y, "x": setting.x, "step": setting.step, "epoch": setting.epoch, **self.constants}, like.shape[0]
        sums = {name: partial(_penalty, name, setting.parameters) for name in PENALTIES}

        def read(weight: Node | None) -> Node:
            return Reader({"weight": weight, **values}, like.dtype, sums, FORMULA).read(self.tree())

        try:
            found = read(weight)
        except SpecError:
            if weight is None or not self.uses("weight") or like.ndim < 2:
                raise
            found = read(weight.reshape(rows, *[1] * (like.ndim - 1)))      # it may stand beside outputs as well as beside what is left of a row
        if found.shape == (rows, 1):
            found = found.reshape(rows)
        if found.ndim > 1 or (found.ndim == 1 and found.shape[0] != rows):
            detail = f"the formula gives {list(found.shape)}; a loss is one number, or one for each of the {rows} rows"
            raise SpecError([Problem("/formula", "shape_mismatch", detail, f"mean({self.formula})")])
        return self.aggregate(found, weight) if found.ndim else found


def _spread(y_hat: Node, y: Node) -> Node:
    """Class numbers as one-hot rows."""
    return one_hot("expression", y_hat, y) if y.dtype == "int32" and y.shape == y_hat.shape[:-1] else y


losses.add(Expression)


def _penalty(name: str, parameters: Mapping[str, Node], pattern: str) -> Node:
    """The sum of squares, or of absolute values, over the parameters whose paths fit."""
    found = [node for path, node in parameters.items() if selected(path, [pattern])]
    if not found:
        raise SpecError([Problem("/formula", "unknown_path", f"no parameter is called {pattern!r}", nearest(pattern, parameters))])
    parts = [apply("sum", apply("square" if name == "sum_squares" else "abs", node)) for node in found]
    return sum(parts[1:], start=parts[0])
