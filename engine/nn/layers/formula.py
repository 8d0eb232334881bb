"""A layer that is a formula."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints, model_validator

from engine.core import Node
from engine.errors import Problem, ShapeError, SpecError
from engine.graph.grammar import LONGEST, Grammar, Reader, parse
from engine.nn.layer import Layer, Scope, layers


@layers.add
class Lambda(Layer):
    """A formula over the input, in the grammar of formulas as losses: numbers, + - * / **, comparisons and the ops."""

    equation: ClassVar[str] = "formula(x)"
    formula: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST)] = Field(
        description='over x, as in "x * sigmoid(x)"; x.name where there are several by name; the batch is axis 0')
    kind: Literal["lambda"] = "lambda"

    @model_validator(mode="after")
    def within_grammar(self) -> Lambda:
        Grammar(("x",), several=("x",)).check(self.formula)
        return self

    def forward(self, scope: Scope, *x: Any) -> Node:
        if len(x) != 1:
            raise ShapeError(f"lambda works on one array, or on several by name, found {len(x)} in order; put a parallel layer before it")
        batch = (x[0] if isinstance(x[0], Node) else next(iter(x[0].values()))).shape[0]
        found = Reader({"x": x[0]}, scope.dtype).read(parse(self.formula))
        if found.shape[:1] != (batch,):
            detail = f"the formula gives {list(found.shape)}; the first axis must stay the batch, here of {batch}"
            raise SpecError([Problem("/formula", "shape_mismatch", detail)])
        return found if found.dtype == scope.dtype else found.astype(scope.dtype)
