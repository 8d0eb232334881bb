"""Fields of layers whose windows move over one, two or three axes between batch and channels: one number for all axes, or one for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Discriminator, Field, Tag

from engine.core import Node
from engine.errors import Problem, ShapeError, SpecError
from engine.nn.layer import Size, one, real

AXES = {1: "[steps, channels]", 2: "[height, width, channels]", 3: "[depth, height, width, channels]"}

Ints = Sequence[int]
_Amount = Annotated[int, Field(strict=True, ge=0)]
Lengths = Annotated[Annotated[Size, Tag("number")] | Annotated[list[Size], Field(min_length=1, max_length=3), Tag("list")],
                    Discriminator(lambda value: "list" if isinstance(value, list | tuple) else "number")]
Padding = Annotated[Annotated[_Amount, Tag("number")] | Annotated[Literal["valid", "same"], Tag("word")] | Annotated[list[_Amount], Tag("list")],
                    Discriminator(lambda value: "list" if isinstance(value, list | tuple) else "word" if isinstance(value, str) else "number")]
Dimensions = Annotated[int, Field(strict=True, ge=1, le=3)]


def rank_of(lengths: int | Ints, dimensions: int | None) -> int:
    """Over how many axes windows move: as many as lengths are listed; for one number `dimensions`, by default two."""
    if isinstance(lengths, int):
        return dimensions or 2
    if dimensions not in (None, len(lengths)):
        raise SpecError([Problem("/dimensions", "invalid_value", f"{len(lengths)} lengths are listed: dimensions cannot be {dimensions}")])
    return len(lengths)


Number = TypeVar("Number", int, float)


def each(field: str, value: Number | Sequence[Number], rank: int) -> tuple[Number, ...]:
    """A number for each axis. Raises SpecError where as many are not listed."""
    if isinstance(value, int | float):
        return (value,) * rank
    if len(value) != rank:
        raise SpecError([Problem(f"/{field}", "invalid_value", f"one number, or one for each of the {rank} axes, is expected, found {list(value)}")])
    return tuple(value)


def sides(field: str, value: int | Ints, rank: int) -> tuple[Ints, Ints]:
    """A number before and after each axis. A list has one for each axis, or two: before and after the first axis, and so on."""
    if not isinstance(value, int) and len(value) == 2 * rank:
        return tuple(value[::2]), tuple(value[1::2])
    both = each(field, value, rank)
    return both, both


def around(padding: int | str | Ints, window: Ints) -> tuple[Ints, Ints]:
    """What is put before and after each axis, for windows of these lengths. "same" puts the odd element before, as Flux does."""
    if isinstance(padding, str):
        total = [k - 1 if padding == "same" else 0 for k in window]
        return tuple(t - t // 2 for t in total), tuple(t // 2 for t in total)
    return sides("padding", padding, len(window))


def grid(kind: str, x: Sequence[Any], rank: int, dtype: str) -> Node:
    """The one array that a layer works on, as floats: batch, `rank` axes, channels."""
    node = one(kind, x)
    if node.ndim == rank + 1:
        raise ShapeError(f"{kind} expects {AXES[rank]} for each row, found {list(node.shape[1:])}; where channels are missing, reshape to "
                         f"{[*node.shape[1:], 1]} before it")
    return real(one(kind, x, rank + 1, AXES[rank]), dtype)
