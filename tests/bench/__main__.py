"""python -m tests.bench [W1 W2 ...] [--against torch,jax,sklearn] [--threads 1] [--rounds 7] [--json FILE] [--device cuda]

Times per training step, ours and the peers' in one run, as ratios. `python -m tests.bench service` measures the service, `load` the same under load,
`python -m tests.bench --parity` compares numbers with PyTorch's.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from engine.train import Job
from tests.bench.arithmetic import multiply_adds, sgemm_rate
from tests.bench.contest import contest
from tests.bench.load import measure_load
from tests.bench.memory import measure_memory
from tests.bench.peers import ours, sklearn
from tests.bench.scaling import measure_scaling
from tests.bench.service import measure_service
from tests.bench.workloads import WORKLOADS, Arrays, Workload, load


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "cpu": platform.processor() or platform.machine()}
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            found["cpu"] = line.split(":", 1)[1].strip()
            break
    for name in ("numpy", "numba", "scipy", "torch", "jax", "scikit-learn", "numba-cuda", "cuda-core", "nvidia-nvvm", "nvidia-cublas"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def bench(name: str, against: list[str], threads: int, rounds: int) -> dict[str, object]:
    workload = WORKLOADS[name]
    against = [p for p in against if (p == "sklearn") == (name == "W9")]
    with tempfile.TemporaryDirectory() as folder:
        path = workload.save(Path(folder))
        if "sklearn" in against:
            columns, _ = load(path)
            np.savez(path, **columns, **sklearn.initial(workload, columns))  # type: ignore[arg-type]
        columns, _ = load(path)
        limit = step_limit(workload, columns) / threads
        result = contest(name, path, against, threads, rounds)
    for row in result["rows"]:  # type: ignore[attr-defined]
        ratio = result["ratios"].get(f"{row['who']} {row['mode']}")  # type: ignore[attr-defined]
        print(f"{name:3} {row['who']:8} {row['mode']:8} best {row['best']:9.1f} µs  median {row['median']:9.1f} µs  loss {row['loss']:.6f}"
              + (f"  ours is {ratio:.2f}x as fast" if ratio else f"  {limit / row['median']:.0%} of the limit"), flush=True)
    result["limit"] = limit
    if result["losses_disagree"]:
        print(f"    VOID: losses disagree with {', '.join(result['losses_disagree'])}")  # type: ignore[arg-type]
    return result


def step_limit(workload: Workload, columns: Arrays) -> float:
    """Microseconds of a step's products on one core, at the rate of numpy's."""
    job = Job.model_validate(ours.document(workload, [name for name in columns if name != "y"], *columns["y"].shape[1:]))
    return multiply_adds(job, ours.table_of(columns)) / sgemm_rate() / 1000


OTHERS = {"service": measure_service, "load": measure_load, "memory": measure_memory, "scaling": measure_scaling}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("workloads", nargs="*", default=[])
    parser.add_argument("--against", default="torch,jax,sklearn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--parity", action="store_true", help="compare values, gradients and five training steps with PyTorch's")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda: steps, kernels and first epochs on a GPU, with their targets")
    arguments = parser.parse_args()
    if arguments.parity:
        from tests.bench.parity import parity  # needs PyTorch
        sys.exit(0 if parity() else 1)
    if arguments.device == "cuda":
        from tests.bench.gpu import table  # needs CUDA's packages
        sys.exit(table.main(arguments.workloads, arguments.against.split(","), max(5, arguments.rounds), arguments.json, versions()))
    names = arguments.workloads or [*WORKLOADS, *OTHERS]
    results: dict[str, object] = {"versions": versions()}
    for name in names:
        against = [p for p in arguments.against.split(",") if p]
        results[name] = OTHERS[name]() if name in OTHERS else bench(name, against, arguments.threads, max(5, arguments.rounds))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
