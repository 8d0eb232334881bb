"""GPU kernels in plain Python whose threads take turns: each is a generator, and where it waits for others it yields the word and what it brings."""

from __future__ import annotations

import ast
from typing import Any

WORDS = {"syncthreads", "syncthreads_or", "syncthreads_count", "shfl_xor_sync"}


def taking_turns(text: str) -> str:
    """The file of a kernel in which every function that waits, or calls one that does, is a generator.

    >>> print(taking_turns("def swap(x):\\n    return cuda.shfl_xor_sync(-1, x, 1)\\ndef run(y):\\n    y[0] = swap(y[0])"))
    def swap(x):
        return (yield ('shfl_xor_sync', -1, x, 1))
    <BLANKLINE>
    def run(y):
        y[0] = (yield from swap(y[0]))
    """
    tree = ast.parse(text)
    functions = {node.name: {_called(call) for call in ast.walk(node) if isinstance(call, ast.Call)} for node in tree.body
                 if isinstance(node, ast.FunctionDef)}
    waiting = set(WORDS)
    while more := {name for name, called in functions.items() if called & waiting} - waiting:
        waiting |= more
    return ast.unparse(ast.fix_missing_locations(_Yielding(waiting).visit(tree)))


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


class _Yielding(ast.NodeTransformer):
    def __init__(self, waiting: set[str]) -> None:
        self.waiting = waiting

    def visit_Call(self, node: ast.Call) -> Any:
        self.generic_visit(node)
        name = _called(node)
        if name in WORDS:
            return ast.Yield(ast.Tuple([ast.Constant(name), *node.args], ast.Load()))
        return ast.YieldFrom(node) if name in self.waiting else node
