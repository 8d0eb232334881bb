"""Named arrays in the arena, and slabs of them without gaps."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from engine.core import Shape, count


@dataclass(frozen=True)
class Slot:
    """A named array in the arena."""

    offset: int
    shape: Shape
    dtype: str

    @property
    def size(self) -> int:
        return count(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * np.dtype(self.dtype).itemsize

    def view(self, arena: np.ndarray) -> np.ndarray:
        return arena[self.offset: self.offset + self.nbytes].view(self.dtype).reshape(self.shape)


@dataclass
class Slab:
    """Arrays one behind the other without gaps."""

    offset: int
    dtype: str
    slots: dict[str, Slot] = field(default_factory=dict)
    nbytes: int = 0

    def add(self, name: str, shape: Shape) -> Slot:
        slot = Slot(self.offset + self.nbytes, shape, self.dtype)
        self.slots[name] = slot
        self.nbytes += slot.nbytes
        return slot

    def view(self, arena: np.ndarray) -> np.ndarray:
        return arena[self.offset: self.offset + self.nbytes].view(self.dtype)
