"""R14. An hour of small jobs, made, followed, asked and removed: memory and open files of every process stay as they were."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.service import processes
from tests.homes import fresh
from tests.reliability.sizes import short_or_full
from tests.serving import Server, serving
from tests.user import User

MB = 1 << 20
LAYERS = ([4], [8, 4], [16])


@dataclass
class Size:
    seconds: float
    warm: int           # jobs before the first look
    most_mb: float      # that a process may grow by


@dataclass
class Seen:
    """A process over time."""

    name: str
    memory: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)


def look(server: Server, seen: dict[int, Seen]) -> None:
    for pid, name in processes(server.process.pid).items():
        one = seen.setdefault(pid, Seen(name))
        one.memory.append(int(Path("/proc", str(pid), "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        one.files.append(len(os.listdir(f"/proc/{pid}/fd")))


def spec(number: int) -> dict[str, Any]:
    """Every so often another shape, other data and another end."""
    layers = [{"kind": "dense", "units": units, "activation": "relu"} for units in LAYERS[number % len(LAYERS)]]
    columns = {"x": [[float(number % 97), float(row)] for row in range(12)], "y": [row % 3 for row in range(12)]}
    return {"model": {"kind": "chain", "layers": [*layers, {"kind": "dense", "units": "target"}]}, "loss": "logit_cross_entropy", "epochs": 3,
            "optimiser": {"kind": "descent", "learning_rate": 1e38} if number % 10 == 9 else "adam", "seed": number,
            "data": {"dataset": {"columns": columns}, "target": "y", "batch_size": 4}}


def asked(user: User, job_id: str) -> dict[str, Any]:
    """A prediction. While the predictor starts, on a machine with much else to do, the answer may be 503: ask again."""
    while (answer := user.http.post(f"/v1/jobs/{job_id}/predict", json={"rows": [{"x": [1.0, 2.0]}]})).status_code == 503:
        time.sleep(float(answer.headers["retry-after"]))
    assert answer.is_success, answer.text
    return answer.json()


def live(user: User, number: int) -> None:
    """One job's life. Of ten jobs one becomes NaN, mostly, and one is cancelled; the oldest of those that ended are removed."""
    job_id = user.submit(spec(number))
    if number % 10 == 4:
        user.http.post(f"/v1/jobs/{job_id}/cancel")
    last = user.watch(job_id)[-1]["type"]
    assert last in {4: ("job.cancelled", "job.succeeded"), 9: ("job.failed", "job.succeeded")}.get(number % 10, ("job.succeeded",)), last
    if last == "job.succeeded":
        assert len(asked(user, job_id)["classes"]) == 1
        user.get(f"/v1/jobs/{job_id}/metrics", by="step")
    if number % 3:
        assert user.http.delete(f"/v1/jobs/{job_id}").status_code == 204
    user.get("/v1/jobs")


@short_or_full("size", Size(8, 40, 24), Size(float(os.environ.get("SOAK_SECONDS", "3600")), 200, 24))
def test_memory_and_files_stay_as_they_were(tmp_path: Path, size: Size, shown: Callable[[str], None]) -> None:
    seen: dict[int, Seen] = {}
    with serving(fresh(tmp_path / "home"), workers=2, threads=2) as server:
        user, number, began = User(server.url), 0, time.monotonic()
        while number < size.warm:
            live(user, number)
            number += 1
        warm, next_look = number, 0.0
        while number < warm + 10 or time.monotonic() - began < size.seconds:
            live(user, number)
            number += 1
            if time.monotonic() >= next_look:
                look(server, seen)
                next_look = time.monotonic() + size.seconds / 40
        look(server, seen)
        passed = time.monotonic() - began
    assert len(seen) == 5, [one.name for one in seen.values()]       # none was replaced
    for one in seen.values():
        assert one.files[-1] <= one.files[0] + 24, (one.name, one.files)
        assert one.memory[-1] - one.memory[0] < size.most_mb * MB, (
            f"{one.name}: {' '.join(f'{bytes_ / MB:.0f}' for bytes_ in one.memory)} MB over {number - warm} jobs")
    grown = ", ".join(f"{one.name} {one.memory[0] / MB:.0f} to {one.memory[-1] / MB:.0f} MB and {one.files[0]} to {one.files[-1]} files"
                      for one in seen.values())
    shown(f"{number:,} jobs in {passed:.0f} s: {grown}")
