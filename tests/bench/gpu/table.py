"""python -m tests.bench --device cuda: everything that is promised of a GPU, measured and printed beside its target."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.devices.cuda import probe
from tests.bench.contest import contest
from tests.bench.gpu.kernels import Figure, bandwidth, launch_cost, products
from tests.bench.service import SMALL, Connection, columns, first_epoch
from tests.bench.workloads import ON_GPU
from tests.serving import serving

MODES = {"torch": ("pytorch", ("cuda eager", "cuda compile", "cuda graph")), "jax": ("jax", ("cuda",))}
TARGETS = {"W1": 3.0, "W2": 3.0, "W3": 3.0, "W4 at 1024": 1.2, "W5 at 1024": 1.2}       # times as fast as the best of PyTorch
FIRST_EPOCH = 150.0         # milliseconds from a POST


def step_times(name: str, against: list[str], rounds: int) -> tuple[dict[str, Any], list[Figure]]:
    """A workload by all who run it on this GPU, and ours against the best of PyTorch's."""
    peers = {peer: MODES[peer] for peer in against if peer in MODES}
    with tempfile.TemporaryDirectory() as folder:
        result: dict[str, Any] = contest(name, ON_GPU[name].save(Path(folder)), list(peers), 4, rounds, ours="cuda", peers=peers)
    for row in result["rows"]:
        ratio = result["ratios"].get(f"{row['who']} {row['mode']}")
        told = f"  ours is {ratio:.2f}x as fast" if ratio else ""
        print(f"{name:10} {row['who']:8} {row['mode']:12} best {row['best']:9.1f} µs  median {row['median']:9.1f} µs  loss {row['loss']:.6f}{told}")
    if result["losses_disagree"]:
        print(f"    VOID: losses disagree with {', '.join(result['losses_disagree'])}")
    torch = [ratio for who, ratio in result["ratios"].items() if who.startswith("pytorch")]
    if not torch or name not in TARGETS:
        return result, []
    return result, [Figure(f"{name}, a step", f"{min(torch):8.2f} times as fast as PyTorch's best", min(torch), TARGETS[name])]


def first_epochs() -> list[Figure]:
    """From the POST of a W1-sized job to its first epoch event, by a service whose worker is warm and whose kernels are there."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "home", workers=1) as server:
        dataset = Connection(server.url).ask("POST", "/v1/datasets", {"name": "small", **columns(SMALL, 200)})["id"]
        first_epoch(server, dataset, "cuda")        # makes what is not there
        found = first_epoch(server, dataset, "cuda")
        return [Figure("POST to first epoch", f"{found:8.0f} ms, median", found, FIRST_EPOCH, less=True)]


def figures(against: list[str]) -> Iterator[tuple[str, Callable[[], list[Figure]]]]:
    """What is measured besides steps."""
    yield "bandwidth", bandwidth
    if "torch" in against:
        yield "products", products
    yield "launches", launch_cost
    yield "service", first_epochs


def show(found: list[Figure]) -> None:
    """The table with its targets."""
    print(f"\n{'':34} {'measured':44} {'ratio':>8}  target")
    for figure in found:
        target = f"{'at most' if figure.less else 'at least'} {figure.target:g}"
        print(f"{figure.what:34} {figure.found:44} {figure.ratio:8.3f}  {target:14} {'' if figure.reached else 'NOT REACHED'}")


def main(names: list[str], against: list[str], rounds: int, file: Path | None, about: dict[str, str]) -> int:
    """The exit status: 2 where there is no GPU, else 0, whatever was measured."""
    if reason := probe.reason():
        print(f"there is no GPU to measure: {reason}", file=sys.stderr)
        return 2
    gpu = probe.chosen()
    results: dict[str, Any] = {"versions": {**about, "gpu": f"{gpu.name}, {gpu.capability / 10}, {gpu.memory / 1e9:.0f} GB"}}
    print("  ".join(f"{name} {value}" for name, value in results["versions"].items()))
    found: list[Figure] = []
    for name in names or list(ON_GPU):
        if name in ON_GPU:
            results[name], more = step_times(name, against, rounds)
            found += more
    for name, measure in figures(against):
        if not names or name in names:
            more = measure()
            results[name], found = [asdict(figure) for figure in more], [*found, *more]
    show(found)
    if file:
        file.write_text(json.dumps(results, indent=1))
    return 0
