"""Losses that users write: a closed grammar whose formulas become nodes of registered ops. Nothing is ever executed as code.

    numbers   + - * / **   comparisons   names   calls of public ops   axis= and other attributes by name
    names     y_hat, y, x (y_hat.price where there are several), weight, step, epoch, and the constants of the expression
    calls     any op of the catalogue; sum_squares("layers.*.weight") and sum_abs("...") over parameters by path
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from engine.core import OPS, Node, apply, constant
from engine.errors import DtypeError, Problem, ShapeError, SpecError, nearest
from engine.nn.loss import Loss, losses, one_hot
from engine.nn.paths import selected

LONGEST, MOST_NODES, DEEPEST = 1000, 200, 32
NAMES = ("y_hat", "y", "x", "weight", "step", "epoch")
PENALTIES = ("sum_squares", "sum_abs")
_BINARY: dict[type[ast.operator], str] = {ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply", ast.Div: "divide", ast.Pow: "power"}
_COMPARE: dict[type[ast.cmpop], str] = {ast.Lt: "less", ast.LtE: "less_equal", ast.Gt: "greater", ast.GtE: "greater_equal", ast.Eq: "equal",
                                        ast.NotEq: "not_equal"}
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]


def _wrong(detail: str, suggestion: str | None = None) -> PydanticCustomError:
    return PydanticCustomError("invalid_expression", "{detail}", {"detail": detail, "suggestion": suggestion, "code": "invalid_expression"})


@dataclass(frozen=True)
class Setting:
    """What a formula may look at beside predictions and targets: inputs (one node, or several by name), counters, and parameters by path."""

    x: Any = None
    step: Node | None = None
    epoch: Node | None = None
    parameters: Mapping[str, Node] = field(default_factory=dict)


class Expression(Loss):
    """An objective written as a formula over y_hat and y; a scalar is the loss, one value for each row is averaged with the rows' weights."""

    formula: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST)]
    constants: dict[Name, Annotated[float, Field(strict=True)]] = {}
    kind: Literal["expression"] = "expression"

    @model_validator(mode="after")
    def within_grammar(self) -> Expression:
        try:
            tree = self.tree()
            _check_size(tree)
            patterns = {id(argument) for call in ast.walk(tree) if _is_penalty(call) for argument in call.args}  # type: ignore[attr-defined]
            for node in ast.walk(tree):
                if id(node) not in patterns:
                    _check(node, self.constants)
        except PydanticCustomError as error:
            detail = InitErrorDetails(type=error, loc=("formula",), input=())    # the formula itself is known to who wrote it
            raise ValidationError.from_exception_data("expression", [detail]) from None
        return self

    def tree(self) -> ast.expr:
        try:
            return ast.parse(self.formula.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            reason = getattr(error, "msg", None) or "too deeply nested"
            raise _wrong(f"the formula cannot be read: {reason} at character {getattr(error, 'offset', None) or 0}") from None

    def uses(self, name: str) -> bool:
        return any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(self.tree()))

    def names(self, group: str) -> list[str]:
        """The names that follow `group` and a dot, as in y_hat.price."""
        found = [node for node in ast.walk(self.tree()) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
        return list(dict.fromkeys(node.attr for node in found if node.value.id == group))  # type: ignore[attr-defined]

    def rows(self, y_hat: Node, y: Node) -> Node | None:
        return None

    def terms(self, y_hat: Node, y: Node) -> Node:
        return self.forward(y_hat, y)

    def forward(self, y_hat: Node, y: Node | None, weight: Node | None = None, setting: Setting | None = None) -> Node:
        """The loss of a batch. Class numbers reach the formula as one-hot rows. SpecError where shapes do not fit."""
        return self.of(y_hat, None if y is None else _spread(y_hat, y), y_hat, weight, setting or Setting())

    def joint(self, y_hat: Mapping[str, Node], y: Node | Mapping[str, Node], weight: Node | None, setting: Setting) -> Node:
        """The same of several outputs by name, and of one target or the targets that they have."""
        y = {name: _spread(y_hat[name], node) for name, node in y.items()} if isinstance(y, Mapping) else y
        return self.of(y_hat, y, next(iter(y_hat.values())), weight, setting)

    def of(self, y_hat: Any, y: Any, like: Node, weight: Node | None, setting: Setting) -> Node:
        """The value of the formula for one node or several by name; `like` has the batch's rows and type."""
        values = {"y_hat": y_hat, "y": y, "x": setting.x, "weight": weight, "step": setting.step, "epoch": setting.epoch}
        found, rows = _Reader(self, values, setting.parameters, like.dtype).read(self.tree()), like.shape[0]
        if found.shape == (rows, 1):
            found = found.reshape(rows)
        if found.ndim > 1 or (found.ndim == 1 and found.shape[0] != rows):
            detail = f"the formula gives {list(found.shape)}; a loss is one number, or one for each of the {rows} rows"
            raise SpecError([Problem("/formula", "shape_mismatch", detail, f"mean({self.formula})")])
        return self.aggregate(found, weight) if found.ndim else found


def _spread(y_hat: Node, y: Node) -> Node:
    """Class numbers as one-hot rows."""
    return one_hot("expression", y_hat, y) if y.dtype == "int32" and y.shape == y_hat.shape[:-1] else y


losses.add(Expression)


def _check_size(tree: ast.expr) -> None:
    count, level = 0, [tree]
    for depth in range(MOST_NODES):
        counted = [node for node in level if isinstance(node, ast.expr)]
        count += len(counted)
        if count > MOST_NODES or (depth > 2 * DEEPEST and level):
            raise _wrong(f"the formula is too large: at most {MOST_NODES} parts, nested {DEEPEST} deep")
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return


_LEAVES = (ast.Load, ast.operator, ast.unaryop, ast.cmpop, ast.Tuple, ast.List, ast.keyword)


def _check(node: ast.AST, constants: Mapping[str, float]) -> None:
    """Refuse whatever is not in the grammar."""
    if isinstance(node, ast.BinOp | ast.UnaryOp):
        if type(node.op) not in (*_BINARY, ast.USub, ast.UAdd):
            raise _wrong("the operators are + - * / **")
    elif isinstance(node, ast.Compare):
        if len(node.ops) > 1 or type(node.ops[0]) not in _COMPARE:
            raise _wrong("compare two values at a time, with < <= > >= == !=")
    elif isinstance(node, ast.Call):
        _check_call(node)
    elif isinstance(node, ast.Name):
        known = [*NAMES, *constants, *PENALTIES, *(name for name, op in OPS.items() if op.public)]
        if node.id not in known:
            raise _wrong(f"there is no name {node.id!r} here; known are {', '.join([*NAMES, *constants])} and the ops", nearest(node.id, known))
    elif isinstance(node, ast.Attribute):
        if not isinstance(node.value, ast.Name) or node.value.id not in ("y_hat", "y", "x") or node.attr.startswith("_"):
            raise _wrong("a dot goes only after y_hat, y or x")
    elif isinstance(node, ast.Constant):
        if not isinstance(node.value, int | float) or abs(node.value) > 1e300:
            raise _wrong(f"{node.value!r} is not a number")
    elif not isinstance(node, _LEAVES):
        raise _wrong(f"{type(node).__name__.lower()} is not part of the grammar: numbers, + - * / **, comparisons, names and calls of ops")


def _check_call(node: ast.Call) -> None:
    if not isinstance(node.func, ast.Name):
        raise _wrong("only ops can be called")
    name = node.func.id
    if name in PENALTIES:
        if len(node.args) != 1 or node.keywords or not (isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)):
            raise _wrong(f"{name} takes one pattern of parameter paths, as in {name}(\"layers.*.weight\")")
    elif name not in OPS or not OPS[name].public:
        known = [*PENALTIES, *(n for n, op in OPS.items() if op.public)]
        raise _wrong(f"there is no op {name!r}", nearest(name, known))


