"""An ONNX graph as it grows from nodes. Only names, arrays and plain steps are kept here; the onnx package comes in when the file is made.

The graph of nodes was made for one batch size, a prime that no other length is a multiple of: so a length that is one is the batch's, and stays open.
What depends on no input (weights, and all that is made of weights alone) is computed now and written as an array.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.core import CONSTANT, LEAF, Node
from engine.errors import TrainyardError
from engine.graph import interpret
from engine.graph.walk import order

LAST = 2**63 - 1        # "to the end", in ONNX


class Unwritable(TrainyardError):
    """A node that has no ONNX form."""

    def __init__(self, node: Node, reason: str):
        super().__init__(reason)
        self.node, self.reason = node, reason


@dataclass(frozen=True)
class Step:
    """One ONNX node."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """How one op is written. `write(writer, node, names)` returns the name of the value; `names` are those of the nodes that it `reads`."""

    write: Callable[[Writer, Node, list[str]], str]
    reads: Callable[[Node], Sequence[Node]] = field(default=lambda node: node.inputs)


class Writer:
    """A graph. `rows` finds the row of a node, `inputs` are its leaves by name; the first axis of each is the batch, of `batch` rows."""

    def __init__(self, rows: Callable[[Node], Row], inputs: Mapping[str, Node], batch: int):
        self.batch = batch
        self.steps: list[Step] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.names: dict[Node, str] = {node: name for name, node in inputs.items()}
        self.narrow: dict[Node, int] = {}       # values of which only so many first features were written
        self._rows, self._first = rows, next(iter(inputs))
        self._reads: dict[Node, Sequence[Node]] = {}
        self._static: dict[Node, bool] = dict.fromkeys(inputs.values(), False)
        self._numbers: dict[tuple[str, bytes], str] = {}
        self._count = 0

    # ---------------------------------------------------------------- growing

    def put(self, op: str, *inputs: str, name: str = "", **attrs: Any) -> str:
        """One more ONNX node; the name of what it makes."""
        return self.several(op, *inputs, names=(name or self._new(op),), **attrs)[0]

    def several(self, op: str, *inputs: str, names: Sequence[str], **attrs: Any) -> tuple[str, ...]:
        self.steps.append(Step(op, inputs, tuple(names), {k: v for k, v in attrs.items() if v is not None}))
        return tuple(names)

    def _new(self, op: str) -> str:
        self._count += 1
        return f"{op.lower()}_{self._count}"

    def array(self, value: np.ndarray, name: str = "") -> str:
        """An array in the file. `name` is kept where it is free."""
        if name and name not in self.arrays:
            self.arrays[name] = np.ascontiguousarray(value).reshape(value.shape)
            return name
        key = (f"{value.dtype}{value.shape}", value.tobytes())
        if key not in self._numbers:
            self._numbers[key] = self._new("array")
            self.arrays[self._numbers[key]] = np.ascontiguousarray(value).reshape(value.shape)
        return self._numbers[key]

    def ints(self, numbers: Iterable[int]) -> str:
        return self.array(np.array(list(numbers), np.int64))

    def number(self, value: float, dtype: str) -> str:
        return self.array(np.array(value, dtype))

    def make(self, node: Node) -> str:
        """The name of a node's value; what it needs is written first."""
        stack = [node]
        while stack:
            here = stack[-1]
            if here in self.names:
                stack.pop()
            elif self.static(here):
                self.names[stack.pop()] = self.array(self.value(here), here.name if here.op is LEAF else "")
            elif missing := [n for n in self.reads(here) if n not in self.names]:
                stack.extend(reversed(missing))
            else:
                self.names[here] = self._written(here)
        return self.names[node]

    def _written(self, node: Node) -> str:
        if node.op is LEAF:
            raise Unwritable(node, f"it asks for {node.name or 'a value'}, which a model in use does not have")
        reads = self.reads(node)
        if node.op.name != "slice" and any(n in self.narrow for n in reads):
            raise Unwritable(node, "it uses the gates of a recurrent layer, which ONNX keeps to itself")
        return self._rows(node).write(self, node, [self.names[n] for n in reads])

    def reads(self, node: Node) -> Sequence[Node]:
        if node not in self._reads:
            self._reads[node] = () if node.op is LEAF else self._rows(node).reads(node)
        return self._reads[node]

    # ---------------------------------------------------------------- what is known now

    def static(self, node: Node) -> bool:
        """Whether a value depends on no input."""
        for n in order([node], lambda n: n in self._static or n.value is not None or n.op is LEAF or n.op is CONSTANT):
            if n not in self._static:
                known = n.value is not None or n.op is CONSTANT or (bool(n.inputs) and all(self._static[x] for x in n.inputs))
                self._static[n] = known and not any(map(self.open, n.shape))
        return self._static[node]

    def value(self, node: Node) -> np.ndarray:
        """The value of a static node."""
        if not self.static(node):
            raise Unwritable(node, "its weights depend on the input")
        return interpret.run([node])[0].astype(node.dtype)

    # ---------------------------------------------------------------- lengths

    def open(self, length: int) -> bool:
        """Whether a length is the batch's, or a multiple of it."""
        return length != 0 and length % self.batch == 0

    def lengths(self, node: Node) -> list[int]:
        """A shape with -1 for what depends on the batch."""
        found = [-1 if self.open(n) else n for n in node.shape]
        if found.count(-1) > 1:
            raise Unwritable(node, f"its shape {node.shape} has the batch in two axes")
        return found

    def shape(self, node: Node, source: Node) -> str:
        """The shape of a node to stretch `source` to. Where that has the length already, 1 stands for it."""
        have = (1,) * (node.ndim - source.ndim) + source.shape
        if not any(self.open(n) and n != m for n, m in zip(node.shape, have, strict=True)):
            return self.ints(1 if self.open(n) else n for n in node.shape)
        rows = self.put("Shape", self._first, start=0, end=1)
        parts = [self.put("Mul", rows, self.ints([n // self.batch])) if self.open(n) else self.ints([n]) for n in node.shape]
        return self.put("Concat", *parts, axis=0)
