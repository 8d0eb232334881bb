"""What people call: gradient, withgradient, jacobian, jvp, hvp, of any Python function of arrays, numbers and models.

The function runs once, on nodes. Where it asks for a value (`if loss > 1`, `float(x)`) that value is computed then and kept, so ordinary control
flow works and the derivative is that of the way taken. Called inside another such run, each of these gives nodes: derivatives nest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from engine.autodiff.forward import pushforward
from engine.autodiff.implicit import Grads, Params, assigned, watching
from engine.autodiff.modes import by_differences, by_forward, units
from engine.autodiff.reverse import filled, pullback
from engine.autodiff.tree import leaves, transform
from engine.autodiff.variable import Variable, arrays_of, is_model, nodes_of, settle, tangents, tracing
from engine.core import FLOATS, Node, apply, evaluate
from engine.errors import DtypeError, ScalarRequired, ShapeError, TrainyardError, shown

Mode = Literal["reverse", "forward", "finite_difference"]

def gradient(f: Callable[..., Any], *args: Any, mode: Mode = "reverse") -> Any:
    """The derivatives of `f(*args)` with respect to each argument: always a tuple, one entry for one argument too.

    A model's or tree's gradient has the same nesting, as plain dicts and lists; None where there is no derivative: what `f` does not use, and
    integers, which are sizes, indices and labels (write 2.0 for a number). With `Params` as the only argument, `f` takes none, and the result is
    looked up by array. Raises ScalarRequired where `f` does not return one real number.

    `mode`: "reverse" is one pass for all; "forward" one for each number; "finite_difference" runs `f` twice for each, in float64.

    >>> gradient(lambda a, b: a * b, 2.0, 5.0)
    (5.0, 2.0)
    """
    return withgradient(f, *args, mode=mode)[1]


def withgradient(f: Callable[..., Any], *args: Any, mode: Mode = "reverse") -> tuple[Any, Any]:
    """The value of `f(*args)` and its gradients. Where `f` returns several things (tuple, named tuple, dict), the first is differentiated."""
    if mode not in ("reverse", "forward", "finite_difference"):
        raise ValueError(f"mode is 'reverse', 'forward' or 'finite_difference', found {mode!r}")
    if not callable(f):
        raise TrainyardError(f"gradient takes a function first, and what to differentiate by after it, found {shown(f)}: write "
                             "gradient(lambda m: losses.mse(m(x), y), model)")
    if len(args) == 1 and isinstance(args[0], Params):
        if mode != "reverse":
            raise TrainyardError(f"params are differentiated in reverse mode; give the model as an argument for mode {mode!r}")
        return _implicit(f, args[0])
    differences = by_differences(f, args, scalar) if mode == "finite_difference" else None
    with tracing() as nested:
        variables = _variables(args)
        value = f(*(v.inside for v in variables))
        found = (by_forward if mode == "forward" else _pull)(scalar(value), [v.nodes for v in variables])
    if differences is not None:
        known = [{path: None if g is None else slopes[path] for path, g in group.items()} for group, slopes in zip(found, differences, strict=True)]
        value, _ = _values(value, [], [(v.argument, v.inside) for v in variables])
        return value, tuple(v.mirror(g) for v, g in zip(variables, known, strict=True))
    if nested:
        return value, tuple(v.mirror(g) for v, g in zip(variables, found, strict=True))
    value, found = _values(value, found, [(v.argument, v.inside) for v in variables])
    return value, tuple(v.mirror(g) for v, g in zip(variables, found, strict=True))


def _implicit(f: Callable[[], Any], ps: Params) -> tuple[Any, Grads]:
    with tracing() as nested, watching(ps) as watched:
        value = f()
        found = _pull(scalar(value), [watched.nodes])
    if not nested:
        value, found = _values(value, found, watched.bound)
    return value, Grads(ps, found[0])


def _pull(loss: Node | None, groups: Sequence[Mapping[Any, Node]]) -> list[dict[Any, Any]]:
    wrt = [node for group in groups for node in group.values()]
    parts = iter(pullback(loss, None, wrt) if loss is not None else [None] * len(wrt))
    return [{key: next(parts) for key in group} for group in groups]


def _values(value: Any, groups: Sequence[Mapping[Any, Node | None]], bound: Sequence[tuple[Any, Any]]) -> tuple[Any, list[dict[Any, Any]]]:
    """Nodes become numbers and arrays, and models keep what they assigned to their buffers: all computed together."""
    wanted = [node for group in groups for node in group.values()]
    kept = [node for _, twin in bound for node in assigned(twin).values()]
    evaluate([*nodes_of(value), *kept, *(n for n in wanted if n is not None)])
    arrays = iter(arrays_of(wanted))
    for model, twin in bound:
        if nodes := assigned(twin):
            model.assign({path: node.numpy() for path, node in nodes.items()})
    return settle(value), [{key: next(arrays) for key in group} for group in groups]


def _variables(args: Sequence[Any]) -> list[Variable]:
    variables = [Variable(argument) for argument in args]
    if args and not any(v.nodes or is_model(v.argument) for v in variables):
        raise DtypeError(f"there is nothing to differentiate in {', '.join(type(a).__name__ for a in args)}: give floats, float arrays or a model "
                         "(integers are taken as sizes, indices or labels: write 2.0 for a number; a layer is made a model with layer.build(...))")
    return variables


def scalar(value: Any) -> Node | None:
    """The objective in what a function returned, or None for a number that depends on nothing. Raises ScalarRequired."""
    first = value
    if isinstance(value, Mapping | tuple) and value:
        first = next(iter(value.values())) if isinstance(value, Mapping) else value[0]
    if isinstance(first, Node) and not first.shape and first.dtype in FLOATS:
        return first
    if isinstance(first, int | float | np.floating | np.integer) or (isinstance(first, np.ndarray) and not first.shape and first.dtype.kind in "iuf"):
        return None
    if first is None:
        raise ScalarRequired("the function must return one number, the loss; it returned None: is a return missing?")
    if isinstance(first, Node | np.ndarray) and first.shape:
        raise ScalarRequired(f"the function must return one number to differentiate, found {first.dtype} of shape {list(first.shape)}: "
                             "reduce it, for instance with .mean() or .sum()")
    raise ScalarRequired(f"the function must return one real number to differentiate, found {first!r}")


def jacobian(f: Callable[[Any], Any], x: Any) -> Any:
    """The derivatives of every entry of the array `f(x)` with respect to every entry of the array `x`: shape `f(x).shape + x.shape`.

    Forward mode, one pass for each entry of `x`, where `x` is the smaller; else reverse mode, one for each entry of `f(x)`.
    """
    with tracing() as nested:
        variable = _variables([x])[0]
        if list(variable.nodes) != [""]:
            raise DtypeError(f"jacobian takes a function of one array, found {type(x).__name__}; flatten a model with destructure")
        y, (node,) = f(variable.inside), variable.nodes.values()
        if not isinstance(y, Node):
            raise ScalarRequired(f"jacobian takes a function that returns an array made from its argument, found {type(y).__name__}")
        forward = node.size < y.size
        passes = [_or_zeros(pushforward([y], {node: unit})[0] if forward else pullback(y, unit, [node])[0], y if forward else node)
                  for unit in units(node if forward else y)]
        if not passes:
            return np.zeros(y.shape + node.shape, node.dtype)
        rows = apply("stack", *(p.reshape(p.size) for p in passes), axis=0)
        result = (rows.T if forward else rows).reshape(y.shape + node.shape)
    return result if nested else arrays_of([result])[0]


def _or_zeros(found: Node | None, like: Node) -> Node:
    return filled(0.0, like) if found is None else found


def jvp(f: Callable[..., Any], primals: Sequence[Any], directions: Sequence[Any]) -> tuple[Any, Any]:
    """`(value, tangent)` of `f(*primals)` along `directions`, one for each argument and of its nesting: forward mode.

    `f` may return a tree of arrays; the tangent has the same nesting.
    """
    if not (isinstance(primals, tuple | list) and isinstance(directions, tuple | list)):
        raise DtypeError("jvp takes its arguments and their directions as tuples: jvp(f, (x,), (v,))")
    if len(primals) != len(directions):
        raise ShapeError(f"jvp takes one direction for each of the {len(primals)} arguments, found {len(directions)}")
    with tracing() as nested:
        variables = _variables(primals)
        value = f(*(v.inside for v in variables))
        seeds = {node: t for v, d in zip(variables, directions, strict=True) for node, t in tangents(v, d).items()}
        outputs = dict(leaves(value))
        nodes = [n for n in outputs.values() if isinstance(n, Node)]
        found = dict(zip(nodes, pushforward(nodes, seeds), strict=True))
        tangent = transform(value, lambda _, n: _or_zeros(found[n], n) if isinstance(n, Node) else 0.0)
    if nested:
        return value, tangent
    evaluate([*nodes, *nodes_of(tangent)])
    return settle(value), settle(tangent)


def hvp(f: Callable[[Any], Any], x: Any, v: Any) -> Any:
    """The second derivative of the number `f(x)` along `v`, in the nesting of `x`: forward mode over reverse mode."""
    with tracing() as nested:
        variable = _variables([x])[0]
        loss = scalar(f(variable.inside))
        first = _pull(loss, [variable.nodes])[0]
        known = {path: g for path, g in first.items() if g is not None}
        along = pushforward(list(known.values()), tangents(variable, v))
        second = {path: _or_zeros(t, g) for (path, g), t in zip(known.items(), along, strict=True)}
    if not nested:
        second = dict(zip(second, arrays_of(second.values()), strict=True))
    return variable.mirror(second)
