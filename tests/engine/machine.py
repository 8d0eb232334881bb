"""A machine for tests: runs the launches of one node, or of a graph, kernel by kernel, each over ranges that are cut anew."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.core import CONSTANT, LEAF, Launch, Node, Scratch, bits
from engine.devices.cpu.machine import FUNCTIONS
from engine.kernels import library

_CALL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


def run(node: Node, values: Mapping[Node, np.ndarray], cuts: int = 1) -> np.ndarray:
    """The value of one node on the CPU kernels, from the values of its inputs. Slots start as garbage; addresses are absolute (arena 0)."""
    homes: dict[Any, np.ndarray] = {}
    out = np.full(max(node.size, 1), 77, node.dtype)
    homes[node] = out
    for launch in node.op.launch(node):
        words = np.array([FUNCTIONS[w](launch.dtype) if isinstance(w, str) else _word(w, homes, values) for w in launch.words], np.int64)
        function = _CALL(library.address(launch.kernel, launch.dtype))
        for begin, end in ranges(launch, cuts):
            function(0, words.ctypes.data, begin, end)
    return out[:node.size].reshape(node.shape)


def ranges(launch: Launch, cuts: int) -> Sequence[tuple[int, int]]:
    """`[0, size)` in about `cuts` ranges whose edges are multiples of the grain, last first."""
    step = max(1, -(-launch.size // (cuts * launch.grain))) * launch.grain
    return [(i, min(i + step, launch.size)) for i in range(0, launch.size, step)][::-1]


def _word(word: Any, homes: dict[Any, np.ndarray], values: Mapping[Node, np.ndarray]) -> int:
    if isinstance(word, float):
        return bits(word)
    if isinstance(word, Scratch):
        return homes.setdefault(word, np.full(word.nbytes + 64, 77, np.uint8)).ctypes.data
    if isinstance(word, Node):
        if word not in homes:
            homes[word] = np.ascontiguousarray(value_of(word, values)).ravel()
        return homes[word].ctypes.data
    return int(word)


def value_of(node: Node, values: Mapping[Node, np.ndarray]) -> np.ndarray:
    """The array of a leaf or constant; of a stretched or renumbered one, by numpy."""
    if node in values:
        return values[node]
    if node.op is CONSTANT:
        return np.asarray(node.attrs["value"], node.dtype)
    assert node.op is not LEAF, f"{node!r} has no value"
    return np.asarray(node.op.oracle(*(value_of(n, values) for n in node.inputs), **node.attrs)).astype(node.dtype)
