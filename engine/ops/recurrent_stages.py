"""What a step of a recurrent cell is made of, as data: a kernel of each device is made from it.

Everything about a step is kept in blocks [rows, units]: forwards the states and the other parts (gate g is part `states + g`), backwards the gates.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sums:
    """The parts of gates [first, last): a block times the weights, and the input's sums but for gates from `given` on."""

    first: int
    last: int
    given: int | None = None
    of: int = 0


@dataclass(frozen=True)
class Turned:
    """The blocks of gates [first, last) times the turned weights: added to the cotangent of the first states, or put into a block."""

    first: int
    last: int
    to: int | None = None


@dataclass(frozen=True)
class Each:
    """Text that is run for each unit of a row, one loop after the other, in which
        p0, p1, ...: the blocks     x: the input's sums, forwards
        e0, e1: the cotangents of the states     y: the parts kept of this step     b: the states before, backwards
    No loop has more than four arrays that are written, which is as many as a compiler takes the trouble to tell apart.
    """

    loops: tuple[str, ...]


@dataclass(frozen=True)
class Keep:
    """Backwards, the gates' blocks are kept: they are the cotangent of the input's sums. Forwards the parts are kept at the end of a step."""


Stage = Sums | Turned | Each | Keep
Walk = tuple[int, *tuple[Stage, ...]]
"""How many blocks a step needs, and its stages."""


def each(*loops: str) -> Each:
    """What is done for each row: loops over its units. A row that has ended keeps its states; its other blocks are zeros."""
    return Each(loops)
