"""Contestants side by side: the same cores, turn about (A B A B ...), best and median of at least five, ratios, and whether the losses agree."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.workloads import EVERY

PEERS = {"torch": ("pytorch", ("default", "fused", "compile")), "jax": ("jax", ("scan",)), "sklearn": ("sklearn", ("fit",))}


@dataclass
class Contestant:
    who: str
    mode: str
    process: subprocess.Popen[str]
    loss: float = float("nan")
    times: list[float] = field(default_factory=list)

    @classmethod
    def start(cls, who: str, mode: str, workload: str, data: Path, threads: int) -> Contestant | None:
        environment = {k: v for k, v in os.environ.items() if k not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")}
        process = subprocess.Popen([sys.executable, "-m", "tests.bench.measure", who, mode, workload, str(data), str(threads)],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        contestant = cls(who, mode, process)
        first = contestant._answer()
        if first is None or contestant._answer() is None:
            print(f"  {who} {mode}: left out, {(process.stderr.read() if process.stderr else '').strip().splitlines()[-1:]}")
            return None
        contestant.loss = first["loss"]
        return contestant

    def _answer(self) -> dict[str, float] | None:
        assert self.process.stdout
        line = self.process.stdout.readline()
        return json.loads(line) if line.strip() else None

    def measure(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        answer = self._answer()
        if answer:
            self.times.append(answer["microseconds"])

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def row(self) -> dict[str, object]:
        best, median = min(self.times), statistics.median(self.times)
        return {"who": self.who, "mode": self.mode, "loss": self.loss, "best": best, "median": median, "all": self.times}


def contest(workload: str, data: Path, against: list[str], threads: int, rounds: int, ours: str = "job",
            peers: Mapping[str, tuple[str, tuple[str, ...]]] = PEERS) -> dict[str, object]:
    """Measure ours against the peers on one workload; the row of the table. `ours` is our mode, `peers` are their programs and modes."""
    entries = [("ours", ours), *((peers[peer][0], mode) for peer in against for mode in peers[peer][1])]
    field_ = [c for who, mode in entries if (c := Contestant.start(who, mode, workload, data, threads))]
    for _ in range(rounds):
        for contestant in field_:
            contestant.measure()
    for contestant in field_:
        contestant.stop()
    first, others = field_[0], field_[1:]
    ratios = {f"{p.who} {p.mode}": statistics.median(p.times) / statistics.median(first.times) for p in others}
    void = [f"{p.who} {p.mode}" for p in others if not abs(p.loss - first.loss) <= EVERY[workload].agreement * abs(p.loss)]
    return {"workload": workload, "threads": threads, "rows": [c.row() for c in field_], "ratios": ratios, "losses_disagree": void}
