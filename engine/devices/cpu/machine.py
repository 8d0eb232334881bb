"""Running plans on the CPU: tables for the compiled loop, an arena of aligned bytes, threads."""

from __future__ import annotations

import ctypes
import inspect
import threading
from collections.abc import Sequence
from functools import cache
from itertools import zip_longest
from typing import Any

import numpy as np

from engine.core import Address
from engine.devices.cpu import loop
from engine.kernels import library
from engine.kernels.blas import gemm_address
from engine.plan.memory import ALIGN
from engine.plan.plan import Group, Plan, Row

_HEADER = """\
from numba import njit, float64, int64, uint8
from engine.kernels.intrinsics import atomic_add, atomic_load, atomic_store, call_address, call_row, view_at

"""

FUNCTIONS = {"gemm": gemm_address}
"""Functions whose addresses rows ask for by name, by number type."""


@cache
def _loop() -> Any:
    """The module of the compiled loop."""
    parts = [f'@njit(nogil=True, cache=True, error_model="numpy")\n{inspect.getsource(f)}' for f in (loop.wait, loop.run_groups, loop.run_steps)]
    return library.load_module("loop", _HEADER + "\n\n".join(parts))


@cache
def _yield_address() -> int:
    return ctypes.cast(ctypes.CDLL(None).sched_yield, ctypes.c_void_p).value or 0


def arena(nbytes: int) -> np.ndarray:
    """Zeroed bytes that start at a cache line."""
    raw = np.zeros(nbytes + ALIGN, np.uint8)
    shift = -raw.ctypes.data % ALIGN
    return raw[shift: shift + nbytes]


class Table:
    """Plans made ready for the loop: addresses for kernel names, words end to end, barriers where threads change hands.

    `spans[i]` are the first and last group of the i-th plan.
    """

    def __init__(self, plans: Sequence[Plan]):
        self.rows: list[Row] = []
        self.spans: list[tuple[int, int]] = []
        groups: list[tuple[int, ...]] = []
        for plan in plans:
            shift, start = len(self.rows), len(groups)
            self.rows += plan.rows
            groups += [_entry(group, shift, following) for group, following in zip_longest(plan.groups, plan.groups[1:])]
            self.spans.append((start, len(groups)))
        starts = np.cumsum([0] + [len(row.words) for row in self.rows])[:-1]
        addresses = [library.address(row.kernel, row.dtype) for row in self.rows]
        self.tables = np.ascontiguousarray(np.array([addresses, starts], np.int64).T)
        self.words = np.array([_value(word, row.dtype) for row in self.rows for word in row.words], np.int64)
        self.groups = np.array(groups, np.int64).reshape(-1, 7)
        self.parallel = bool((self.groups[:, 3] < self.groups[:, 2]).any())
        self.addresses = (self.tables.ctypes.data, self.words.ctypes.data, self.groups.ctypes.data)

    def run(self, arena: np.ndarray, first: int, last: int, groups: np.ndarray | None = None) -> None:
        """Run groups [first, last), the table's or others, on this thread."""
        tables, words, own = self.addresses
        _loop().run_groups(arena.ctypes.data, tables, words, own if groups is None else groups.ctypes.data, first, last, 0, 0, 1, 0)


def _value(word: int | str | Address, dtype: str) -> int:
    if isinstance(word, Address):
        return word.array.ctypes.data
    return FUNCTIONS[word](dtype) if isinstance(word, str) else word


def _entry(group: Group, shift: int, following: Group | None) -> tuple[int, ...]:
    barrier = not (group.serial and following is not None and following.serial)
    return group.first + shift, group.last + shift, group.size, group.chunk, group.tile, int(barrier), group.gate


class Crew:
    """Threads that run steps of one program together. `stop_word`, set to 1 from anywhere, ends a run within one batch."""

    def __init__(self, threads: int = 1):
        self.threads = threads
        self.sync = arena(256).view(np.int64)
        self.stop_word = self.sync[24:25]

    def run_steps(self, table: Table, arena: np.ndarray, sections: np.ndarray, training: bool, steps: int, full_steps: int,
                  factors: np.ndarray, series: np.ndarray) -> int:
        """Run up to `steps` steps; how many were finished."""
        threads = self.threads if table.parallel else 1
        self.sync[:24] = 0
        shared = (arena.ctypes.data, *table.addresses, sections.ctypes.data, int(training), steps, full_steps,
                  factors.ctypes.data, series.ctypes.data, self.sync.ctypes.data)
        run = _loop().run_steps
        others = [threading.Thread(target=run, args=(*shared, t, threads, _yield_address()), daemon=True) for t in range(1, threads)]
        for thread in others:
            thread.start()
        finished = run(*shared, 0, threads, _yield_address())
        for thread in others:
            thread.join()
        return finished
