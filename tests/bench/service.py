"""The service's figures, from real servers: POST to first epoch, a prediction of one row, jobs a second, what open streams cost, resident memory, a
first start with no kernel compiled."""

from __future__ import annotations

import http.client
import json
import os
import selectors
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tests.serving import Server, serving

ROUNDS, JOBS, CLIENTS, STREAMS, PREDICTIONS = 40, 120, 6, 500, 500
SMALL, LONG = (16, 32, 3), (64, 128, 10)        # W1 and W2 of the training figures


class Connection:
    """One client's connection, as thin as can be: it shares the processors with what it measures."""

    def __init__(self, url: str):
        self.http = http.client.HTTPConnection(url.removeprefix("http://"), timeout=120)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        self.http.request(method, path, None if body is None else json.dumps(body), {"content-type": "application/json"})
        answer = self.http.getresponse()
        found = json.loads(answer.read())
        assert answer.status < 300, found
        return found

    def until(self, job_id: str, kind: str) -> dict[str, Any]:
        """Follow the job's stream up to the first event of a type."""
        self.http.request("GET", f"/v1/jobs/{job_id}/events?format=ndjson")
        answer = self.http.getresponse()
        for line in answer:
            event = json.loads(line)
            if event["type"] == kind:
                self.http.close()
                return event
        raise AssertionError(f"job {job_id} ended without {kind}")


def spec(sizes: tuple[int, int, int], dataset: Any, epochs: int) -> dict[str, Any]:
    layers = [{"kind": "dense", "units": sizes[1], "activation": "relu"}, {"kind": "dense", "units": sizes[2]}]
    return {"model": {"kind": "chain", "layers": layers}, "loss": "logit_cross_entropy", "optimiser": "adam", "epochs": epochs,
            "data": {"dataset": dataset, "target": "y", "batch_size": 32}}


def columns(sizes: tuple[int, int, int], rows: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, sizes[0])).round(3)
    return {"columns": {"x": x.tolist(), "y": (np.abs(x[:, 0] + x[:, 1]) * sizes[2]).astype(int).clip(0, sizes[2] - 1).tolist()}}


def first_epoch(server: Server, dataset: Any, device: str = "cpu") -> float:
    """Median milliseconds from the beginning of a POST to the first epoch event, on a warm worker."""
    client, took = Connection(server.url), []
    for _ in range(ROUNDS + 5):
        began = time.perf_counter()
        job = client.ask("POST", "/v1/jobs", {**spec(SMALL, dataset, 5), "device": device})
        client.until(job["id"], "epoch")
        took.append(time.perf_counter() - began)
        client.until(job["id"], "job.succeeded")
    return 1000 * statistics.median(took[5:])


def one_row(server: Server, dataset: str) -> dict[str, float]:
    """Median and least milliseconds of a prediction of one row, and how long one takes beside predictions of 10,000 rows."""
    client = Connection(server.url)
    job_id = client.ask("POST", "/v1/jobs", spec(SMALL, dataset, 2))["id"]
    client.until(job_id, "job.succeeded")
    path, row = f"/v1/jobs/{job_id}/predict", {"inputs": [[0.1] * SMALL[0]]}

    def once() -> float:
        began = time.perf_counter()
        client.ask("POST", path, row)
        return 1000 * (time.perf_counter() - began)

    alone = [once() for _ in range(PREDICTIONS + 20)][20:]
    large, over = {"inputs": [[0.123456789] * SMALL[0]] * 10_000}, threading.Event()

    def ask() -> None:
        other = Connection(server.url)
        while not over.is_set():
            other.ask("POST", path, large)

    beside = threading.Thread(target=ask)
    beside.start()
    crowded = [once() for _ in range(PREDICTIONS)]
    over.set()
    beside.join()
    return {"predict_row_ms": statistics.median(alone), "predict_row_least_ms": min(alone), "predict_row_beside_ms": statistics.median(crowded)}


