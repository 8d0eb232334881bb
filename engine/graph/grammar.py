"""Formulas that users write, as graphs: a closed grammar whose sentences become nodes of registered ops. Nothing is ever executed as code.

    numbers   + - * / **   comparisons   names   calls of public ops   axis= and other attributes by name

Which names there are, and which calls beside the ops, is said by a `Grammar`; what they stand for by the `Reader` of one formula.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from engine.core import OPS, Node, Op, apply, constant
from engine.errors import Problem, ShapeError, SpecError, nearest

LONGEST, MOST_NODES, DEEPEST = 1000, 200, 32
_BINARY: dict[type[ast.operator], str] = {ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply", ast.Div: "divide", ast.Pow: "power"}
_COMPARE: dict[type[ast.cmpop], str] = {ast.Lt: "less", ast.LtE: "less_equal", ast.Gt: "greater", ast.GtE: "greater_equal", ast.Eq: "equal",
                                        ast.NotEq: "not_equal"}
_LEAVES = (ast.Load, ast.operator, ast.unaryop, ast.cmpop, ast.Tuple, ast.List, ast.keyword)


def _wrong(detail: str, suggestion: str | None = None) -> PydanticCustomError:
    return PydanticCustomError("invalid_expression", "{detail}", {"detail": detail, "suggestion": suggestion, "code": "invalid_expression"})


def parse(formula: str) -> ast.expr:
    """The tree of a formula, whatever is in it."""
    try:
        return ast.parse(formula.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = getattr(error, "msg", None) or "too deeply nested"
        raise _wrong(f"the formula cannot be read: {reason} at character {getattr(error, 'offset', None) or 0}") from None


@dataclass(frozen=True)
class Grammar:
    """What a formula may say: its names; those among them after which a dot may come, because they may be several; functions of one text."""

    names: tuple[str, ...]
    several: tuple[str, ...] = ()
    of_text: tuple[str, ...] = ()

    def check(self, formula: str) -> None:
        """Raise pydantic's ValidationError at the field `formula` where it says anything else."""
        try:
            tree = parse(formula)
            _check_size(tree)
            texts = {id(argument) for call in ast.walk(tree) if self._takes_text(call) for argument in call.args}  # type: ignore[attr-defined]
            for node in ast.walk(tree):
                if id(node) not in texts:
                    self._check(node)
        except PydanticCustomError as error:
            detail = InitErrorDetails(type=error, loc=("formula",), input=())    # the formula itself is known to who wrote it
            raise ValidationError.from_exception_data("expression", [detail]) from None

    def _check(self, node: ast.AST) -> None:
        if isinstance(node, ast.BinOp | ast.UnaryOp):
            if type(node.op) not in (*_BINARY, ast.USub, ast.UAdd):
                raise _wrong("the operators are + - * / **")
        elif isinstance(node, ast.Compare):
            if len(node.ops) > 1 or type(node.ops[0]) not in _COMPARE:
                raise _wrong("compare two values at a time, with < <= > >= == !=")
        elif isinstance(node, ast.Call):
            self._check_call(node)
        elif isinstance(node, ast.Name):
            if node.id not in (known := [*self.names, *self._calls()]):
                raise _wrong(f"there is no name {node.id!r} here; known are {', '.join(self.names)} and the ops", nearest(node.id, known))
        elif isinstance(node, ast.Attribute):
            if not isinstance(node.value, ast.Name) or node.value.id not in self.several or node.attr.startswith("_"):
                raise _wrong(f"a dot goes only after {' or '.join(self.several)}")
        elif isinstance(node, ast.Constant):
            if not isinstance(node.value, int | float) or abs(node.value) > 1e300:
                raise _wrong(f"{node.value!r} is not a number")
        elif not isinstance(node, _LEAVES):
            raise _wrong(f"{type(node).__name__.lower()} is not part of the grammar: numbers, + - * / **, comparisons, names and calls of ops")

    def _check_call(self, node: ast.Call) -> None:
        if not isinstance(node.func, ast.Name):
            raise _wrong("only ops can be called")
        name = node.func.id
        if name in self.of_text:
            if len(node.args) != 1 or node.keywords or not (isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)):
                raise _wrong(f"{name} takes one pattern of parameter paths, as in {name}(\"layers.*.weight\")")
        elif name not in (known := self._calls()):
            raise _wrong(f"there is no op {name!r}", nearest(name, known))

    def _calls(self) -> list[str]:
        return [*self.of_text, *(name for name, op in OPS.items() if op.public)]

    def _takes_text(self, node: ast.AST) -> bool:
        return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in self.of_text


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


