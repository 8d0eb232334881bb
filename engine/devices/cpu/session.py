"""A program at work on the CPU: its arena, its table, and the crew of threads that runs it."""

from __future__ import annotations

import numpy as np

from engine import env
from engine.devices.cpu.machine import Crew, Table, arena
from engine.devices.cpu.profile import show
from engine.devices.cpu.validate import validate
from engine.plan import control
from engine.plan.program import SECTIONS, Phase, Program


class Session:
    """An arena that holds a program. Views into it (`parameters`, `sums`, ...) are live.

    `evaluated` are the parameters with which the model is evaluated and kept: averages, where the optimiser keeps some.
    """

    def __init__(self, program: Program, *, seed: int = 0, threads: int = 1):
        self.program = program
        self.arena = arena(program.nbytes)
        self.arena[:control.NBYTES] = control.fresh(seed)
        self.whole = self.arena[:64].view(np.int64)
        self.number = self.arena[64:control.NBYTES].view(np.float64)
        self.crew = Crew(threads)
        plans = [plan for phase in program.phases.values() for plan in phase.plans]
        self.table = Table(plans)
        for (_, _, value), offset in program.constants.items():
            self.arena[offset: offset + len(value)] = np.frombuffer(value, np.uint8)
        spans = np.array(self.table.spans, np.int64).reshape(-1, 2, len(SECTIONS), 2)
        self.sections = {name: np.ascontiguousarray(spans[i]) for i, name in enumerate(program.phases)}
        self.parameters = {path: slot.view(self.arena) for path, slot in program.parameters.slots.items()}
        self.evaluated = {**self.parameters, **{path: slot.view(self.arena) for path, slot in program.averages.items()}}
        self.buffers = {path: slot.view(self.arena) for path, slot in program.buffers.slots.items()}
        for name in program.phases:
            self.clear_sums(name)
        if program.update is not None:
            program.update.write_scalars(self.arena)

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
        """Run up to `steps` batches from where the control block stands; how many were finished."""
        return self.crew.run_steps(self.table, self.arena, self.sections[phase.name], phase.training, steps, phase.full_steps, factors, series)

    def run_pass(self, phase: Phase) -> bool:
        """One whole pass of a phase in test mode, its sums from zero; False if the stop word ended it."""
        position, self.whole[control.POSITION // 8] = int(self.whole[control.POSITION // 8]), 0
        self.clear_sums(phase.name)
        nothing = np.zeros(2)
        finished = self.run(phase, phase.steps, nothing, nothing)
        self.whole[control.POSITION // 8] = position
        return finished == phase.steps

    def sums(self, phase: str) -> dict[str, np.ndarray]:
        """What the phase has added up so far, as float64 arrays, and what it has kept of rows, NaN for those to come."""
        slots = {**self.program.sums[phase].slots, **self.program.rows[phase].slots}
        return {name: slot.view(self.arena) for name, slot in slots.items()}

    def clear_sums(self, phase: str) -> None:
        self.program.sums[phase].view(self.arena)[:] = 0.0
        self.program.rows[phase].view(self.arena)[:] = np.nan

    def saved(self) -> dict[str, np.ndarray]:
        """Everything that decides what comes next, by name, as live arrays: control, parameters, buffers, state, and what the epoch has added up.

        Where there are averages, they are the parameters, and what is trained is beside them.
        """
        average = self.program.update.average if self.program.update else None
        slabs = {f"state/{name}": slab.view(self.arena) for name, slab in self.program.state.items() if name != average}
        trained = {path: self.parameters[path] for path in self.program.averages}
        groups = {"parameters": self.evaluated, "trained": trained, "buffers": self.buffers, "sums": self.sums("train")}
        named = {f"{group}/{name}": array for group, arrays in groups.items() for name, array in arrays.items()}
        return {"control": self.arena[:control.NBYTES], **named, **slabs}
