"""Layers that walk through sequences [batch, steps, features] and carry a state from step to step. The state before the first step is zeros.

Weights are [in, gates * units], the gates' blocks side by side in Flux's order. A second input, where there is one, is the length of each row's
sequence: from there on the state stays what it is. By name or by order, a number or a column of one number for each row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from engine.core import FLOATS, OPS, Node, apply, count
from engine.errors import ShapeError
from engine.nn.activation import ActivationField, activate, name_of
from engine.nn.initialisers import GlorotUniform, Init, Initialiser, Zeros
from engine.nn.layer import Layer, Scope, Size, layers, one, real
from engine.ops import recurrent_cells as cells
from engine.ops.recurrent import run


class Recurrent(Layer):
    """A layer that walks through sequences."""

    cell: ClassVar[cells.Cell]
    units: Size = Field(description="length of the state")
    return_sequences: bool = Field(False, description="whether the output has the state after each step, not only after the last")
    bidirectional: bool = Field(False, description="whether a second state walks from the last step to the first; the two are put side by side")
    bias: bool = True
    init: Init = Field(default=GlorotUniform(), description='weight is [in, gates * units], recurrent_weight [units, gates * units], bias starts at '
                                                            'zero; those of the way back are called "reverse_weight" and so on')

    def forward(self, scope: Scope, *x: Any) -> Node:
        x = tuple(x[0].values()) if len(x) == 1 and isinstance(x[0], Mapping) else x
        node = real(one(self.kind_name(), x[:1], 2, "a sequence [steps, features]"), scope.dtype)
        if not node.shape[1]:
            raise ShapeError(f"{self.kind_name()} expects sequences of one step or more, found {list(node.shape[1:])}")
        lengths = self._lengths(node, x[1:])
        ways = [self._walk(scope, node, lengths, prefix) for prefix in (("", "reverse_") if self.bidirectional else ("",))]
        return ways[0] if len(ways) == 1 else apply("concat", *ways, axis=-1)

    def _lengths(self, node: Node, more: Sequence[Any]) -> list[Node]:
        if not more:
            return []
        lengths, rows = more[0], node.shape[:1]
        if len(more) > 1 or not isinstance(lengths, Node) or lengths.shape not in (rows, (*rows, 1)) or not _is_whole(lengths):
            raise ShapeError(f"{self.kind_name()} takes a sequence and, if rows end earlier, their lengths as whole numbers [batch]; "
                             f"found {len(more)} more inputs, {lengths!r}")
        lengths = lengths.reshape(rows)
        return [lengths.astype("int32") if lengths.dtype in FLOATS else lengths]

    def _walk(self, scope: Scope, x: Node, lengths: Sequence[Node], prefix: str) -> Node:
        """One way through the sequences."""
        def parameter(name: str, shape: tuple[int, ...], default: Initialiser) -> Node:
            return scope.parameter(prefix + name, shape, self.initial(prefix + name, self.initial(name, default)))

        width, reverse = self.cell.gates * self.units, prefix != ""
        weight = parameter("weight", (x.shape[-1], width), GlorotUniform())
        recurrent = parameter("recurrent_weight", (self.units, width), GlorotUniform())
        sums = _sums(x, weight, parameter("bias", (width,), Zeros()) if self.bias else None)
        states = self.states(sums, recurrent, lengths, reverse)
        return states[:, :, :self.units] if self.return_sequences else states[:, 0 if reverse else -1, :self.units]

    def states(self, sums: Node, weight: Node, lengths: Sequence[Node], reverse: bool) -> Node:
        """What is kept of each step, the state first."""
        return apply(self.cell.name, sums, weight, *lengths, reverse=reverse)


def _is_whole(numbers: Node) -> bool:
    """Whether numbers are whole, as far as they are known: columns of tables are floats."""
    return numbers.dtype not in FLOATS or numbers.value is None or not (numbers.value % 1).any()


def _sums(x: Node, weight: Node, bias: Node | None) -> Node:
    """x @ weight + bias. Where x are rows of a table that has fewer rows than x, those of the table are multiplied, not their copies."""
    table = x.inputs[0] if x.op.name == "gather" else x
    looked_up = table is not x and table.ndim == 2 and table.shape[0] < count(x.shape[:-1])
    rows = table if looked_up else x.reshape(count(x.shape[:-1]), x.shape[-1])
    sums = apply("matmul", rows, weight)
    sums = sums if bias is None else sums + bias
    return apply("gather", sums, x.inputs[1]) if looked_up else sums.reshape(*x.shape[:-1], weight.shape[1])


@layers.add
class RNN(Recurrent):
    """A state that is an activation of weighted sums of the input and of the state before (Elman, 1990)."""

    equation: ClassVar[str] = "h = activation(x @ weight + h @ recurrent_weight + bias)"
    cell: ClassVar[cells.Cell] = cells.RNN_TANH
    activation: ActivationField = "tanh"
    kind: Literal["rnn"] = "rnn"

    def states(self, sums: Node, weight: Node, lengths: Sequence[Node], reverse: bool) -> Node:
        whole = f"rnn_{name_of(self.activation)}"
        if whole in OPS:
            return apply(whole, sums, weight, *lengths, reverse=reverse)
        steps = replace(self.cell, step=lambda x, states, w: [activate(self.activation, x + states[0] @ w)])
        return run(steps, sums, weight, *lengths, reverse=reverse)

    def last_activation(self) -> str | None:
        return name_of(self.activation)


@layers.add
class LSTM(Recurrent):
    """Long short-term memory: gates decide what a cell forgets, takes up and shows (Hochreiter and Schmidhuber, 1997). Biases start at zero."""

    equation: ClassVar[str] = ("i, f, g, o = x @ weight + h @ recurrent_weight + bias; c = sigmoid(f) * c + sigmoid(i) * tanh(g); "
                               "h = sigmoid(o) * tanh(c)")
    cell: ClassVar[cells.Cell] = cells.LSTM
    kind: Literal["lstm"] = "lstm"


@layers.add
class GRU(Recurrent):
    """The gated recurrent unit of the paper's first version, as in most libraries: the reset gate acts on weighted sums (Cho et al., 2014)."""

    equation: ClassVar[str] = ("r, z, c = x @ weight + bias; R, Z, C = h @ recurrent_weight; r = sigmoid(r + R); z = sigmoid(z + Z); "
                               "h = (1 - z) * tanh(c + r * C) + z * h")
    cell: ClassVar[cells.Cell] = cells.GRU
    kind: Literal["gru"] = "gru"


@layers.add
class GRUv3(Recurrent):
    """The gated recurrent unit of the paper's third version: the reset gate acts on the state (Cho et al., 2014).

    The third block of recurrent_weight is what Flux keeps as a matrix of its own; the block that Flux keeps there is never used.
    """

    equation: ClassVar[str] = ("r, z, c = x @ weight + bias; R, Z, C = blocks of recurrent_weight; r = sigmoid(r + h @ R); z = sigmoid(z + h @ Z); "
                               "h = (1 - z) * tanh(c + (r * h) @ C) + z * h")
    cell: ClassVar[cells.Cell] = cells.GRU_V3
    kind: Literal["gru_v3"] = "gru_v3"
