"""How a device runs an op: launches and the scratch bytes they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Scratch:
    """Bytes that one node's launches share among themselves."""

    nbytes: int


@dataclass(frozen=True, eq=False)
class Address:
    """An array outside the arena, which rows of a plan read: the device puts in where it has it."""

    array: np.ndarray


@dataclass(frozen=True)
class Launch:
    """One row of a plan before addresses are known.

    `words` are int64: a Node stands for the byte offset of its slot, a Scratch for its offset, an int for itself, a float for its bits, a text for
    the address of a function that the device has ("gemm"), an Address for where an array is.
    The kernel makes `[0, size)` of its output in any order of ranges whose edges are multiples of `grain`.
    `cost` is nanoseconds per unit of `size` on one core, roughly: it decides the fixed chunks that threads share.
    An `elementwise` launch may run tile by tile with its neighbours; its tiles are multiples of `grain` (a row, where an operand is broadcast).
    A `gate` is the byte offset of an int64: while that is 0 the row is passed over. 0 stands for none.
    """

    kernel: str
    dtype: str
    words: tuple[Any, ...]
    size: int
    grain: int = 1
    cost: float = 1.0
    elementwise: bool = False
    gate: int = 0
