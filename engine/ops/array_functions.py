"""What numpy's functions do with nodes: `np.exp(node)`, `np.sum(node, 0)`, `matrix @ vector` give nodes, with numpy's meaning of their arguments.

A function that has no derivative, such as `np.isfinite`, gives numpy's own answer for the values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np

from engine.core import NUMPY, Node, apply, broadcast_shape, count, lift, promote
from engine.errors import ShapeError

SAME = ("add", "subtract", "multiply", "divide", "power", "negative", "sign", "square", "sqrt", "reciprocal", "exp", "expm1", "log", "log1p", "sin",
        "cos", "tan", "tanh", "floor", "maximum", "minimum", "equal", "not_equal", "less", "less_equal", "greater", "greater_equal")
RENAMED = {"absolute": "abs", "fabs": "abs", "true_divide": "divide", "float_power": "power"}
METHODS = {"amax": "max", "amin": "min", "ravel": "flatten", **{name: name for name in (
    "sum", "mean", "max", "min", "prod", "argmax", "std", "any", "all", "reshape", "transpose", "clip")}}
MOVING = (np.swapaxes, np.moveaxis, np.roll, np.tile, np.repeat, np.rot90, np.fliplr, np.flipud, np.diagonal, np.take, np.atleast_1d, np.atleast_2d,
          np.split, np.array_split, np.vsplit, np.hsplit)
JOINING = (np.vstack, np.hstack, np.dstack, np.column_stack)
OF_VALUES = (np.isnan, np.isinf, np.isfinite, np.allclose, np.array_equal, np.zeros_like, np.ones_like, np.full_like, np.argsort, np.argmin,
             np.count_nonzero, np.nonzero, np.unique, np.round, np.array2string, np.array_repr, np.array_str)


def matmul(left: Any, right: Any) -> Node:
    """`left @ right`: a vector is a row on the left and a column on the right, leading axes stretch, both come to one float type."""
    a, b = promote(left, right)
    if not (a.ndim and b.ndim):
        raise ShapeError("matmul takes arrays, found a number: multiply by it with *")
    outer = (a.shape[-2:-1], b.shape[-1:] if b.ndim > 1 else ())
    a, b = a if a.ndim > 1 else a.reshape(1, a.size), b if b.ndim > 1 else b.reshape(b.size, 1)
    front = broadcast_shape(a.shape[:-2], b.shape[:-2])
    if b.ndim == 2:     # one product of all rows
        found = apply("matmul", a.reshape(count(a.shape[:-1]), a.shape[-1]) if a.ndim > 2 else a, b)
    else:
        found = apply("matmul", *(x if x.shape[:-2] == front else apply("broadcast", x, shape=(*front, *x.shape[-2:])) for x in (a, b)))
    shape = (*front, *outer[0], *outer[1])
    return found if found.shape == shape else found.reshape(shape)


def dot(left: Any, right: Any) -> Node:
    a, b = lift(left), lift(right)
    return a * b if not (a.ndim and b.ndim) else matmul(a, b)


def norm(x: Node, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Node:
    if ord not in (None, 2) or (ord == 2 and axis is None and x.ndim != 1):
        raise TypeError(f"numpy's norm of order {ord} is not known here: give no order (the root of the sum of squares), or write it with engine.ops")
    return apply("sqrt", apply("square", x).sum(axis, keepdims))


def expand_dims(x: Node, axis: int) -> Node:
    place = axis % (x.ndim + 1)
    return x.reshape((*x.shape[:place], 1, *x.shape[place:]))


def squeeze(x: Node, axis: int | None = None) -> Node:
    kept = [n for i, n in enumerate(x.shape) if not (n == 1 and (axis is None or i == axis % x.ndim))]
    if axis is not None and len(kept) == x.ndim:
        raise ShapeError(f"squeeze of axis {axis} of {list(x.shape)}: its length is not 1")
    return x.reshape(tuple(kept))


def _op(name: str) -> Callable[..., Any]:
    return lambda *inputs: apply(name, *inputs)


def _method(name: str) -> Callable[..., Any]:
    return lambda x, *args, **kwargs: getattr(lift(x), name)(*args, **kwargs)


def _joined(name: str) -> Callable[..., Any]:
    def join(arrays: Sequence[Any], axis: int = 0) -> Node:
        nodes = [lift(a) for a in arrays]
        return apply(name, *(nodes if len({n.dtype for n in nodes}) == 1 else promote(*arrays)), axis=axis)

    return join


def where(condition: Any, *choices: Any) -> Any:
    return apply("where", condition, *choices) if choices else np.nonzero(_value(condition))


def flip(x: Node, axis: Any = None) -> Node:
    return apply("flip", x, axis=tuple(range(x.ndim)) if axis is None else axis)


def moved(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that gives elements of an array other places, by what it does with their numbers."""
    def move(x: Any, *args: Any, **kwargs: Any) -> Any:
        node = lift(x)
        flat, places = node.flatten(), function(np.arange(node.size).reshape(node.shape), *args, **kwargs)
        return [flat[part] for part in places] if isinstance(places, list) else flat[places]

    return move


