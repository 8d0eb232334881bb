"""Layers of tables: numbers become rows, and several rows one."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from engine.core import Node, apply
from engine.errors import Problem, ShapeError, SpecError, TrainyardError
from engine.nn.initialisers import Init, Normal
from engine.nn.layer import Layer, Scope, Size, layers, one
from engine.ops.indexing import outside


class _Table(Layer):
    """A table with a row for each number of the input."""

    vocabulary: Size | None = Field(None, description="how many rows the table has; taken from category and text data where left out")
    units: Size = Field(description="length of a row")
    padding_index: int | None = Field(None, strict=True, ge=0, description="this number gives zeros and learns nothing; a bag leaves it out")
    init: Init = Field(default=Normal(std=1.0))

    def rows(self, scope: Scope, indices: Node) -> tuple[Node, Node | None]:
        """The row of each number, and 1 for those that are not padding, 0 for those that are; None where nothing is padding."""
        if self.vocabulary is None:
            raise SpecError([Problem("/vocabulary", "missing_field", "how many different numbers there are must be said: the data does not tell")])
        if self.padding_index is not None and self.padding_index >= self.vocabulary:
            raise SpecError([Problem("/padding_index", "out_of_range", f"must be below vocabulary, found {self.padding_index}")])
        if (wrong := outside(indices, self.vocabulary)) is not None:
            raise TrainyardError(f"{self.kind_name()} has rows for the numbers 0 to {self.vocabulary - 1}, found {wrong}")
        indices = indices if indices.dtype == "int32" else indices.astype("int32")
        y = apply("gather", scope.parameter("weight", (self.vocabulary, self.units), self.initial("weight", Normal(std=1.0))), indices)
        if self.padding_index is None:
            return y, None
        kept = apply("not_equal", indices.astype(scope.dtype), float(self.padding_index))
        return y, kept.reshape(*indices.shape, 1)


@layers.add
class Embedding(_Table):
    """A row of a table for each number of the input: categories and words as vectors."""

    equation: ClassVar[str] = "weight[x]"
    kind: Literal["embedding"] = "embedding"

    def forward(self, scope: Scope, *x: Any) -> Node:
        y, kept = self.rows(scope, one("embedding", x))
        return y if kept is None else y * kept


@layers.add
class EmbeddingBag(_Table):
    """One row for all the numbers along the last axis: the mean of their rows of a table, their sum, or their greatest elements."""

    equation: ClassVar[str] = "reduction(weight[x]), over the last axis of x"
    reduction: Literal["mean", "sum", "max"] = "mean"
    kind: Literal["embedding_bag"] = "embedding_bag"

    def forward(self, scope: Scope, *x: Any) -> Node:
        indices = one("embedding_bag", x)
        if indices.ndim < 2 or not indices.shape[-1]:
            raise ShapeError(f"embedding_bag expects bags of at least one number, found {list(indices.shape[1:])} for each row")
        y, kept = self.rows(scope, indices)
        if self.reduction == "max":
            return y.max(-2) if kept is None else self._greatest(y, kept)
        total = (y if kept is None else y * kept).sum(-2)
        if self.reduction == "sum":
            return total
        return total * (1 / indices.shape[-1]) if kept is None else total / apply("maximum", kept.sum(-2), 1.0)

    def _greatest(self, y: Node, kept: Node) -> Node:
        """The greatest of what is not padding; zeros for a bag of padding alone."""
        some = kept.max(-2)
        return apply("where", some, apply("where", kept, y, float(np.finfo(y.dtype).min)).max(-2), 0.0)
