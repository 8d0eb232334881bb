"""R8. 500 clients hold streams open, 200 of them never read; 10,000 connect and reset: memory grows by less than 50 MB, every slot and file comes
back, training slows by less than 2 %."""

from __future__ import annotations

import os
import random
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.store import Store
from service.store.database import READERS
from tests.bench.service import processes, processor_seconds
from tests.homes import fresh
from tests.reliability.sizes import short_or_full
from tests.serving import Server, serving
from tests.user import User

MB = 1 << 20
KEPT = 3 * READERS      # files of connections to the store that stay open once they were needed


@dataclass(frozen=True)
class Size:
    readers: int
    sleepers: int
    resets: int
    seconds: float      # of a spell in which the pace of training is measured
    spells: int


class Process:
    """A process seen from outside."""

    def __init__(self, pid: int):
        self.pid = pid

    def memory(self) -> int:
        """Resident bytes."""
        return int(Path("/proc", str(self.pid), "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))


def ask(server: Server, job_id: str, after: int = 0) -> bytes:
    return (f"GET /v1/jobs/{job_id}/events?after={after} HTTP/1.1\r\nhost: 127.0.0.1:{server.port}\r\n"
            "accept: text/event-stream\r\n\r\n").encode()


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.port)), timeout=60)


@contextmanager
def reading(opened: list[socket.socket]) -> Iterator[None]:
    """One thread that takes what comes on any of them."""
    waiting, over = selectors.DefaultSelector(), threading.Event()
    for one in opened:
        one.setblocking(False)
        waiting.register(one, selectors.EVENT_READ)

    def read() -> None:
        while not over.is_set():
            for key, _ in waiting.select(0.1):
                with suppress(BlockingIOError):
                    if not key.fileobj.recv(1 << 16):       # type: ignore[union-attr]
                        waiting.unregister(key.fileobj)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        over.set()
        reader.join()


def reset(server: Server, request: bytes, chance: random.Random) -> None:
    """Connect, send some of a request or all of it, and reset the connection before anything is answered, or soon after."""
    with connect(server) as one:
        one.sendall(request[: chance.choice([0, len(request) // 2, len(request), len(request)])])
        if chance.random() < 0.2:
            time.sleep(chance.random() * 0.01)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def slots(user: User) -> int:
    """Open event streams, as the service counts them."""
    lines = user.http.get("/metrics").text.splitlines()
    return int(float(next(line for line in lines if line.startswith("trainyard_sse_clients")).split()[-1]))


def until(done: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def endless() -> dict[str, Any]:
    return {"model": {"kind": "chain", "layers": [{"kind": "dense", "units": 64, "activation": "relu"}, {"kind": "dense", "units": 10}]},
            "loss": "logit_cross_entropy", "optimiser": "adam", "epochs": 1_000_000,
            "data": {"dataset": "sample:digits", "target": "label", "batch_size": 32, "repeat": 100}}


def pace(store: Store, job_id: str, worker: int, seconds: float) -> float:
    """The worker's processor seconds for each step, once what was told before is written."""
    time.sleep(1)
    used, step = processor_seconds(worker), store.get_job(job_id)["step"]
    time.sleep(seconds)
    return (processor_seconds(worker) - used) / (store.get_job(job_id)["step"] - step)


@short_or_full("size", Size(60, 40, 500, 1.0, 1), Size(300, 200, 10_000, 4.0, 6))
def test_memory_slots_and_training_stay_as_they_were(tmp_path: Path, size: Size, shown: Callable[[str], None]) -> None:
    chance = random.Random(8)
    with serving(fresh(tmp_path / "home"), workers=1, threads=1) as server:
        user = User(server.url)
        job_id = user.submit(endless())
        told = until(lambda: user.get(f"/v1/jobs/{job_id}")["epoch"] > 0, 60)
        assert told
        by_name = {name: pid for pid, name in processes(server.process.pid).items()}
        api, worker = Process(by_name["app"]), by_name["worker"]
        first = [connect(server) for _ in range(50)]        # what is loaded, and the connections to the store that stay, with a first crowd
        for one in first:
            one.sendall(ask(server, job_id))
        assert until(lambda: slots(user) == len(first), 60)
        for one in first:
            one.close()
        assert until(lambda: slots(user) == 0, 60)
        store = Store.at(server.home)
        before, files = api.memory(), api.files()
        alone, watched, most = [], [], 0
        for _ in range(size.spells):
            alone.append(pace(store, job_id, worker, size.seconds))
            after = user.get(f"/v1/jobs/{job_id}")["epoch"]
            readers, sleepers = ([connect(server) for _ in range(count)] for count in (size.readers, size.sleepers))
            for one in (*readers, *sleepers):
                one.sendall(ask(server, job_id, after if one in readers else 0))
            with reading(readers):
                assert until(lambda: slots(user) == size.readers + size.sleepers, 60)
                for _ in range(size.resets // size.spells):
                    reset(server, ask(server, job_id), chance)
                watched.append(pace(store, job_id, worker, size.seconds))
                most = max(most, api.memory())
            for one in (*readers, *sleepers):
                one.close()
            assert until(lambda: slots(user) == 0, 60), f"{slots(user)} slots are still taken"
        assert until(lambda: api.files() <= files + KEPT, 60), f"{files} files were open, now {api.files()}"
        store.close()
        user.http.post(f"/v1/jobs/{job_id}/cancel")
        assert user.watch(job_id)[-1]["type"] == "job.cancelled"
    grown, slower = (most - before) / MB, 100 * (min(watched) / min(alone) - 1)
    assert grown < 50
    shown(f"{size.readers + size.sleepers} streams, {size.sleepers} of them never read, {size.resets:,} resets: {grown:.0f} MB more at most, "
          f"no slot or file lost; a step took {slower:+.1f} % processor time (least of {size.spells} spells each)")