def _is_penalty(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in PENALTIES


class _Reader:
    """Makes nodes of a checked tree."""

    def __init__(self, spec: Expression, values: Mapping[str, Any], parameters: Mapping[str, Node], dtype: str):
        self.values, self.parameters, self.dtype = values, parameters, dtype
        self.constants = spec.constants

    def read(self, node: ast.AST) -> Node:
        reader = self._readers[type(node)]
        try:
            return reader(self, node)
        except (ShapeError, DtypeError, TypeError) as error:
            message = error.message if isinstance(error, ShapeError) else str(error)
            raise SpecError([Problem("/formula", "shape_mismatch", f"in {ast.unparse(node)!r}: {message}")]) from None  # type: ignore[arg-type]

    def _constant(self, node: ast.Constant) -> Node:
        return constant(float(node.value), self.dtype)  # type: ignore[arg-type]

    def _name(self, node: ast.Name) -> Node:
        if node.id in self.constants:
            return constant(self.constants[node.id], self.dtype)
        found = self.values.get(node.id)
        if isinstance(found, Node):
            return found
        several = " or ".join(f"{node.id}.{name}" for name in found or ())
        detail = f"there are several; write {several}" if several else f"there is no {node.id!r} in this job"
        raise SpecError([Problem("/formula", "unknown_name", detail)])

    def _attribute(self, node: ast.Attribute) -> Node:
        group = node.value.id  # type: ignore[attr-defined]
        found = self.values.get(group)
        if isinstance(found, Mapping) and node.attr in found:
            return found[node.attr]
        known = list(found) if isinstance(found, Mapping) else []
        raise SpecError([Problem("/formula", "unknown_name", f"there is no {group}.{node.attr} in this job", nearest(node.attr, known))])

    def _binary(self, node: ast.BinOp) -> Node:
        left, right = self.read(node.left), self.read(node.right)
        self._same_rank(left, right, node)
        if isinstance(node.op, ast.Pow) and isinstance(node.right, ast.Constant):
            return left ** node.right.value
        return apply(_BINARY[type(node.op)], left, right)

    def _same_rank(self, left: Node, right: Node, node: ast.expr) -> None:
        """[rows] against [rows, 1] would stretch to [rows, rows]: refused, as in every loss."""
        if left.ndim and right.ndim and left.ndim != right.ndim and left.shape[0] == right.shape[0]:
            raise ShapeError(f"shapes {list(left.shape)} and {list(right.shape)} have different axes; reshape or reduce one of them")

    def _unary(self, node: ast.UnaryOp) -> Node:
        value = self.read(node.operand)
        return -value if isinstance(node.op, ast.USub) else value

    def _comparison(self, node: ast.Compare) -> Node:
        return apply(_COMPARE[type(node.ops[0])], self.read(node.left), self.read(node.comparators[0]))

    def _call(self, node: ast.Call) -> Node:
        name = node.func.id  # type: ignore[attr-defined]
        if name in PENALTIES:
            return self._penalty(name, node.args[0].value)  # type: ignore[attr-defined]
        attrs = {}
        for keyword in node.keywords:
            try:
                attrs[str(keyword.arg)] = ast.literal_eval(keyword.value)
            except ValueError:
                raise TypeError(f"{keyword.arg} must be a number or a list of numbers") from None
        return apply(name, *(self.read(argument) for argument in node.args), **attrs)

    def _penalty(self, name: str, pattern: str) -> Node:
        found = [node for path, node in self.parameters.items() if selected(path, [pattern])]
        if not found:
            raise SpecError([Problem("/formula", "unknown_path", f"no parameter is called {pattern!r}", nearest(pattern, self.parameters))])
        parts = [apply("sum", apply("square" if name == "sum_squares" else "abs", node)) for node in found]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    _readers: Mapping[type[ast.AST], Callable[..., Node]] = {
        ast.Constant: _constant, ast.Name: _name, ast.Attribute: _attribute, ast.BinOp: _binary, ast.UnaryOp: _unary, ast.Compare: _comparison,
        ast.Call: _call}
