"""Where values live: each block of bytes has a first and a last moment of use, and blocks that are never alive together may share bytes."""

from __future__ import annotations

from dataclasses import dataclass

ALIGN = 64
PAGE, LARGE = 4096, 16384


def align(nbytes: int) -> int:
    """The next multiple of 64 bytes: a cache line, and the widest vector."""
    return (nbytes + ALIGN - 1) // ALIGN * ALIGN


def begin(at: int, nbytes: int) -> int:
    """Where a block of `nbytes` begins, at `at` or soon after: a cache line, or a page where it is large.

    A processor that compares the low 12 bits of addresses lets a load wait for a store a little before it in another block. Blocks that all begin
    at pages are read and written at the same place in step, and never a little apart.
    """
    unit = PAGE if nbytes >= LARGE else ALIGN
    return -(-at // unit) * unit


class Cursor:
    """Hands out blocks of bytes, one behind the other."""

    def __init__(self, at: int):
        self.at = at

    def take(self, nbytes: int) -> int:
        offset = begin(self.at, nbytes)
        self.at = offset + align(max(nbytes, 1))
        return offset


@dataclass
class Block:
    """`nbytes` alive from moment `first` to moment `last`, both included; `offset` is found by `assign`."""

    nbytes: int
    first: int
    last: int
    offset: int = -1


def assign(blocks: list[Block]) -> int:
    """Give each block an offset, largest blocks first, each in the lowest gap that is free during its life. Returns the bytes needed.

    >>> a, b, c = Block(64, 0, 1), Block(64, 1, 2), Block(64, 2, 3)
    >>> assign([a, b, c]), a.offset, b.offset, c.offset
    (128, 0, 64, 0)
    """
    placed: list[Block] = []
    total = 0
    for block in sorted(blocks, key=lambda b: -b.nbytes):
        offset = 0
        rivals = sorted((p for p in placed if p.first <= block.last and block.first <= p.last), key=lambda p: p.offset)
        for rival in rivals:
            if rival.offset >= offset + align(block.nbytes):
                break
            offset = max(offset, begin(rival.offset + align(rival.nbytes), block.nbytes))
        block.offset = offset
        placed.append(block)
        total = max(total, offset + align(block.nbytes))
    return total
