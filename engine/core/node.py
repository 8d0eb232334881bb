"""What can be computed (`Op`, the registry) and one use of it (`Node`: data, no arrays).

Nodes act like numpy arrays; a value is computed when Python asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.core.case import Case
from engine.core.launch import Launch
from engine.core.shape import DTYPES, FLOATS, Shape, broadcast_shape, count
from engine.core.values import evaluate
from engine.errors import DtypeError, TrainyardError, nearest, shown


@dataclass(frozen=True, eq=False)
class Op:
    """Something that can be computed.

    shape    (*inputs, **attrs) -> (shape, dtype); reads only `.shape` and `.dtype`; raises ShapeError or DtypeError
    oracle   (*arrays, **attrs) -> array; independent numpy; defines the meaning
    vjp      (node, ct) -> one Node or None per input: derivatives are nodes
    jvp      (node, tangents) -> Node or None; `tangents` has a Node or None per input
    launch   (node) -> launches that make the node's value
    cuda     (node) -> the same on a GPU, where other launches suit it better
    compose  (node) -> the same value in smaller ops, for an op kept whole; then vjp of second order and jvp come from it
    broadcasts  whether `apply` brings the inputs to one dtype and one shape first
    """

    name: str
    shape: Callable[..., tuple[Shape, str]]
    oracle: Callable[..., Any]
    launch: Callable[[Node], Sequence[Launch]]
    cuda: Callable[[Node], Sequence[Launch]] | None = None
    vjp: Callable[[Node, Node], Sequence[Node | None]] | None = None
    jvp: Callable[[Node, Sequence[Node | None]], Node | None] | None = None
    compose: Callable[[Node], Node] | None = None
    cases: tuple[Case, ...] = ()
    broadcasts: bool = False
    formula: str = ""
    description: str = ""
    public: bool = True     # listed in the catalogue and callable from an expression
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, *inputs: Any, **attrs: Any) -> Node:
        return apply(self, *inputs, **attrs)

    def launches(self, node: Node, device: str = "cpu") -> Sequence[Launch]:
        """The launches that make a node of this op on `device`, "cpu" or "cuda"."""
        return (self.cuda if device == "cuda" and self.cuda else self.launch)(node)

    def __repr__(self) -> str:
        return f"<op {self.name}>"


OPS: dict[str, Op] = {}


def register(op: Op) -> Op:
    if op.name in OPS:
        raise ValueError(f"op {op.name!r} is defined twice")
    OPS[op.name] = op
    return op


def find(name: str) -> Op:
    try:
        return OPS[name]
    except KeyError:
        hint = nearest(name, OPS)
        raise TrainyardError(f"no op is called {name!r}" + (f"; did you mean {hint!r}?" if hint else "")) from None


class Node:
    """One value in a graph: an op, its inputs and attributes, a shape and a dtype. Compared by identity.

    `value` is the array of a leaf that has one, or of a node that Python asked for; it is no part of the graph.
    Nodes act like numpy arrays: arithmetic, comparisons, `@`, slices, `.sum(axis)`, numpy's functions.
    """

    __slots__ = ("__weakref__", "attrs", "dtype", "inputs", "name", "op", "shape", "value")
    __array_priority__ = 1000

    def __init__(self, op: Op, inputs: tuple[Node, ...], attrs: Mapping[str, Any], shape: Shape, dtype: str, value: np.ndarray | None = None, name: str = ""):  # noqa: E501
        self.op, self.inputs, self.attrs, self.shape, self.dtype, self.value, self.name = op, inputs, attrs, shape, dtype, value, name

    # what it is
    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return count(self.shape)

    @property
    def T(self) -> Node:
        return apply("transpose", self)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a node without axes has no length")
        return self.shape[0]

    def __repr__(self) -> str:
        label = f" {self.name!r}" if self.name else ""
        return f"<{self.op.name}{label} {self.dtype}{list(self.shape)}>"

    # what it is worth
    def numpy(self) -> np.ndarray:
        """The value, computed now if it was not asked for before. Raises TrainyardError where a leaf has no value (a graph of shapes)."""
        if self.value is None:
            evaluate([self])
        assert self.value is not None
        return self.value

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.numpy(), dtype=dtype, copy=True if copy is None else copy)

    def item(self) -> float:
        if self.size != 1:
            raise ValueError(f"one number is asked of an array of shape {list(self.shape)}: index it, reduce it (.sum(), .all(), ...), or choose by "
                             "element with where(condition, a, b)")
        return self.numpy().item()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else repr(self)

    # arithmetic
    def __add__(self, other: Any) -> Node: return apply("add", self, other)
    def __radd__(self, other: Any) -> Node: return apply("add", other, self)
    def __sub__(self, other: Any) -> Node: return apply("subtract", self, other)
    def __rsub__(self, other: Any) -> Node: return apply("subtract", other, self)
    def __mul__(self, other: Any) -> Node: return apply("multiply", self, other)
    def __rmul__(self, other: Any) -> Node: return apply("multiply", other, self)
    def __truediv__(self, other: Any) -> Node: return apply("divide", self, other)
    def __rtruediv__(self, other: Any) -> Node: return apply("divide", other, self)
    def __pow__(self, other: Any) -> Node: return apply("square", self) if _is(other, 2) else self if _is(other, 1) else apply("power", self, other)
    def __rpow__(self, other: Any) -> Node: return apply("power", other, self)
    def __neg__(self) -> Node: return apply("negative", self)
    def __pos__(self) -> Node: return self
    def __abs__(self) -> Node: return apply("abs", self)
    def __floordiv__(self, other: Any) -> Node: return apply("floor", self / other)
    def __mod__(self, other: Any) -> Node: return self - (self // other) * other
    def __matmul__(self, other: Any) -> Node: return NUMPY["matmul"](self, other)
    def __rmatmul__(self, other: Any) -> Node: return NUMPY["matmul"](other, self)
    def __lt__(self, other: Any) -> Node: return apply("less", self, other)
    def __le__(self, other: Any) -> Node: return apply("less_equal", self, other)
    def __gt__(self, other: Any) -> Node: return apply("greater", self, other)
    def __ge__(self, other: Any) -> Node: return apply("greater_equal", self, other)
    def __eq__(self, other: Any) -> Node: return apply("equal", self, other)  # type: ignore[override]
    def __ne__(self, other: Any) -> Node: return apply("not_equal", self, other)  # type: ignore[override]
    def __and__(self, other: Any) -> Node: return (self != 0) * (other != 0)
    def __or__(self, other: Any) -> Node: return apply("maximum", self != 0, other != 0)
    def __invert__(self) -> Node: return self == 0
    __hash__ = object.__hash__

    # shapes and reductions
    def __getitem__(self, key: Any) -> Node: return OPS["slice"].defaults["index"](self, key)
    def reshape(self, *shape: Any) -> Node: return apply("reshape", self, shape=tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], Sequence) else shape)  # noqa: E501
    def transpose(self, *axes: Any) -> Node: return apply("transpose", self, axes=tuple(axes[0]) if len(axes) == 1 and isinstance(axes[0], Sequence) else axes or None)  # noqa: E501
    def sum(self, axis: Any = None, keepdims: bool = False) -> Node: return apply("sum", self, axis=axis, keepdims=keepdims)
    def mean(self, axis: Any = None, keepdims: bool = False) -> Node: return apply("mean", self, axis=axis, keepdims=keepdims)
    def max(self, axis: Any = None, keepdims: bool = False) -> Node: return apply("max", self, axis=axis, keepdims=keepdims)
    def min(self, axis: Any = None, keepdims: bool = False) -> Node: return apply("min", self, axis=axis, keepdims=keepdims)
    def prod(self, axis: Any = None, keepdims: bool = False) -> Node: return apply("prod", self, axis=axis, keepdims=keepdims)
    def argmax(self, axis: int | None = None, keepdims: bool = False) -> Node: return apply("argmax", self, axis=axis, keepdims=keepdims)
    def var(self, axis: Any = None, keepdims: bool = False, ddof: float = 0) -> Node: return NUMPY["var"](self, axis, keepdims=keepdims, ddof=ddof)
    def std(self, axis: Any = None, keepdims: bool = False, ddof: float = 0) -> Node: return apply("sqrt", self.var(axis, keepdims, ddof))
    def any(self, axis: Any = None, keepdims: bool = False) -> Node: return (self != 0).max(axis, keepdims)
    def all(self, axis: Any = None, keepdims: bool = False) -> Node: return (self != 0).min(axis, keepdims)
    def flatten(self) -> Node: return self.reshape(self.size)
    def ravel(self) -> Node: return self.reshape(self.size)
    def copy(self) -> Node: return self     # nodes never change
    def squeeze(self, axis: int | None = None) -> Node: return NUMPY["squeeze"](self, axis)
    def clip(self, low: float | None = None, high: float | None = None) -> Node: return apply("clip", self, low=-np.inf if low is None else low, high=np.inf if high is None else high)  # noqa: E501
    def astype(self, dtype: Any) -> Node: return apply("cast", self, dtype=np.dtype(dtype).name)

    # numpy's own functions on nodes: np.exp(node), array - node, np.sum(node, 0)
    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__" or kwargs:
            raise TypeError(f"numpy's {ufunc.__name__} changes or reduces an array here: write a = a + b for a += b, and np.sum for np.add.reduce")
        return numpy_function(ufunc, inputs, {})

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return numpy_function(func, args, kwargs)


NUMPY: dict[str, Callable[..., Any]] = {}
"""What numpy's functions do with nodes, by name (see ops/array_functions.py)."""


