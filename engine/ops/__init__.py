"""What can be computed. Importing this fills the registry; every public op is a name here: `ops.relu(x)`, `ops.sum(x, axis=1)`."""

from __future__ import annotations

from engine.core import OPS, Op
from engine.ops import activations, arithmetic, cross_entropy, indexing, maths, matmul, normalise, pieces, random, reduce, shape, softmax  # noqa: F401
from engine.ops.activations import ACTIVATIONS

__all__ = ["ACTIVATIONS", *(name for name, op in OPS.items() if op.public)]


def __getattr__(name: str) -> Op:
    if name in OPS and OPS[name].public:
        return OPS[name]
    raise AttributeError(f"module 'engine.ops' has no op {name!r}")
