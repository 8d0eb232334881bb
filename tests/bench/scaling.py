"""python -m tests.bench scaling: the cost of a step as batches and models grow, and a data set of 10 GB in 1 GB of memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from engine.data.table import Column, Table
from engine.train import Job, start

CGROUP = Path("/sys/fs/cgroup/memory/trainyard-bench")      # version 1 of control groups
LIMIT, FEATURES = 1_000_000_000, 256


def job(layers: list[int], batch: int, epochs: int = 1000) -> Job:
    model = [{"kind": "dense", "units": n, "activation": "relu"} for n in layers] + [{"kind": "dense", "units": 2}]
    return Job.model_validate({"model": {"kind": "chain", "layers": model}, "loss": "logit_cross_entropy", "optimiser": "adam", "metrics": [],
                               "data": {"dataset": "bench", "target": "y", "batch_size": batch, "sampling": "sequential"}, "epochs": epochs})


def step_microseconds(layers: list[int], batch: int) -> float:
    """The best of nine stretches of 32 steps."""
    rng = np.random.default_rng(0)
    table = Table.from_columns({"x": rng.standard_normal((32 * batch, FEATURES)).astype(np.float32), "y": rng.integers(0, 2, 32 * batch)})
    run = start(job(layers, batch), {"bench": table})
    times = []
    for _ in range(10):
        begun = time.perf_counter()
        run.session.run(run.train, 32, np.ones(32), np.zeros((32, 2)))
        times.append((time.perf_counter() - begun) / 32 * 1e6)
        run.next_epoch()
    return min(times[1:])


def measure_growth() -> dict[str, Any]:
    """Microseconds of a step for four batch sizes and four depths, and what a row, or a layer, adds."""
    batches = {batch: step_microseconds([256, 256], batch) for batch in (64, 128, 256, 512)}
    depths = {depth: step_microseconds([256] * depth, 128) for depth in (2, 4, 8, 16)}
    for label, found in (("rows in a batch, 2 layers of 256", batches), ("layers of 256, batches of 128", depths)):
        print(label)
        for size, microseconds in found.items():
            print(f"  {size:4} {microseconds:9.1f} µs a step, {microseconds / size:7.2f} µs each", flush=True)
    return {"batches": batches, "depths": depths}


def write_columns(folder: Path, nbytes: int) -> int:
    """Column files of so many bytes of numbers, and how many rows they have."""
    rng = np.random.default_rng(0)
    chunk = rng.standard_normal((50_000, FEATURES)).astype(np.float32)
    pieces = nbytes // chunk.nbytes
    with (folder / "x.bin").open("wb") as file:
        for _ in range(pieces):
            chunk.tofile(file)
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)      # whoever reads them has the pages on his account
    np.tile((chunk[:, 0] > 0).astype(np.int32), pieces).tofile(folder / "y.bin")
    return pieces * len(chunk)


def train_large(folder: Path) -> dict[str, float]:
    """One pass over the column files, which are mapped and never read whole."""
    rows = (folder / "y.bin").stat().st_size // 4
    x = np.memmap(folder / "x.bin", np.float32, "r", shape=(rows, FEATURES))
    y = np.memmap(folder / "y.bin", np.int32, "r", shape=(rows,))
    table = Table({"x": Column("x", "tensor", x, None, True), "y": Column("y", "number", y, None, True)}, rows, "arrays")
    begun = time.perf_counter()
    run = start(job([32], 1024, epochs=1), {"bench": table})
    losses = [event.data["train_loss"] for event in run.events() if event.type == "epoch"]
    return {"rows": rows, "gigabytes": x.nbytes / 1e9, "seconds": time.perf_counter() - begun, "loss": losses[0]}


def measure_large(nbytes: int = 10_000_000_000) -> dict[str, Any]:
    """`train_large` in a process that the kernel gives 1 GB, code, heap and cached pages of files together."""
    with tempfile.TemporaryDirectory() as name:
        write_columns(Path(name), nbytes)
        CGROUP.mkdir(exist_ok=True)
        (CGROUP / "memory.limit_in_bytes").write_text(str(LIMIT))
        code = f"import os; open('{CGROUP}/cgroup.procs', 'w').write(str(os.getpid())); os.execv({sys.executable!r}, " \
               f"[{sys.executable!r}, '-m', 'tests.bench.scaling', {name!r}])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        peak = int((CGROUP / "memory.max_usage_in_bytes").read_text())
        CGROUP.rmdir()
    if done.returncode:
        print(f"a pass over {nbytes / 1e9:.0f} GB in {LIMIT / 1e9:.0f} GB of memory failed: {done.stderr.strip().splitlines()[-1:]}")
        return {"failed": done.returncode}
    found = {**json.loads(done.stdout.splitlines()[-1]), "peak_bytes": peak}
    print(f"a pass over {found['gigabytes']:.1f} GB ({found['rows']:,} rows) in {found['seconds']:.0f} s, at most {peak / 1e6:.0f} MB of memory "
          f"with cached pages, loss {found['loss']:.4f}")
    return found


def measure_scaling() -> dict[str, Any]:
    return {**measure_growth(), "large": measure_large()}


if __name__ == "__main__":
    print(json.dumps(train_large(Path(sys.argv[1]))))
