"""One node at work on a GPU by itself: its launches, in an arena of garbage, one by one or as a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from engine.core import Address, Launch, Node
from engine.devices.cuda import feed
from engine.devices.cuda.blas import open_blas
from engine.devices.cuda.machine import Table
from engine.devices.cuda.runtime import Room, Runtime, open_gpu
from engine.plan.memory import align
from engine.plan.plan import Plan, lay, make

POISON = 0xA5


class Launches:
    """The launches of a plan over a piece of the GPU's memory that begins with `host`."""

    def __init__(self, plan: Plan, host: np.ndarray, runtime: Runtime | None = None, with_library: bool = True):
        self.runtime = runtime or open_gpu()
        self.room, self.host = Room(self.runtime), host
        self.at = self.room.hold(host)
        blas = open_blas(self.runtime.arch, self.room.take) if with_library and runtime is None else None
        outside = [word.array for row in plan.rows for word in row.words if isinstance(word, Address)]
        self.table = Table(self.runtime, self.room, [(plan, 0)], self.at, feed.copied(self.room, outside), blas.plan if blas else None)
        self.launches = self.table.launches[0]

    def enqueue(self, times: int = 1) -> None:
        for _ in range(times):
            for launch in self.launches:
                launch.enqueue(self.runtime)

    def bytes(self, as_graph: bool) -> np.ndarray:
        """All bytes after the launches, on memory that is as it was in the beginning."""
        self.runtime.write(self.at, self.host)
        if as_graph:
            self.runtime.capture(self.enqueue).launch()
        else:
            self.enqueue()
        self.runtime.wait("the launches of a test")
        found = np.empty_like(self.host)
        self.runtime.read(self.at, found)
        return found


class Alone(Launches):
    """Those of one node, whose leaves have these values."""

    def __init__(self, node: Node, values: Mapping[Node, np.ndarray], runtime: Runtime | None = None, with_library: bool = True):
        placed, cursor = {}, 64
        for leaf, value in values.items():
            placed[leaf] = cursor
            cursor += align(value.nbytes + 64)
        plan = make([node], placed, cursor, device="cuda")
        host = np.full(align(cursor + plan.nbytes + 64), POISON, np.uint8)
        for offset, value in [*((placed[leaf], value) for leaf, value in values.items()), *plan.fixed]:
            host[offset: offset + value.nbytes] = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        self.node, self.offset = node, plan.at(node)
        super().__init__(plan, host, runtime, with_library)

    def value(self, as_graph: bool = False) -> np.ndarray:
        kind = np.dtype(self.node.dtype)
        return self.bytes(as_graph)[self.offset: self.offset + self.node.size * kind.itemsize].view(kind).reshape(self.node.shape)


def laid(launches: Sequence[Launch], nbytes: int, runtime: Runtime | None = None) -> Launches:
    """Launches over so many bytes of zeros, and room for what they share."""
    plan = lay(launches, nbytes)
    return Launches(plan, np.zeros(align(nbytes + plan.nbytes + 64), np.uint8), runtime)
