"""python -m tests.bench memory: what a job takes above the process's baseline, against what validate_only says, and PyTorch's peak for the same step.

Each in a process of its own, which has trained a few steps of the same model before, so that code and kernels are no part of the difference.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from ctypes import CDLL
from importlib import import_module
from pathlib import Path
from typing import Any

from engine.train import Job, check, start
from tests.bench.peers import ours
from tests.bench.workloads import WORKLOADS, load

STEPS = 20


def peak_above_baseline(work: Callable[[], Any]) -> int:
    """Bytes by which `work` raises what is resident, at most. Run once before, it has loaded what it needs of code."""
    work()
    gc.collect()
    CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")       # the peak begins anew
    before = _status("VmRSS")
    kept = work()
    after = _status("VmHWM")
    del kept
    return after - before


def _status(name: str) -> int:
    """A line of the kernel's account of this process, in bytes."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


def measure(who: str, name: str, path: Path) -> dict[str, int]:
    workload = WORKLOADS[name]
    columns, weights = load(path)
    if who == "pytorch":
        pytorch = import_module("tests.bench.peers.pytorch")    # the others are measured without PyTorch

        def step() -> Any:
            train = pytorch.prepare(workload, columns, weights, 1, "default")
            train(STEPS)
            return train

        return {"used": peak_above_baseline(step)}
    job = Job.model_validate(ours.document(workload, [n for n in columns if n != "y"], *columns["y"].shape[1:]))
    tables = {"bench": ours.table_of(columns)}

    def run() -> Any:
        started = start(job, tables)
        events = started.events()
        while started.step < STEPS:
            next(events)
        return started

    summary = check(job, tables)
    return {"used": peak_above_baseline(run), "planned": summary.memory_bytes}


def measure_memory() -> dict[str, Any]:
    """A row per workload: MB planned and used by ours, and used by PyTorch."""
    found = {}
    for name in WORKLOADS:
        with tempfile.TemporaryDirectory() as folder:
            path = WORKLOADS[name].save(Path(folder))
            row = {who: _in_a_process(who, name, path) for who in ("ours", "pytorch")}
        planned, used, peer = row["ours"]["planned"], row["ours"]["used"], row["pytorch"].get("used", 0)
        print(f"{name:3} planned {planned / 1e6:8.1f} MB  used {used / 1e6:8.1f} MB ({used / planned:.2f} of the plan)  "
              f"PyTorch {peer / 1e6:8.1f} MB", flush=True)
        found[name] = {"planned": planned, "used": used, "pytorch": peer}
    return found


def _in_a_process(who: str, name: str, path: Path) -> dict[str, int]:
    done = subprocess.run([sys.executable, "-m", "tests.bench.memory", who, name, str(path)], capture_output=True, text=True)
    if done.returncode:
        print(f"  {who}: left out, {done.stderr.strip().splitlines()[-1:]}")
        return {}
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))
