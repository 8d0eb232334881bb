"""A program at work, as Python sees it, whichever device runs it: arrays in an arena by name, and the counters of its control block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from engine.devices.cpu.machine import Crew
from engine.optim.step import OptimiserStep
from engine.plan import control
from engine.plan.program import Phase, Program
from engine.plan.slab import Slab, Slot


class Session(ABC):
    """An arena that holds a program. Ask for arrays (`parameters`, `sums`, ...) anew after each run: what was handed out before may be out of date,
    and is not looked at again.

    `evaluated` are the parameters with which the model is evaluated and kept: averages, where the optimiser keeps some.
    """

    crew: Crew

    def __init__(self, program: Program, memory: np.ndarray, seed: int):
        """`memory`: the bytes of the arena that Python sees, all zero."""
        self.program, self.memory = program, memory
        self.control = memory[:control.NBYTES]
        self.control[:] = control.fresh(seed)
        self.whole = memory[:64].view(np.int64)
        self.number = memory[64:control.NBYTES].view(np.float64)
        for (_, _, value), offset in program.constants.items():
            memory[offset: offset + len(value)] = np.frombuffer(value, np.uint8)
        self._parameters = {path: slot.view(memory) for path, slot in program.parameters.slots.items()}
        self._averages = {path: slot.view(memory) for path, slot in program.averages.items()}
        self._buffers = {path: slot.view(memory) for path, slot in program.buffers.slots.items()}
        for name in program.phases:
            self.clear_sums(name)
        if program.update is not None:
            program.update.write_scalars(memory)

    # ---------------------------------------------------------------- what a device does

    @abstractmethod
    def run(self, phase: Phase, steps: int, factors: np.ndarray, series: np.ndarray) -> int:
        """Run up to `steps` batches from where the control block stands; how many were finished.

        factors float64 [steps]: the schedule's factor at each step. series float64 [steps, 2]: each step's loss and gradient norm, written here.
        """

    @abstractmethod
    def look(self) -> None:
        """What the debug variables ask for, once the arena holds its first values."""

    @abstractmethod
    def lend(self, *spans: Slab | Slot) -> None:
        """Python is about to read or change these bytes of the memory."""

    @abstractmethod
    def renew(self, *spans: Slab | Slot) -> None:
        """Python is about to write all of these bytes."""

    # ---------------------------------------------------------------- arrays by name

    @property
    def arena(self) -> np.ndarray:
        """All bytes of the program."""
        return self.memory

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        self.lend(self.program.parameters)
        return self._parameters

    @property
    def evaluated(self) -> dict[str, np.ndarray]:
        self.lend(self.program.parameters, *self.program.averages.values())
        return {**self._parameters, **self._averages}

    @property
    def buffers(self) -> dict[str, np.ndarray]:
        self.lend(self.program.buffers)
        return self._buffers

    @property
    def state(self) -> dict[str, np.ndarray]:
        """The slabs of the optimiser's state."""
        self.lend(*self.program.state.values())
        return {name: slab.view(self.memory) for name, slab in self.program.state.items()}

    def remembered(self, path: str) -> dict[str, np.ndarray]:
        """What the optimiser remembers of one array; nothing of one that is not trained."""
        slots = {name: slab.slots[path] for name, slab in self.program.state.items() if path in slab.slots}
        self.lend(*(self.program.state[name] for name in slots))
        return {name: slot.view(self.memory) for name, slot in slots.items()}

    def batch(self, phase: Phase, last: bool) -> dict[str, np.ndarray]:
        """What the batch that was run last consists of, a full one or an epoch's last."""
        slots = phase.batches[int(last)]
        self.lend(*slots.values())
        return {name: slot.view(self.memory) for name, slot in slots.items()}

    def sums(self, phase: str) -> dict[str, np.ndarray]:
        """What the phase has added up so far, as float64 arrays, and what it has kept of rows, NaN for those to come."""
        self.lend(self.program.sums[phase], self.program.rows[phase])
        slots = {**self.program.sums[phase].slots, **self.program.rows[phase].slots}
        return {name: slot.view(self.memory) for name, slot in slots.items()}

    def clear_sums(self, phase: str) -> None:
        self.renew(self.program.sums[phase], self.program.rows[phase])
        self.program.sums[phase].view(self.memory)[:] = 0.0
        self.program.rows[phase].view(self.memory)[:] = np.nan

    def tune(self, chain: Sequence[OptimiserStep]) -> None:
        """Give the optimiser's steps other hyper-parameters."""
        assert self.program.update is not None
        self.lend(Slot(self.program.update.scalars_at, (self.program.update.nbytes,), "uint8"))
        self.program.update.tune(self.memory, chain)

    def saved(self) -> dict[str, np.ndarray]:
        """Everything that decides what comes next, by name, as arrays to be read or written: control, parameters, buffers, state, and what the epoch
        has added up.

        Where there are averages, they are the parameters, and what is trained is beside them.
        """
        average = self.program.update.average if self.program.update else None
        slabs = {f"state/{name}": slab for name, slab in self.state.items() if name != average}
        trained = {path: self._parameters[path] for path in self.program.averages}
        groups = {"parameters": self.evaluated, "trained": trained, "buffers": self.buffers, "sums": self.sums("train")}
        named = {f"{group}/{name}": array for group, arrays in groups.items() for name, array in arrays.items()}
        return {"control": self.control, **named, **slabs}

    # ---------------------------------------------------------------- passes

    def run_pass(self, phase: Phase) -> bool:
        """One whole pass of a phase in test mode, its sums from zero; False if the stop word ended it."""
        position, self.whole[control.POSITION // 8] = int(self.whole[control.POSITION // 8]), 0
        self.clear_sums(phase.name)
        nothing = np.zeros(2)
        finished = self.run(phase, phase.steps, nothing, nothing)
        self.whole[control.POSITION // 8] = position
        return finished == phase.steps