def numpy_function(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    if func.__name__ not in NUMPY:
        raise TypeError(f"numpy's {func.__name__} is not known here: write it with the functions of engine.ops, or, where no derivative is wanted, "
                        "ask for the value first with node.numpy()")
    return NUMPY[func.__name__](*args, **kwargs)


def _is(value: Any, number: int) -> bool:
    return isinstance(value, int | float) and value == number


# ---------------------------------------------------------------- leaves

def _no_launch(node: Node) -> Sequence[Launch]:
    return ()


LEAF = register(Op("leaf", shape=lambda shape, dtype: (shape, dtype), oracle=lambda: None, launch=_no_launch, public=False,
                   description="A value that comes from outside: a parameter, a batch, a counter."))
CONSTANT = register(Op("constant", shape=lambda value, dtype: ((), dtype), oracle=lambda value, dtype: np.asarray(value, dtype), launch=_no_launch, public=False,  # noqa: E501
                       description="One number, known when the graph is made."))


def leaf(shape: Iterable[int], dtype: str = "float32", *, name: str = "", value: np.ndarray | None = None) -> Node:
    """A value that comes from outside. `value` binds an array to it, which is not copied."""
    if dtype not in DTYPES:
        raise DtypeError(f"the engine computes in {', '.join(DTYPES)}; found {dtype}")
    return Node(LEAF, (), {}, tuple(int(n) for n in shape), dtype, value, name)


def constant(value: float, dtype: str = "float32") -> Node:
    """One number as a node without axes."""
    return Node(CONSTANT, (), {"value": float(value) if dtype in FLOATS else int(value)}, (), dtype)


def lift(value: Any, dtype: str | None = None) -> Node:
    """A node of anything that is a number or an array: nodes as they are, numbers as constants of `dtype`, arrays as leaves in their own dtype."""
    if isinstance(value, Node):
        return value
    if isinstance(value, bool | int | float | np.floating | np.integer) and not isinstance(value, np.ndarray):
        return constant(value, dtype or "float64")  # type: ignore[arg-type]
    array = np.asarray(value)
    if array.dtype == np.bool_:
        array = array.astype(dtype or "float64")
    elif array.dtype.name not in DTYPES:
        if array.dtype.kind not in "iuf":
            raise DtypeError(_no_numbers(value, array))
        array = array.astype("float64" if array.dtype.kind == "f" else "int64")
    array = np.asarray(array, array.dtype.newbyteorder("="), order="C")
    return leaf(array.shape, array.dtype.name, value=array)


def _no_numbers(value: Any, array: np.ndarray) -> str:
    """What is said of a value that is no array of numbers."""
    if array.dtype.kind == "O" and not array.shape:
        return f"expected numbers, found {shown(value)}{'; call it, and give what it computes' if callable(value) else ''}"
    texts = "; texts that name classes become class numbers with np.unique(y, return_inverse=True)[1]" if array.dtype.kind in "SU" else ""
    return f"expected numbers, found an array of {array.dtype}{texts or '; give float32, float64, int32, int64 or uint8'}"


# ---------------------------------------------------------------- making nodes

def apply(op: Op | str, *inputs: Any, **attrs: Any) -> Node:
    """The node `op(*inputs, **attrs)`: inputs lifted, brought to one dtype and shape where the op broadcasts, shape checked."""
    op = find(op) if isinstance(op, str) else op
    if op.defaults:
        attrs = {**{k: v for k, v in op.defaults.items() if not callable(v)}, **attrs}
    nodes = _unify(inputs) if op.broadcasts else tuple(lift(x) for x in inputs)
    shape, dtype = op.shape(*nodes, **attrs)
    return Node(op, nodes, attrs, shape, dtype)


def _unify(inputs: Sequence[Any]) -> tuple[Node, ...]:
    """Inputs of one float dtype and one shape, by explicit cast and broadcast nodes."""
    nodes = promote(*inputs)
    shape = broadcast_shape(*(n.shape for n in nodes))
    return tuple(n if n.shape == shape else apply("broadcast", n, shape=shape) for n in nodes)


def promote(*inputs: Any) -> list[Node]:
    """Inputs as nodes of one float dtype: that of the arrays among them; numbers follow."""
    typed = [x for x in inputs if isinstance(x, Node | np.ndarray)]
    found = {x.dtype if isinstance(x, Node) else x.dtype.name for x in typed}
    floats = [d for d in found if d in FLOATS]
    dtype = "float64" if "float64" in floats or not floats else "float32"
    return [_cast(lift(x, dtype), dtype) for x in inputs]


def _cast(node: Node, dtype: str) -> Node:
    if node.dtype == dtype:
        return node
    if node.op is CONSTANT:
        return constant(node.attrs["value"], dtype)
    return apply("cast", node, dtype=dtype)
