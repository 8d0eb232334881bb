"""Data beside a GPU: arrays that are copied to it once, or, where they do not fit, batches that the CPU gathers while the GPU computes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.core import Launch
from engine.devices.cpu.machine import Table, arena
from engine.devices.cuda import gates
from engine.devices.cuda.machine import place
from engine.devices.cuda.runtime import Room, Runtime
from engine.plan import control
from engine.plan.memory import align
from engine.plan.program import Phase, Program

SHARE = 0.5     # of the memory that is free beside the arena: so much may the data take
ROOM = 1 << 24  # bytes of batches that are made while others are computed with
MOST = 64       # such batches


def fits(runtime: Runtime, arrays: Sequence[np.ndarray], arena: int) -> bool:
    """Whether the GPU may hold all these arrays beside an arena of so many bytes."""
    return sum({place(array): array.nbytes for array in arrays}.values()) <= SHARE * (runtime.unused() - arena)


def copied(room: Room, arrays: Sequence[np.ndarray]) -> dict[tuple[int, int], int]:
    """Where the GPU has copies of the arrays."""
    return {where: room.hold(array) for where, array in {place(array): array for array in arrays}.items()}


class Gatherer:
    """Gathers batches with the CPU's kernels, in an arena of its own, and sends them to the GPU beside its queue.

    There is a ring of pinned places, and one of as many places on the GPU: step n of a stretch takes what is in place n modulo their number. At most
    half of them (`most`) are filled while the GPU computes with others, and it has finished with those when more are asked for: so no place is
    written while a copy or a step reads it.
    """

    def __init__(self, runtime: Runtime, program: Program, memory: np.ndarray, area: int):
        """`memory`: the control block as the host sees it. The control area is at offset `area` of the arena, and the GPU's ring behind it."""
        self.runtime, self.program, self.memory = runtime, program, memory
        self.area, self.ring = area, area + gates.NBYTES
        self.tables = {name: [Table([plan]) for plan in phase.plans[::5]] for name, phase in program.phases.items()}
        self.ends = {name: [plan.base for plan in phase.plans[1::5]] for name, phase in program.phases.items()}     # of the bytes of a batch
        top = max(control.NBYTES, program.cursor, *(end for each in self.ends.values() for end in each))
        self.arena = arena(top)
        self.width = align(max(top - program.cursor, 1))
        self.most = max(1, min(MOST, ROOM // self.width))
        self.pinned = runtime.pinned(self.nbytes)
        self.at, self.number, self.sent = 0, 0, None

    @property
    def nbytes(self) -> int:
        """Of either ring."""
        return 2 * self.most * self.width

    def launch(self, phase: Phase, last: bool) -> Launch:
        """The launch by which a step takes its batch."""
        nbytes = align(max(self.ends[phase.name][int(last)] - self.program.cursor, 0))
        return Launch("take_batch", "float32", (self.program.cursor, self.ring, self.width, 2 * self.most, self.area), nbytes // 16)

    def open(self, arena: int) -> None:
        """The arena is at this address."""
        self.at = arena + self.ring

    def begin(self) -> None:
        """Forget what was made; the next batch is for the first step of a stretch."""
        if self.sent is not None:       # a stretch that was stopped may have left copies under way
            self.runtime.settle(self.sent)
        self.number, self.sent = 0, None

    def make(self, phase: Phase, last: bool, ahead: int, count: int) -> None:
        """Make `count` batches of one kind, the first of them so many batches behind the control block's, and send each as soon as it is there."""
        table, nbytes = self.tables[phase.name][int(last)], self.ends[phase.name][int(last)] - self.program.cursor
        whole = self.arena[:64].view(np.int64)
        for number in range(ahead, ahead + count):
            self.arena[:control.NBYTES] = self.memory
            whole[control.POSITION // 8] += number
            whole[control.STEP // 8] += number if phase.training else 0
            table.run(self.arena, *table.spans[0])
            place = self.number % (2 * self.most) * self.width
            self.pinned[place: place + nbytes] = self.arena[self.program.cursor:][:nbytes]
            self.runtime.send(self.at + place, self.pinned[place: place + nbytes])
            self.number += 1
        self.sent = self.runtime.mark()

    def hand_over(self) -> None:
        """Whatever is launched from now on finds all that was made."""
        self.runtime.heed(self.sent)
