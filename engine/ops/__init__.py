"""What can be computed. Importing this fills the registry; every public op is a name here: `ops.relu(x)`, `ops.sum(x, axis=1)`."""

from __future__ import annotations

from engine.core import OPS, Op
from engine.errors import nearest
from engine.ops import (  # noqa: F401
    activations,
    affine,
    arithmetic,
    array_functions,
    attention,
    batch_norm,
    convolution,
    cross_entropy,
    ctc,
    indexing,
    maths,
    matmul,
    max_pool,
    moments,
    normalise,
    pieces,
    pooling,
    random,
    recurrent,
    recurrent_weigh,
    reduce,
    shape,
    softmax,
)
from engine.ops.activations import ACTIVATIONS

globals().update({name: op for name, op in OPS.items() if op.public})   # also where a module here has the name of its op
__all__ = ["ACTIVATIONS", *(name for name, op in OPS.items() if op.public)]


def __getattr__(name: str) -> Op:
    near = nearest(name, __all__)
    raise AttributeError(f"module 'engine.ops' has no op {name!r}{f' (did you mean {near}?)' if near else ''}")
