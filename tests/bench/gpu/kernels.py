"""Kernels by themselves: bytes and multiplications a second, and what a launch costs in a graph."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine import ops  # noqa: F401  the registry
from engine.core import OPS, Node, apply, leaf
from engine.devices.cuda.runtime import Runtime, open_gpu
from engine.optim.passes import launches
from engine.optim.rules import rules
from engine.plan.plan import Place
from tests.engine.cuda.alone import Alone, Launches, laid

LARGE = 1 << 26             # numbers of an array: far more than any cache holds
SMALL = 1 << 10
ROUNDS = 5
ELEMENTWISE = ("add", "tanh", "sigmoid", "gelu", "relu")
PASSES = ("descent", "momentum", "adam")
SHAPES = ((4096, 4096, 4096), (1024, 784, 512), (1024, 512, 512), (128, 784, 512))


@dataclass(frozen=True)
class Figure:
    """What was measured, and what it should be at least (or at most, where less is better)."""

    what: str
    found: str
    ratio: float
    target: float
    less: bool = False

    @property
    def reached(self) -> bool:
        return self.ratio <= self.target if self.less else self.ratio >= self.target


def seconds(runtime: Runtime, enqueue: Callable[[], None], times: int = 20) -> float:
    """Of one `enqueue`, as the best of a few rounds of a graph of several."""
    graph = runtime.capture(lambda: [enqueue() for _ in range(times)] and None)     # type: ignore[func-returns-value]
    best = float("inf")
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        graph.launch()
        runtime.wait("a measurement")
        best = min(best, time.perf_counter() - start)
    return best / times


def of_node(node: Node, leaves: list[Node]) -> Alone:
    rng = np.random.default_rng(0)
    return Alone(node, {one: rng.standard_normal(one.shape, np.float32) for one in leaves})


def copy_rate(runtime: Any) -> float:
    """Bytes a second that the driver copies on the GPU, read and written."""
    source, target = runtime.allocate(4 * LARGE), runtime.allocate(4 * LARGE)
    took = seconds(runtime, lambda: runtime._ask("cuMemcpyDtoDAsync", target, source, 4 * LARGE, runtime.stream))
    runtime.free(source)
    runtime.free(target)
    return 8 * LARGE / took


def bandwidth() -> list[Figure]:
    """Elementwise kernels and passes of optimisers as shares of that rate."""
    rate, figures = copy_rate(open_gpu()), []
    for name in ELEMENTWISE:
        leaves = [leaf((LARGE,), "float32") for _ in range(2 if name == "add" else 1)]
        figures.append(_share(name, of_node(apply(OPS[name], *leaves), leaves), 4 * LARGE * (len(leaves) + 1), rate))
    for name in PASSES:
        step: Any = rules.members[name]()
        count = len(step.arrays())
        room = 4 * LARGE
        work = laid(launches(f"rule_{name}", "float32", [Place(4096 + k * room) for k in range(count)], 64, LARGE, 1.0, "cuda"), 4096 + count * room)
        figures.append(_share(f"pass of {name}", work, room * (2 * count - 1), rate))        # gradients are only read
    return figures


def _share(what: str, work: Launches, nbytes: int, rate: float) -> Figure:
    found = nbytes / seconds(work.runtime, work.enqueue)
    return Figure(what, f"{found / 1e9:8.0f} GB/s of {rate / 1e9:.0f} copied", found / rate, 0.85)


def products() -> list[Figure]:
    """Matrix products in float32 beside torch.matmul's, with TF32 off."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    figures = []
    for m, k, n in SHAPES:
        a, b = leaf((m, k), "float32"), leaf((k, n), "float32")
        work = of_node(apply(OPS["matmul"], a, b, transpose_a=False, transpose_b=False), [a, b])
        ours = 2 * m * k * n / seconds(work.runtime, work.enqueue)
        theirs = 2 * m * k * n / _torch_product(torch, m, k, n)
        figures.append(Figure(f"product {m} x {k} x {n}", f"{ours / 1e12:8.1f} TFLOP/s, torch.matmul {theirs / 1e12:.1f}", ours / theirs, 0.9))
    return figures


def _torch_product(torch: Any, m: int, k: int, n: int, times: int = 20) -> float:
    """Seconds of one of PyTorch's."""
    a, b = torch.randn(m, k, device="cuda"), torch.randn(k, n, device="cuda")
    best = float("inf")
    for _ in range(ROUNDS + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(times):
            torch.matmul(a, b)
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best / times


def launch_cost() -> list[Figure]:
    """Microseconds from one launch of a graph to the next, of a kernel that does next to nothing."""
    one = leaf((SMALL,), "float32")
    work = of_node(apply(OPS["relu"], one), [one])
    took = 1e6 * seconds(work.runtime, work.enqueue, 1000)
    return [Figure("a launch in a graph", f"{took:8.2f} µs", took, 3.0, less=True)]

