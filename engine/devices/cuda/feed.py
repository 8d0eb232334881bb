"""Data beside a GPU: arrays that are copied to it once, or, where they do not fit, batches that the CPU gathers while the GPU computes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.devices.cpu.machine import Table, arena
from engine.devices.cuda.machine import place
from engine.devices.cuda.runtime import Room, Runtime
from engine.plan import control
from engine.plan.program import Phase, Program

SHARE = 0.5     # of the memory that is free beside the arena: so much may the data take


def fits(runtime: Runtime, arrays: Sequence[np.ndarray]) -> bool:
    """Whether the GPU may hold all these arrays."""
    return sum({place(array): array.nbytes for array in arrays}.values()) <= SHARE * runtime.unused()


def copied(room: Room, arrays: Sequence[np.ndarray]) -> dict[tuple[int, int], int]:
    """Where the GPU has copies of the arrays."""
    return {where: room.hold(array) for where, array in {place(array): array for array in arrays}.items()}


class Gatherer:
    """Gathers batches with the CPU's kernels, in an arena of its own, into one of two pinned rooms: one is filled while the other is read."""

    def __init__(self, runtime: Runtime, program: Program, arena_at: int, memory: np.ndarray):
        """`memory`: the control block as the host sees it."""
        self.runtime, self.program, self.arena_at, self.memory = runtime, program, arena_at, memory
        self.tables = {name: [Table([plan]) for plan in phase.plans[::5]] for name, phase in program.phases.items()}
        self.ends = {name: [plan.base for plan in phase.plans[1::5]] for name, phase in program.phases.items()}     # of the bytes of a batch
        top = max(control.NBYTES, program.cursor, *(end for each in self.ends.values() for end in each))
        self.arena = arena(top)
        self.rooms = [runtime.pinned(top - program.cursor) for _ in range(2)]
        self.turn, self.filled = 0, 0

    def fill(self, phase: Phase, last: bool, ahead: int) -> None:
        """Make the batch that is so many batches behind the control block's."""
        self.arena[:control.NBYTES] = self.memory
        whole = self.arena[:64].view(np.int64)
        whole[control.POSITION // 8] += ahead
        whole[control.STEP // 8] += ahead if phase.training else 0
        table = self.tables[phase.name][int(last)]
        table.run(self.arena, *table.spans[0])
        self.turn, self.filled = 1 - self.turn, self.ends[phase.name][int(last)] - self.program.cursor
        self.rooms[self.turn][:self.filled] = self.arena[self.program.cursor:][:self.filled]

    def send(self) -> None:
        """Let the GPU have the batch that was made last, before whatever is launched next."""
        self.runtime.send(self.arena_at + self.program.cursor, self.rooms[self.turn][:self.filled])
