"""What one step computes, as graphs: the meeting place of those who build models and those who run them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from engine.core import Node
from engine.graph.rewrite import simplify

_KEPT = ("sums", "assigned", "outputs", "per_row", "kept_rows")


@dataclass
class StepGraph:
    """The graph of one batch of fixed size, in train or in test mode.

    batch       leaves that the gather fills, by name, batch axis first
    parameters  leaves of the trained arrays, by path, in tree order; `buffers` likewise for arrays that are kept but not trained
    key         the leaf int64[2] of (seed, step) for random ops, or None
    counters    leaves of scalars that change per step: "step", "epoch" (float), used by expressions
    loss        scalar: what is differentiated, its mean over the batch's weights
    gradients   by path; a parameter without a derivative is left out (train mode only)
    assigned    new values of buffers, by path (train mode only)
    sums        float scalars or vectors to be added up over an epoch, by name (loss, weights, metrics)
    kept_rows   float values of each row, batch axis first, to be kept until the end of an epoch (metrics that sums cannot tell)
    outputs     what a prediction returns, by output name (test mode)
    per_row     values of one number per row, by name (test mode: losses of rows)
    """

    rows: int
    batch: dict[str, Node]
    parameters: dict[str, Node]
    buffers: dict[str, Node]
    key: Node | None
    loss: Node
    gradients: dict[str, Node] = field(default_factory=dict)
    assigned: dict[str, Node] = field(default_factory=dict)
    sums: dict[str, Node] = field(default_factory=dict)
    outputs: dict[str, Node] = field(default_factory=dict)
    per_row: dict[str, Node] = field(default_factory=dict)
    kept_rows: dict[str, Node] = field(default_factory=dict)
    counters: dict[str, Node] = field(default_factory=dict)

    def kept(self) -> list[Node]:
        """What is read after the computation: everything but the gradients, which have a place of their own."""
        return [self.loss, *(node for group in _KEPT for node in getattr(self, group).values())]

    def results(self) -> list[Node]:
        """Everything that the graph is for."""
        return [*self.kept(), *self.gradients.values()]

    def simplified(self) -> StepGraph:
        """The same step from fewer nodes."""
        made = iter(simplify(self.results()))
        loss = next(made)
        return replace(self, loss=loss, **{group: {name: next(made) for name in getattr(self, group)} for group in (*_KEPT, "gradients")})


GraphMaker = Callable[[int, bool], StepGraph]
"""(rows in the batch, training) -> the graph. Called for the full and for the last batch, in both modes; leaves are new each time."""
