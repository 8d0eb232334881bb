"""Blocks of numba's simulator whose threads take turns, each up to where it waits for the others (see `turns`): always in the same order.

Its own blocks make each thread one of the system's, and ask all of them without a pause whether they wait by now. It knows no warps either.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from numba.cuda.simulator import kernel
from numba.cuda.simulator.kernelapi import Dim3, FakeCUDAModule

WARP = 32


@dataclass
class Turn:
    """Which thread of which block it is, and whether the last of the threads that may go on goes first."""

    block: Dim3
    thread: Dim3
    backwards: bool = False


now = Turn(Dim3(0, 0, 0), Dim3(0, 0, 0))


def run(self: Any, grid_point: Any, *args: Any) -> None:
    """One block, to its end."""
    now.block, count = Dim3(*grid_point), self._block_dim[0]
    working: dict[int, Generator[Any, Any, None]] = {}
    for number in sorted(range(count), reverse=now.backwards):
        now.thread = Dim3(number, 0, 0)
        work = self._f(*args)
        if work is not None:        # a kernel whose threads wait nowhere has done all by now
            working[number] = work
    waiting, answers = dict[int, tuple[Any, ...]](), dict[int, Any].fromkeys(working)
    while answers:
        for number in sorted(answers, reverse=now.backwards):
            now.thread = Dim3(number, 0, 0)
            try:
                waiting[number] = working[number].send(answers[number])
            except StopIteration:
                waiting.pop(number, None)
        answers = answered(waiting, count)


def answered(waiting: dict[int, tuple[Any, ...]], count: int) -> dict[int, Any]:
    """What each thread that may go on is told: all that have not returned where they wait for one word, or else those of whole warps that do.

    Raises RuntimeError if nobody may go on.
    """
    words = {word for word, *_ in waiting.values()}
    if len(words) == 1 and words != {"shfl_xor_sync"}:
        brought = [bool(value) for _, *values in waiting.values() for value in values]
        return dict.fromkeys(waiting, {"syncthreads_or": any(brought), "syncthreads_count": sum(brought)}.get(words.pop()))
    found: dict[int, Any] = {}
    for first in range(0, count, WARP):
        warp = range(first, min(first + WARP, count))
        if all(waiting.get(number, ("",))[0] == "shfl_xor_sync" for number in warp):
            found |= {number: waiting[number ^ waiting[number][3] if number ^ waiting[number][3] in warp else number][2] for number in warp}
    if waiting and not found:
        raise RuntimeError(f"threads wait for others that never come: {waiting}")
    return found


kernel.BlockManager.run = run
words: Any = FakeCUDAModule
words.threadIdx, words.blockIdx = property(lambda self: now.thread), property(lambda self: now.block)
