"""One contestant in a process of its own: prepares, trains 100 steps, then measures a stretch each time it is told to (a line on standard input)."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path

from tests.bench.workloads import EVERY, load


def main(who: str, mode: str, name: str, path: str, threads: int) -> None:
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:threads]))
    workload = EVERY[name]
    columns, weights = load(Path(path))
    train = importlib.import_module(f"tests.bench.peers.{who}").prepare(workload, columns, weights, threads, mode)
    epoch = len(columns["y"]) // workload.batch
    warm = 100 if name != "W9" else 13 * epoch
    print(json.dumps({"loss": train(warm)}), flush=True)
    steps = max(epoch, workload.steps // epoch * epoch) if who in ("ours", "sklearn") else workload.steps
    train(steps)   # compile whatever depends on the length, outside the measurement
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        train(steps)
        print(json.dumps({"microseconds": (time.perf_counter() - start) / steps * 1e6}), flush=True)


if __name__ == "__main__":
    who, mode, name, path, threads = sys.argv[1:]
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = threads
    if who == "jax":
        os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={'true' if int(threads) > 1 else 'false'} intra_op_parallelism_threads={threads}"
    main(who, mode, name, path, int(threads))
