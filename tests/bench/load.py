"""The service under load: a thousand open streams while jobs train, and a store with ten thousand finished jobs of a thousand epochs each."""

from __future__ import annotations

import os
import selectors
import socket
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import numpy as np

from service import artifacts, jobs
from service.store import Store
from service.store.curves import Curve
from service.store.migrate import migrate
from tests.bench.service import LONG, Connection, columns, processes, processor_seconds, spec
from tests.serving import Server, serving

STREAMS, JOBS, EPOCHS, POINTS, PROBES, SPELLS = 1000, 10_000, 1000, 1_000_000, 200, 8


# -------------------------------------------------------------------- open streams


class Streams:
    """Open streams of some jobs, read by one thread, which notes when each event came."""

    def __init__(self, server: Server, paths: list[str]):
        name, _, port = server.url.removeprefix("http://").partition(":")
        self.selector, self.sockets = selectors.DefaultSelector(), []
        self.late: list[float] = []         # seconds from an event's time to its being read
        self.opened: list[float] = []       # seconds from connecting to the first event
        self.first: dict[socket.socket, float] = {}
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._read)
        self.thread.start()
        for path in paths:
            began = time.time()
            one = socket.create_connection((name, int(port)))
            one.sendall(f"GET {path} HTTP/1.1\r\nhost: {name}:{port}\r\naccept: text/event-stream\r\n\r\n".encode())
            one.setblocking(False)
            self.first[one] = began
            self.sockets.append(one)
            self.selector.register(one, selectors.EVENT_READ)

    def _read(self) -> None:
        while not self.over.is_set():
            if not self.sockets:
                time.sleep(0.01)
                continue
            for key, _ in self.selector.select(0.1):
                one: socket.socket = key.fileobj        # type: ignore[assignment]
                with suppress(BlockingIOError):
                    told = one.recv(1 << 18)
                    now = time.time()
                    if not told:
                        self.selector.unregister(one)
                    elif one in self.first:
                        if b"data: " in told:
                            self.opened.append(now - self.first.pop(one))
                    elif (place := told.rfind(b'"created_at":"')) >= 0:
                        moment = told[place + 14:place + 38].decode()
                        self.late.append(now - datetime.fromisoformat(moment).timestamp())

    def close(self) -> None:
        self.over.set()
        self.thread.join()
        for one in self.sockets:
            one.close()


@contextmanager
def opened(server: Server, paths: list[str]) -> Iterator[Streams]:
    streams = Streams(server, paths)
    try:
        yield streams
    finally:
        streams.close()


def resident_mb(pid: int) -> float:
    for line in Path("/proc", str(pid), "status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def after(client: Connection, job_id: str) -> int:
    """The number of a job's last event."""
    last, more = 0, True
    while more:
        page = client.ask("GET", f"/v1/jobs/{job_id}/events?limit=1000&after={last}")
        last, more = page["data"][-1]["seq"] if page["data"] else last, page["has_more"]
    return last


def p95(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.95)]


