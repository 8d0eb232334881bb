"""A program at work on the CPU: its arena, its table, and the crew of threads that runs it."""

from __future__ import annotations

import numpy as np

from engine import env
from engine.devices import session
from engine.devices.cpu.machine import Crew, Table, arena
from engine.devices.cpu.profile import show
from engine.devices.cpu.validate import validate
from engine.plan.program import SECTIONS, Phase, Program
from engine.plan.slab import Slab, Slot


class Session(session.Session):
    """Its arrays are views into the arena that runs: they are always live."""

    def __init__(self, program: Program, *, seed: int = 0, threads: int = 1):
        super().__init__(program, arena(program.nbytes), seed)
        self.crew = Crew(threads)
        plans = [plan for phase in program.phases.values() for plan in phase.plans]
        self.table = Table(plans)
        spans = np.array(self.table.spans, np.int64).reshape(-1, 2, len(SECTIONS), 2)
        self.sections = {name: np.ascontiguousarray(spans[i]) for i, name in enumerate(program.phases)}

    def look(self) -> None:
        """What the debug variables ask for, once the arena holds its first values: sizes and times, and every row against its oracle."""
        for phase in self.program.phases.values():
            if env.DEBUG:
                show(phase, self.table, self.sections[phase.name], self.arena, env.DEBUG)
            if env.VALIDATE and phase.full_steps:
                gather, compute = phase.plans[:2]
                copy = self.arena.copy()
                Table([gather]).run(copy, 0, len(gather.groups))
                validate(compute, copy)

    def run(self, phase: Phase, steps: int, factors: np.ndarray, series: np.ndarray) -> int:
        return self.crew.run_steps(self.table, self.arena, self.sections[phase.name], phase.training, steps, phase.full_steps, factors, series)

    def lend(self, *spans: Slab | Slot) -> None:
        """There is one memory only."""

    def renew(self, *spans: Slab | Slot) -> None:
        """There is one memory only."""