def joined(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that puts several arrays together, by what it does with the numbers of their elements."""
    def join(arrays: Sequence[Any]) -> Node:
        nodes = promote(*(lift(a) for a in arrays))
        ends = np.cumsum([node.size for node in nodes])
        places = function([np.arange(end - node.size, end).reshape(node.shape) for node, end in zip(nodes, ends, strict=True)])
        return apply("concat", *(node.flatten() for node in nodes), axis=0)[places]

    return join


def var(x: Any, axis: Any = None, *, keepdims: bool = False, ddof: float = 0) -> Node:
    node = lift(x)
    found = apply("square", node - node.mean(axis, True)).mean(axis, keepdims)
    numbers = node.size / max(found.size, 1)
    return found * (numbers / (numbers - ddof)) if ddof else found


def sort(x: Any, axis: int | None = -1) -> Node:
    node = lift(x) if axis is not None else lift(x).flatten()
    along = -1 if axis is None else axis
    return moved(np.take_along_axis)(node, np.argsort(node.numpy(), axis=along, kind="stable"), along)


def cumsum(x: Any, axis: int | None = None) -> Node:
    node = lift(x) if axis is not None else lift(x).flatten()
    place = -1 if axis is None else axis
    turned = NUMPY["swapaxes"](node, place, -1)
    return NUMPY["swapaxes"](matmul(turned, np.triu(np.ones((turned.shape[-1],) * 2, node.dtype))), place, -1)


def diag(x: Any, k: int = 0) -> Node:
    node = lift(x)
    if node.ndim == 2:
        return NUMPY["diagonal"](node, k)
    return apply("pad", node[:, None] * np.eye(node.size, dtype=node.dtype), low=(max(-k, 0), max(k, 0)), high=(max(k, 0), max(-k, 0)))


def einsum(subscripts: str, *operands: Any) -> Node:
    inputs, arrow, out = subscripts.replace(" ", "").partition("->")
    terms, nodes = inputs.split(","), promote(*operands)
    letters = "".join(dict.fromkeys(inputs.replace(",", "")))
    out = out if arrow else "".join(sorted(c for c in letters if inputs.count(c) == 1))
    fits = len(terms) == len(nodes) and all(len(set(t)) == len(t) == n.ndim for t, n in zip(terms, nodes, strict=True)) and set(out) <= set(letters)
    if "." in subscripts or not fits:
        raise TypeError(f"numpy's einsum of {subscripts!r} and {len(nodes)} arrays is not known here: each axis needs a letter")
    order = out + "".join(c for c in letters if c not in out)
    spread = [node.transpose([term.index(c) for c in order if c in term]).reshape([node.shape[term.index(c)] if c in term else 1 for c in order])
              for term, node in zip(terms, nodes, strict=True)]
    product = reduce(lambda a, b: a * b, spread)
    return product.sum(tuple(range(len(out), len(order)))) if len(order) > len(out) else product


def tensordot(a: Any, b: Any, axes: Any = 2) -> Node:
    left, right = promote(a, b)
    first, second = (range(left.ndim - axes, left.ndim), range(axes)) if isinstance(axes, int) else (np.atleast_1d(part).tolist() for part in axes)
    here, there = [k % left.ndim for k in first], [k % right.ndim for k in second]
    a_kept, b_kept = ([k for k in range(node.ndim) if k not in gone] for node, gone in ((left, here), (right, there)))
    shape = (*(left.shape[k] for k in a_kept), *(right.shape[k] for k in b_kept))
    inner = count(left.shape[k] for k in here)
    return matmul(left.transpose([*a_kept, *here]).reshape(-1, inner), right.transpose([*there, *b_kept]).reshape(inner, -1)).reshape(shape)


def average(x: Any, axis: Any = None, weights: Any = None) -> Node:
    node = lift(x)
    if weights is None:
        return node.mean(axis)
    counts = lift(weights)
    counts = counts if counts.shape == node.shape else counts.reshape([n if k == axis % node.ndim else 1 for k, n in enumerate(node.shape)])
    return (node * counts).sum(axis) / counts.sum(axis if counts.shape == node.shape else None)


def logaddexp(a: Any, b: Any) -> Node:
    return apply("maximum", a, b) + apply("softplus", -abs(lift(a) - b))


def _of_values(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: function(*(_value(a) for a in args), **{name: _value(a) for name, a in kwargs.items()})


def _value(x: Any) -> Any:
    return x.numpy() if isinstance(x, Node) else x


NUMPY.update({name: _op(name) for name in SAME})
NUMPY.update({name: _op(op) for name, op in RENAMED.items()})
NUMPY.update({name: _method(method) for name, method in METHODS.items()})
NUMPY.update({function.__name__: _of_values(function) for function in OF_VALUES})
NUMPY.update({function.__name__: moved(function) for function in MOVING} | {function.__name__: joined(function) for function in JOINING})
NUMPY.update({"var": var, "sort": sort, "cumsum": cumsum, "diag": diag, "einsum": einsum, "tensordot": tensordot, "average": average,
              "logaddexp": logaddexp, "hypot": lambda a, b: apply("sqrt", apply("square", a) + apply("square", b)),
              "trace": lambda x: NUMPY["diagonal"](x).sum(), "tril": lambda x, k=0: x * np.tril(np.ones(x.shape), k).astype(x.dtype),
              "triu": lambda x, k=0: x * np.triu(np.ones(x.shape), k).astype(x.dtype),
              "broadcast_to": lambda x, shape: apply("broadcast", x, shape=tuple(np.atleast_1d(shape).tolist()))})
NUMPY.update({"concatenate": _joined("concat"), "concat": _joined("concat"), "stack": _joined("stack"), "matmul": matmul, "dot": dot, "norm": norm,
              "where": where,
              "flip": flip, "expand_dims": expand_dims, "squeeze": squeeze, "outer": lambda a, b: lift(a).flatten()[:, None] * lift(b).flatten(),
              "ndim": lambda x: x.ndim, "shape": lambda x: x.shape, "size": lambda x: x.size,
              "log2": lambda x: apply("log", x) * (1 / math.log(2)), "log10": lambda x: apply("log", x) * (1 / math.log(10)),
              "sinh": lambda x: (apply("exp", x) - apply("exp", -x)) * 0.5, "cosh": lambda x: (apply("exp", x) + apply("exp", -x)) * 0.5,
              "floor_divide": lambda a, b: lift(a) // b, "remainder": lambda a, b: lift(a) % b, "logical_and": lambda a, b: lift(a) & b,
              "logical_or": lambda a, b: lift(a) | b, "logical_not": lambda x: ~x, "bitwise_and": lambda a, b: lift(a) & b,
              "bitwise_or": lambda a, b: lift(a) | b, "invert": lambda x: ~x})
