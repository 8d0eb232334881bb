"""The nouns of the engine: `Op` (what can be computed), `Node` (one use of an op: data, no arrays), `Case` (how an op is tested),
`Launch` (one row of a plan), and the registry of ops.

A graph is made by using nodes as numbers. Nothing is computed until Python asks a node for its value; then `evaluate` runs a plan.
"""

from engine.core.case import Case, Sample
from engine.core.launch import Address, Launch, Scratch
from engine.core.node import CONSTANT, LEAF, NUMPY, OPS, Node, Op, apply, constant, find, leaf, lift, promote, register
from engine.core.shape import DTYPES, FLOATS, Shape, bits, broadcast_shape, count
from engine.core.values import bind, evaluate, root, topological

__all__ = ["CONSTANT", "DTYPES", "FLOATS", "LEAF", "NUMPY", "OPS", "Address", "Case", "Launch", "Node", "Op", "Sample", "Scratch", "Shape", "apply",
           "bind", "bits", "broadcast_shape", "constant", "count", "evaluate", "find", "leaf", "lift", "promote", "register", "root",
           "topological"]