def many_streams(server: Server, count: int = STREAMS, spells: int = SPELLS) -> dict[str, float]:
    """What so many streams cost, of one job that trains; spells with and without them take turns, and the least of each kind is compared.

    `streams_first_event_p95_ms` is from connecting to the first event, for clients that come while all the others are there; `streams_told_p95_ms` is
    from the commit of an event until a client has it, over all clients and events. These clients share the processors with the service.
    """
    client = Connection(server.url)
    dataset = client.ask("POST", "/v1/datasets", {"name": "load", **columns(LONG, 20_000)})["id"]
    long = spec(LONG, dataset, 1_000_000)
    long["data"]["repeat"] = 20
    job_id = client.ask("POST", "/v1/jobs", long)["id"]
    client.until(job_id, "epoch")
    store = Store.at(server.home)       # asking the API would take the longer the more it has to do
    worker, api = (next(pid for pid, name in processes(server.process.pid).items() if name == wanted) for wanted in ("worker", "app"))

    def pace(seconds: float = 4.0) -> tuple[float, float, float]:
        """Seconds a step, processor seconds a step, the API's processors, once what the spell before has left behind is written."""
        time.sleep(1.5)
        began, used, answered = time.perf_counter(), processor_seconds(worker), processor_seconds(api)
        step = store.get_job(job_id)["step"]
        time.sleep(seconds)
        steps = store.get_job(job_id)["step"] - step
        passed = time.perf_counter() - began
        return passed / steps, (processor_seconds(worker) - used) / steps, (processor_seconds(api) - answered) / passed

    alone, watched, told, first, memory = [], [], [], [], []
    for _ in range(spells):
        alone.append(pace())
        path = f"/v1/jobs/{job_id}/events?after={after(client, job_id)}"
        with opened(server, [path] * count) as crowd:
            watched.append(pace())
            told += crowd.late
            with opened(server, [f"/v1/jobs/{job_id}/events?types=epoch&after={after(client, job_id) - 30}"] * (PROBES // spells)) as late:
                time.sleep(1)
                first += late.opened
            memory.append(resident_mb(api))
    time.sleep(1.5)
    gauge = next(line for line in _text(server, "/metrics").splitlines() if line.startswith("trainyard_sse_clients "))
    store.close()
    client.ask("POST", f"/v1/jobs/{job_id}/cancel")
    client.until(job_id, "job.cancelled")
    (clock, used, _), (clock_watched, used_watched, answering) = (map(statistics.median, zip(*spells, strict=True)) for spells in (alone, watched))
    least, least_watched = (min(found[1] for found in spells) for spells in (alone, watched))
    return {"streams": count, "streams_first_event_p95_ms": 1000 * p95(first), "streams_told_p95_ms": 1000 * p95(told),
            "streams_told_median_ms": 1000 * statistics.median(told), "streams_api_mb": max(memory), "streams_left_open": float(gauge.split()[1]),
            "streams_slow_down_percent": 100 * (clock_watched / clock - 1), "streams_slow_down_cpu_percent": 100 * (used_watched / used - 1),
            "streams_slow_down_least_cpu_percent": 100 * (least_watched / least - 1), "streams_api_processors": answering}


def _text(server: Server, path: str) -> str:
    client = Connection(server.url)
    client.http.request("GET", path)
    return client.http.getresponse().read().decode()


# -------------------------------------------------------------------- a full store


def fill(home: Path, count: int = JOBS, epochs: int = EPOCHS, points: int = POINTS) -> str:
    """A store with so many finished jobs, each with its epochs' events, a curve, a checkpoint with its file, and an attempt; returns the id of one
    that has `points` steps besides."""
    migrate(home)
    store = Store.at(home)
    template = store.add_job(_SPEC, {"parameters": 25, "steps_per_epoch": 10, "rows": {"train": 100, "valid": 0, "test": 0}}, name="digits",
                             epochs=epochs)["id"]
    claim, _ = store.claim("bench", 60, {"pid": 1, "threads": 1}) or (None, None)
    assert claim is not None
    steps = np.arange(1, points + 1)
    store.record(claim, curves={"loss": Curve(steps, np.exp(-steps / points) + 0.1 * np.random.default_rng(0).random(points))})
    file = artifacts.write_checkpoint(home, template, 10 * epochs, b"x" * 1000)
    store.record(claim, checkpoint={"step": 10 * epochs, "epoch": epochs, "metrics": {"train_loss": 0.1}, "best": True, **file},
                 job={"epoch": epochs, "step": 10 * epochs, "metrics": {"train_loss": 0.1, "valid_loss": 0.2, "valid_accuracy": 0.95},
                      "best": {"epoch": epochs, "metrics": {"valid_loss": 0.2}}})
    store.finish(claim, "succeeded", reason="completed", message=f"Trained {epochs} epochs in 1 seconds.")
    store.close()
    made = [jobs.new_id("job") for _ in range(count - 1)]
    with sqlite3.connect(home / "trainyard.db", isolation_level=None) as raw:
        raw.execute("PRAGMA synchronous = OFF")
        raw.execute("PRAGMA cache_size = -400000")
        raw.execute("CREATE TEMP TABLE made (id TEXT PRIMARY KEY)")
        raw.executemany("INSERT INTO made VALUES (?)", [(one,) for one in made])
        raw.execute("BEGIN")
        raw.execute("DELETE FROM events WHERE job_id = ?", (template,))
        raw.execute("UPDATE jobs SET seq = ?", (epochs + 3,))
        for table, key in (("jobs", "id"), ("attempts", "job_id"), ("checkpoints", "job_id")):
            names = [row[1] for row in raw.execute(f"PRAGMA table_info({table})")]
            taken = ", ".join("made.id" if name == key else f"replace(path, '{template}', made.id)" if name == "path" else f"{table}.{name}"
                              for name in names)
            raw.execute(f"INSERT INTO {table} SELECT {taken} FROM {table}, made WHERE {table}.{key} = '{template}' ORDER BY made.id")
        raw.execute("INSERT INTO made VALUES (?)", (template,))
        raw.execute(_EVENTS, {"epochs": epochs, "moment": jobs.now()})
        raw.execute("COMMIT")
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for one in made:
        path = home / str(file["path"]).replace(template, one)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * 1000)
    return template


_SPEC = {**spec((4, 4, 3), "sample:digits", EPOCHS), "name": "digits"}
_EVENTS = """
WITH RECURSIVE numbers(seq) AS (SELECT 1 UNION ALL SELECT seq + 1 FROM numbers WHERE seq < :epochs + 3)
INSERT INTO events (job_id, seq, type, level, message, data, key, fence, created_at)
SELECT made.id, seq,
    CASE WHEN seq = 1 THEN 'job.queued' WHEN seq = 2 THEN 'job.started' WHEN seq = :epochs + 3 THEN 'job.succeeded' ELSE 'epoch' END, 'info',
    CASE WHEN seq BETWEEN 3 AND :epochs + 2 THEN 'Epoch ' || (seq - 2) || ' of ' || :epochs || ': train loss 0.1234, valid loss 0.2345.' ELSE '' END,
    CASE WHEN seq BETWEEN 3 AND :epochs + 2 THEN '{"epoch":' || (seq - 2) || ',"epochs":' || :epochs || ',"step":' || (10 * (seq - 2)) ||
        ',"train_loss":' || (1.0 / seq) || ',"train_accuracy":0.9123,"valid_loss":' || (1.5 / seq) ||
        ',"valid_accuracy":0.8912,"learning_rate":0.001,"gradient_norm":0.51,"seconds":0.012,"samples_per_second":12345.6}' ELSE '{}' END,
    CASE WHEN seq BETWEEN 3 AND :epochs + 2 THEN 'epoch:' || (seq - 2) END, 1, :moment
FROM made, numbers
"""


def full_store(folder: Path, count: int = JOBS, epochs: int = EPOCHS) -> dict[str, float]:
    """Milliseconds of answers (the median, and the worst of what is asked in several ways), and seconds from `trainyard serve` to ready."""
    home = folder / "full"
    began = time.perf_counter()
    large = fill(home, count, epochs)
    found: dict[str, float] = {"full_fill_s": time.perf_counter() - began, "full_store_gb": (home / "trainyard.db").stat().st_size / 1e9}
    starts = []
    for _ in range(3):
        began = time.perf_counter()
        with serving(home, workers=1, threads=1):
            starts.append(time.perf_counter() - began)
    empty = []
    for number in range(2):
        began = time.perf_counter()
        with serving(folder / f"empty{number}", workers=1, threads=1):
            empty.append(time.perf_counter() - began)
    with serving(home, workers=1, threads=1) as server:
        client = Connection(server.url)

        def took(path: str) -> float:
            times = []
            for _ in range(15):
                asked = time.perf_counter()
                client.http.request("GET", path)
                answer = client.http.getresponse()
                assert answer.read() and answer.status < 400
                times.append(1000 * (time.perf_counter() - asked))
            return statistics.median(times)

        page = client.ask("GET", "/v1/jobs?limit=100")
        lists = [took(path) for path in (
            "/v1/jobs", "/v1/jobs?limit=100", "/v1/jobs?status=succeeded&limit=100", "/v1/jobs?status=running,queued,succeeded",
            f"/v1/jobs?limit=100&after={page['last_id']}")]
        found |= {"full_start_s": min(starts), "empty_start_s": min(empty), "full_list_ms": lists[0], "full_list_worst_ms": max(lists),
                  "full_job_ms": took(f"/v1/jobs/{page['last_id']}"), "full_metrics_epochs_ms": took(f"/v1/jobs/{page['last_id']}/metrics"),
                  "full_metrics_million_ms": took(f"/v1/jobs/{large}/metrics?by=step"),
                  "full_metrics_million_10000_ms": took(f"/v1/jobs/{large}/metrics?by=step&points=10000"),
                  "full_prometheus_ms": took("/metrics"), "full_readyz_ms": took("/readyz"),
                  "full_api_mb": resident_mb(next(pid for pid, name in processes(server.process.pid).items() if name == "app"))}
    return found


def measure_load() -> dict[str, object]:
    found: dict[str, object] = {}

    def tell(**figures: float) -> None:
        for name, value in figures.items():
            print(f"load     {name:36} {value:10.2f}", flush=True)
        found.update(figures)

    tell(load_before=os.getloadavg()[0])
    with tempfile.TemporaryDirectory() as folder:
        with serving(Path(folder, "home"), workers=1, threads=1, max_streams=2 * STREAMS) as server:
            tell(**many_streams(server))
        tell(**full_store(Path(folder)), load_after=os.getloadavg()[0])
    return found
