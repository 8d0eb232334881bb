"""Plans made ready for a GPU: each row one bound launch, the words of all rows end to end in one table on the device.

A launch may be behind two gates, int64 in the arena that are 0 while it is to do nothing: the row's own, and that of its section of the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.core import Address
from engine.devices.cuda.runtime import Room, Runtime
from engine.errors import DeviceError
from engine.kernels import grid
from engine.plan.plan import Plan, Row

THREADS = 2048      # that a multiprocessor holds at once: a launch has no more blocks than fill all of them
PRODUCT = "product_"
"""What the kernels are called whose rows a library may make instead."""

FUNCTIONS: dict[str, Callable[[str], int]] = {}
"""Functions whose addresses rows ask for by name, by number type: a GPU has none."""

Call = Callable[[int, int], None]
"""What a library does instead of a launch: (handle of the queue, address of the arena)."""

Library = Callable[[Row], Call | None]
"""The library's way to make a row, if it has one."""

Addresses = Mapping[tuple[int, int], int]
"""Where the device has arrays that are outside the arena, by their address and bytes on the host."""


@dataclass(frozen=True)
class Bound:
    """One launch with all it needs, or a library's call instead. `arguments`: arena, words, size, grain, gate, when."""

    kernel: Any
    blocks: int
    threads: int
    arguments: tuple[int, ...]
    row: Row
    call: Call | None = None

    def enqueue(self, runtime: Runtime) -> None:
        """Raises DeviceError, which names the kernel and its node."""
        try:
            if self.call is not None:
                self.call(runtime.stream, self.arguments[0])
            else:
                runtime.launch(self.kernel, self.blocks, self.threads, self.arguments)
        except DeviceError as error:
            raise DeviceError(f"kernel {self.row.kernel}.{self.row.dtype} for {self.row.label}: {error}") from error


class Table:
    """Plans, each behind the gate of its section, over the arena at an address. `launches[i]` are those of the i-th plan.

    A library heeds no gates: it is asked only for rows of sections behind the gate `harmless`, where it does no harm to make them once more.
    """

    def __init__(self, runtime: Runtime, room: Room, plans: Sequence[tuple[Plan, int]], arena: int, addresses: Addresses,
                 library: Library | None = None, harmless: int = 0):
        rows = [row for plan, _ in plans for row in plan.rows]
        words = np.array([_value(word, row.dtype, addresses) for row in rows for word in row.words], np.int64)
        self.at, self.nbytes = room.hold(words), words.nbytes
        self._starts = iter(np.cumsum([0, *(len(row.words) for row in rows)]))
        self._runtime, self._arena, self._library, self._harmless = runtime, arena, library, harmless
        self._kernels = runtime.load({(row.kernel, row.dtype) for row in rows if row.size})
        self.launches = [list(self._bound(plan, when)) for plan, when in plans]

    def _bound(self, plan: Plan, when: int) -> Iterator[Bound]:
        gates = {r: group.gate for group in plan.groups for r in range(group.first, group.last)}
        for number, row in enumerate(plan.rows):
            words = self.at + 8 * int(next(self._starts))
            if row.size:
                possible = row.kernel.startswith(PRODUCT) and not gates[number] and when == self._harmless
                call = self._library(row) if self._library and possible else None
                blocks, threads = _shape(row, self._runtime.processors)
                arguments = (self._arena, words, row.size, row.grain, gates[number], when)
                yield Bound(self._kernels[row.kernel, row.dtype], blocks, threads, arguments, row, call)


def _shape(row: Row, processors: int) -> tuple[int, int]:
    return grid.shape(row.kernel, row.size, row.grain, processors * (THREADS // grid.threads(row.kernel)))


def _value(word: int | str | Address, dtype: str, addresses: Addresses) -> int:
    if isinstance(word, Address):
        return addresses[place(word.array)]
    if isinstance(word, str):
        if word not in FUNCTIONS:
            raise DeviceError(f"a GPU has no function {word!r}")
        return FUNCTIONS[word](dtype)
    return word


def place(array: np.ndarray) -> tuple[int, int]:
    """What tells arrays apart: views of the same bytes are the same."""
    return array.ctypes.data, array.nbytes