def jobs_per_second(server: Server, dataset: str) -> float:
    """Jobs posted over several connections, from the first POST until the last one has succeeded."""
    clients = [Connection(server.url) for _ in range(CLIENTS)]
    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        shares = pool.map(lambda client: [client.ask("POST", "/v1/jobs", spec(SMALL, dataset, 2))["id"] for _ in range(JOBS // CLIENTS)], clients)
        made = sorted(job_id for share in shares for job_id in share)
    clients[0].until(made[-1], "job.succeeded")
    while clients[0].ask("GET", "/v1/jobs?status=queued,running&limit=1")["data"]:
        time.sleep(0.005)
    passed = time.perf_counter() - began
    assert all(clients[0].ask("GET", f"/v1/jobs/{job_id}")["status"] == "succeeded" for job_id in made)
    return JOBS / passed


@contextmanager
def streams(server: Server, job_id: str, count: int) -> Iterator[None]:
    """So many open streams of what a job tells from now on, read by one thread."""
    client, last, more = Connection(server.url), 0, True
    while more:
        page = client.ask("GET", f"/v1/jobs/{job_id}/events?limit=1000&after={last}")
        last, more = page["data"][-1]["seq"] if page["data"] else last, page["has_more"]
    waiting, host = selectors.DefaultSelector(), server.url.removeprefix("http://")
    name, _, port = host.partition(":")
    opened = []
    for _ in range(count):
        one = socket.create_connection((name, int(port)))
        one.sendall(f"GET /v1/jobs/{job_id}/events?format=sse&after={last} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
        one.setblocking(False)
        waiting.register(one, selectors.EVENT_READ)
        opened.append(one)
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            for key, _ in waiting.select(0.1):
                if not key.fileobj.recv(1 << 16):       # type: ignore[union-attr]
                    waiting.unregister(key.fileobj)

    reader = threading.Thread(target=read)
    reader.start()
    yield
    over.set()
    reader.join()
    for one in opened:
        one.close()


def slow_down(server: Server, dataset: str) -> dict[str, float]:
    """How much longer a step takes while streams are open, in percent, by the clock and by the worker's own processor time, and the share of a
    processor that the API takes then. Spells with and without streams take turns."""
    client = Connection(server.url)
    long = spec(LONG, dataset, 1_000_000)
    long["data"]["repeat"] = 20         # an epoch a second or so
    job_id = client.ask("POST", "/v1/jobs", long)["id"]
    client.until(job_id, "epoch")
    worker, api = (next(pid for pid, name in processes(server.process.pid).items() if name == wanted) for wanted in ("worker", "app"))

    def pace() -> tuple[float, float, float]:
        """Of two seconds: seconds a step, processor seconds a step, and the API's processors."""
        began, used, answered = time.perf_counter(), processor_seconds(worker), processor_seconds(api)
        step = client.ask("GET", f"/v1/jobs/{job_id}")["step"]
        time.sleep(2)
        steps = client.ask("GET", f"/v1/jobs/{job_id}")["step"] - step
        passed = time.perf_counter() - began
        return passed / steps, (processor_seconds(worker) - used) / steps, (processor_seconds(api) - answered) / passed

    alone, watched = [], []
    for _ in range(6):
        alone.append(pace())
        with streams(server, job_id, STREAMS):
            time.sleep(2)
            watched.append(pace())
    client.ask("POST", f"/v1/jobs/{job_id}/cancel")
    client.until(job_id, "job.cancelled")
    (clock, used, _), (clock_watched, used_watched, answering) = (map(statistics.median, zip(*spells, strict=True)) for spells in (alone, watched))
    return {"slow_down_percent": 100 * (clock_watched / clock - 1), "slow_down_cpu_percent": 100 * (used_watched / used - 1),
            "streams_api_processors": answering}


def processor_seconds(pid: int) -> float:
    fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def processes(pid: int) -> dict[int, str]:
    """A server's processes by what they do."""
    children = Path("/proc", str(pid), "task", str(pid), "children").read_text().split()
    return {pid: "supervisor", **{int(one): Path("/proc", one, "cmdline").read_text().split("\0")[-2].removeprefix("service.") for one in children}}


def resident(pid: int) -> dict[str, float]:
    """MB of a server's processes: resident in each, and with pages that they share counted once."""
    found = {}
    for one, name in processes(pid).items():
        rollup = dict(line.split(":") for line in Path("/proc", str(one), "smaps_rollup").read_text().splitlines()[1:])
        found[name] = (int(rollup["Rss"].split()[0]) / 1024, int(rollup["Pss"].split()[0]) / 1024)
    return {**{f"resident_{name}_mb": rss for name, (rss, _) in found.items()}, "resident_mb": sum(rss for rss, _ in found.values()),
            "resident_shared_once_mb": sum(pss for _, pss in found.values())}


def cold(folder: Path) -> dict[str, float]:
    """Seconds of a first start with no kernel compiled: until it is ready, and until its first job has started and has an epoch; then a second."""
    began = time.time()
    with serving(folder / "cold", cache=folder / "cache") as server:
        ready = time.time() - began
        client = Connection(server.url)
        found = {"cold_ready_s": ready}
        for name in ("cold", "warm"):
            asked = time.time()
            job = client.ask("POST", "/v1/jobs", {**spec(LONG, "sample:digits", 3), "data": {"dataset": "sample:digits", "target": "label"}})
            client.until(job["id"], "job.started")
            found[f"{name}_post_to_started_s"] = time.time() - asked
            client.until(job["id"], "epoch")
            found[f"{name}_post_to_epoch_s"] = time.time() - asked
        return found


def measure_service() -> dict[str, object]:
    found: dict[str, object] = {}

    def tell(**figures: float) -> None:
        for name, value in figures.items():
            print(f"service  {name:24} {value:10.2f}", flush=True)
        found.update(figures)

    tell(load_before=os.getloadavg()[0])
    with tempfile.TemporaryDirectory() as folder:
        with serving(Path(folder, "home"), workers=1, threads=1) as server:
            time.sleep(1)
            tell(**resident(server.process.pid))
            client = Connection(server.url)
            small, large = (client.ask("POST", "/v1/datasets", {"name": "bench", **columns(sizes, rows)})["id"] for sizes, rows in
                            ((SMALL, 1000), (LONG, 20_000)))
            tell(first_epoch_ms=first_epoch(server, small))
            tell(first_epoch_inline_ms=first_epoch(server, columns(SMALL, 200)))
            tell(**one_row(server, small))
            tell(jobs_per_second=jobs_per_second(server, small))
            tell(**slow_down(server, large))
        tell(**cold(Path(folder)), load_after=os.getloadavg()[0])
    return found
