"""Where the time of a step goes: TRAINYARD_DEBUG=1 prints the size of each plan, 2 the time of each group of rows, 3 each row's words as well."""

from __future__ import annotations

import sys
import time

import numpy as np

from engine.devices.cpu.machine import Table
from engine.plan.program import SECTIONS, Phase

REPEATS = 20


def timings(table: Table, sections: np.ndarray, arena: np.ndarray) -> list[tuple[str, float, list[str]]]:
    """(section, nanoseconds, kernels) of each group of a full batch, on one thread and a copy of the arena; the best of five times REPEATS runs."""
    copy, rows = arena.copy(), []
    for name, (first, last) in zip(SECTIONS, sections[0], strict=True):
        for group in range(first, last):
            best = min(_once(table, copy, group) for _ in range(5))
            rows.append((name, best * 1e9, [row.kernel for row in table.rows[table.groups[group, 0]: table.groups[group, 1]]]))
    return rows


def _once(table: Table, arena: np.ndarray, group: int) -> float:
    again = np.ascontiguousarray(np.repeat(table.groups[group:group + 1], REPEATS, axis=0))
    again[:, 5] = 0
    start = time.perf_counter()
    table.run(arena, 0, REPEATS, again)
    return (time.perf_counter() - start) / REPEATS


def show(phase: Phase, table: Table, sections: np.ndarray, arena: np.ndarray, level: int) -> None:
    """Print what `level` asks for about one phase, to standard error."""
    groups = sum(int(last - first) for first, last in sections[0])
    print(f"{phase.name}: {phase.steps} steps of {phase.batch} rows, {groups} groups, arena of {len(arena):,} bytes", file=sys.stderr)
    for name, nanoseconds, kernels in timings(table, sections, arena) if level >= 2 else []:
        print(f"  {name:8} {nanoseconds:10,.0f} ns  {', '.join(kernels)}", file=sys.stderr)
    for row in table.rows if level >= 3 else []:
        print(f"  {row.kernel}.{row.dtype} {row.size} {row.words}  {row.label}", file=sys.stderr)
