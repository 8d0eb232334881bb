"""A GPU that is none: a runtime whose memory is the host's, whose launches are recorded and carried out by the CPU's kernels."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from engine.devices.cpu.machine import arena
from engine.devices.cuda.runtime import Graph, Kind
from engine.kernels import library

_CALL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
GUARD = 64          # bytes behind each piece of memory that nobody may write
POISON = 0xA5


@dataclass(frozen=True)
class Launched:
    """One launch that was asked for."""

    kernel: Kind
    blocks: int
    threads: int
    arguments: tuple[int, ...]


class Recording:
    """A graph: launches that are made again."""

    def __init__(self, runtime: Host, launches: list[Launched]):
        self.runtime, self.launches = runtime, launches

    def launch(self) -> None:
        self.runtime.graphs.append(len(self.launches))
        self.runtime.asked.append("graph")
        for one in self.launches:
            self.runtime.enqueue(partial(self.runtime.carry_out, one))


@dataclass
class Host:
    """Pieces of memory by address. `done` are all launches that were made, `graphs` the lengths of the graphs that were, in order.

    `after` is called with each launch that was carried out. Of copies beside the queue and launches, those that are `late` are done when they have to
    be, and no sooner.
    """

    arch: int = 90
    processors: int = 4
    room: int = 1 << 30
    pieces: dict[int, np.ndarray] = field(default_factory=dict)
    done: list[Launched] = field(default_factory=list)
    graphs: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    after: Callable[[Launched], None] | None = None
    stream: int = 7
    late: str = ""
    _recorded: list[Launched] | None = None
    _queue: list[Callable[[], None]] = field(default_factory=list)
    _sent: list[tuple[int, np.ndarray, bytes]] = field(default_factory=list)
    _arrived: int = 0

    def unused(self) -> int:
        return self.room - sum(len(piece) for piece in self.pieces.values())

    def allocate(self, nbytes: int) -> int:
        assert self._recorded is None, "nothing is allocated while a graph is recorded"
        piece = arena(nbytes + GUARD)
        piece[:] = POISON
        self.pieces[piece.ctypes.data] = piece
        return piece.ctypes.data

    def free(self, pointer: int) -> None:
        assert (self.pieces.pop(pointer)[-GUARD:] == POISON).all(), "something was written behind a piece of memory"

    def pinned(self, nbytes: int) -> np.ndarray:
        return np.zeros(nbytes, np.uint8)

    def _bytes(self, pointer: int, nbytes: int) -> np.ndarray:
        """Bytes of one piece of memory, which hold them all."""
        assert self._recorded is None, "nothing is copied while a graph is recorded"
        for start, piece in self.pieces.items():
            if start <= pointer and pointer + nbytes <= start + len(piece) - GUARD:
                return piece[pointer - start:][:nbytes]
        raise AssertionError(f"no piece of memory holds {nbytes} bytes at {pointer}")

    def write(self, pointer: int, array: np.ndarray) -> None:
        assert array.flags.c_contiguous
        self.asked.append("write")
        self._catch_up()
        self._bytes(pointer, array.nbytes)[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    def send(self, pointer: int, array: np.ndarray) -> None:
        self.asked.append("send")
        self._sent.append((pointer, array, array.tobytes()))
        if self.late != "copies":
            self.settle(self.mark())

    def mark(self) -> int:
        return len(self._sent)

    def heed(self, mark: int) -> None:
        self.asked.append("heed")
        self.enqueue(partial(self.settle, mark))

    def settle(self, mark: int) -> None:
        for pointer, array, held in self._sent[self._arrived: mark]:
            assert array.tobytes() == held, "pinned bytes were changed before they were copied"
            self._bytes(pointer, array.nbytes)[:] = array
        self._arrived = max(self._arrived, mark)

    def read(self, pointer: int, array: np.ndarray) -> None:
        assert array.flags.c_contiguous
        self.asked.append("read")
        self._catch_up()
        array.reshape(-1).view(np.uint8)[:] = self._bytes(pointer, array.nbytes)

    def load(self, kernels: Collection[Kind]) -> Mapping[Kind, Any]:
        return {kind: kind for kind in kernels}

    def launch(self, kernel: Any, blocks: int, threads: int, arguments: tuple[int, ...]) -> None:
        one = Launched(kernel, blocks, threads, arguments)
        if self._recorded is not None:
            self._recorded.append(one)
        else:
            self.enqueue(partial(self.carry_out, one))

    def capture(self, enqueue: Callable[[], None]) -> Graph:
        self._recorded = []
        enqueue()
        found, self._recorded = self._recorded, None
        return Recording(self, found)

    def wait(self, what: str) -> None:
        self.asked.append("wait")
        self._catch_up()

    def enqueue(self, what: Callable[[], None]) -> None:
        """Do it when everything before is done."""
        self._queue.append(what)
        if self.late != "launches":
            self._catch_up()

    def _catch_up(self) -> None:
        while self._queue:
            self._queue.pop(0)()

    # ---------------------------------------------------------------- what a launch does

    def carry_out(self, one: Launched) -> None:
        at, words, size, grain, *gates = one.arguments
        self.done.append(one)
        if all(gate == 0 or ctypes.c_int64.from_address(at + gate).value for gate in gates):
            self.make(one.kernel, at, words, size, grain)
        if self.after:
            self.after(one)

    def make(self, kernel: Kind, at: int, words: int, size: int, grain: int) -> None:
        _CALL(library.address(*kernel))(at, words, 0, size)