class Reader:
    """Makes nodes of a checked formula. `values` are nodes, numbers, nodes by name where there are several, or None for what is not there.

    With a `label` each node is named by it and its part of the formula, so that a number that is not finite can be traced to it.
    """

    def __init__(self, values: Mapping[str, Any], dtype: str, of_text: Mapping[str, Callable[[str], Node]] | None = None, label: str = ""):
        self.values, self.dtype, self.of_text, self.label = values, dtype, of_text or {}, label

    def read(self, node: ast.AST) -> Node:
        try:
            if (reader := self._readers.get(type(node))) is None:
                raise TypeError("a list goes only after =, as in axis=[0, 1]")
            found = reader(self, node)
            found.name = found.name or (f"{self.label} {ast.unparse(node)}" if self.label and found.inputs else "")
            return found
        except SpecError:
            raise
        except (TypeError, ValueError, IndexError) as error:
            message = error.message if isinstance(error, ShapeError) else str(error)
            raise SpecError([Problem("/formula", "shape_mismatch", f"in {ast.unparse(node)!r}: {message}")]) from None  # type: ignore[arg-type]

    def _constant(self, node: ast.Constant) -> Node:
        return constant(float(node.value), self.dtype)  # type: ignore[arg-type]

    def _name(self, node: ast.Name) -> Node:
        found = self.values.get(node.id)
        if isinstance(found, int | float):
            return constant(float(found), self.dtype)
        if isinstance(found, Node):
            return found
        several = " or ".join(f"{node.id}.{name}" for name in found or ())
        detail = f"there are several; write {several}" if several else f"there is no {node.id!r} here"
        raise SpecError([Problem("/formula", "unknown_name", detail)])

    def _attribute(self, node: ast.Attribute) -> Node:
        group = node.value.id  # type: ignore[attr-defined]
        found = self.values.get(group)
        if isinstance(found, Mapping) and node.attr in found:
            return found[node.attr]
        known = list(found) if isinstance(found, Mapping) else []
        raise SpecError([Problem("/formula", "unknown_name", f"there is no {group}.{node.attr} here", nearest(node.attr, known))])

    def _binary(self, node: ast.BinOp) -> Node:
        left, right = self.read(node.left), self.read(node.right)
        self._same_rank(left, right)
        if isinstance(node.op, ast.Pow) and isinstance(node.right, ast.Constant):
            return left ** node.right.value
        return apply(_BINARY[type(node.op)], left, right)

    def _same_rank(self, left: Node, right: Node) -> None:
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
        if name in self.of_text:
            return self.of_text[name](node.args[0].value)  # type: ignore[attr-defined]
        attrs = {}
        for keyword in node.keywords:
            try:
                attrs[str(keyword.arg)] = _attribute(OPS[name], str(keyword.arg), ast.literal_eval(keyword.value))
            except ValueError:
                raise TypeError(f"{keyword.arg} must be a number or a list of numbers") from None
        return apply(name, *(self.read(argument) for argument in node.args), **attrs)

    _readers: Mapping[type[ast.AST], Callable[..., Node]] = {
        ast.Constant: _constant, ast.Name: _name, ast.Attribute: _attribute, ast.BinOp: _binary, ast.UnaryOp: _unary, ast.Compare: _comparison,
        ast.Call: _call}


def _attribute(op: Op, name: str, value: Any) -> Any:
    """An attribute of an op, if it is what the op's default and cases are: numbers, whole numbers, lists of them, True or False. Lists as tuples."""
    default = op.defaults.get(name)
    known = [v for v in (default, *(case.attrs.get(name) for case in op.cases)) if v is not None]
    kinds = {type(v) for v in known}
    number = int in kinds or float in kinds
    whole = isinstance(value, list | tuple) and all(type(n) is int for n in value)
    takes = {bool: bool in kinds, int: number, float: float in kinds, type(None): name in op.defaults and default is None,
             list: tuple in kinds and whole, tuple: tuple in kinds and whole}
    if known and not takes.get(type(value), False):
        named = {bool: "True or False", float: "a number", int: "a whole number", tuple: "a list of whole numbers"}
        words = " or ".join(word for kind, word in named.items() if kind in kinds and not (kind is int and float in kinds))
        raise TypeError(f"{name} of {op.name} is {words}, found {value!r}")
    return tuple(value) if isinstance(value, list) else value
