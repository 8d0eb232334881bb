"""Where in a function's text a number became NaN or infinite."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from engine.autodiff.variable import Variable, nodes_of, tracing
from engine.core import FLOATS, Node, apply, topological
from engine.errors import TrainyardError
from engine.graph import interpret

_OURS = str(Path(__file__).parent.parent)


def origin(f: Callable[..., Any], *args: Any) -> str | None:
    """The op of the first value in `f(*args)` that is not finite and the line that called it; None where all are, or where it is the arguments."""
    with tracing(), _lines() as lines:
        value = f(*(Variable(a).inside for a in args))
    nodes = [node for node in topological(nodes_of(value)) if node.dtype in FLOATS]
    try:
        values = dict(zip(nodes, interpret.run(nodes), strict=True))
    except TrainyardError:
        return None
    bad = {node for node, value in values.items() if not (np.abs(value) <= np.finfo(node.dtype).max).all()}
    first = next((node for node in nodes if node in bad and node.inputs and not bad.intersection(node.inputs)), None)
    return None if first is None else " ".join(filter(None, (first.op.name, lines.get(first), f"[{first.name}]" if first.name else "")))


@contextmanager
def _lines() -> Iterator[dict[Node, str]]:
    """While a function runs: the line outside of the engine from which each node was made."""
    found: dict[Node, str] = {}

    def look(frame: FrameType, event: str, value: Any) -> None:
        if event == "return" and frame.f_code is apply.__code__ and isinstance(value, Node):
            found.setdefault(value, _caller(frame))

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        yield found
    finally:
        sys.setprofile(before)


def _caller(frame: FrameType | None) -> str:
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    if frame is None:
        return ""
    name, line = frame.f_code.co_filename, frame.f_lineno
    text = linecache.getline(name, line).strip()
    return f"at {Path(name).name}, line {line}" + (f": {text}" if text else "")
