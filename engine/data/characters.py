"""Text as characters: the numbers that a model reads, and the alphabet they belong to."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from engine.data.table import BLOCK, Column

ASCII = 128


@lru_cache(maxsize=2)
def code_points(column: Column) -> np.ndarray:
    """The Unicode numbers of all characters, line feeds included: the column's own bytes (uint8) where all are ASCII, else int32."""
    content = column.content
    assert content is not None, "only columns of text have characters"
    if all(int(content[at:at + BLOCK].max()) < ASCII for at in range(0, len(content), BLOCK)):
        return content
    return np.frombuffer(content.tobytes().decode().encode("utf-32-le"), np.int32)


def alphabet(points: np.ndarray) -> tuple[str, ...]:
    """The distinct characters, in the order of their numbers."""
    seen = np.zeros(sys.maxunicode + 1, bool)
    for at in range(0, len(points), BLOCK):
        seen[points[at:at + BLOCK]] = True
    return tuple(map(chr, np.flatnonzero(seen).tolist()))


def places(characters: Sequence[str]) -> np.ndarray:
    """int32 [largest number + 1]: the place of each character among `characters`, -1 for others."""
    table = np.full(max(map(ord, characters)) + 1, -1, np.int32)
    table[[ord(c) for c in characters]] = np.arange(len(characters))
    return table


def unknown(points: np.ndarray, characters: Sequence[str]) -> list[str]:
    """Those characters of a text that are not among `characters`."""
    return sorted(set(alphabet(points)) - set(characters))
