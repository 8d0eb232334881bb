"""Shapes and number types."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import numpy as np

from engine.errors import ShapeError

Shape = tuple[int, ...]
FLOATS = ("float32", "float64")
DTYPES = ("float32", "float64", "int32", "int64", "uint8")


def count(shape: Iterable[int]) -> int:
    """How many elements a shape has."""
    total = 1
    for n in shape:
        total *= n
    return total


def broadcast_shape(*shapes: Shape) -> Shape:
    """The shape that all shapes stretch to, by numpy's rule.

    >>> broadcast_shape((3, 1), (4,))
    (3, 4)
    """
    try:
        return tuple(int(n) for n in np.broadcast_shapes(*shapes))
    except ValueError:
        raise ShapeError(f"shapes {' and '.join(str(list(s)) for s in shapes)} do not fit together: "
                         "axes, counted from the last, must be equal or 1") from None


def bits(number: float) -> int:
    """The float64 bits of a number, as the int64 that carries it in a launch's words."""
    return struct.unpack("<q", struct.pack("<d", number))[0]
