"""R7. 200 clients follow a job of 2,000 events, each is cut off 20 times at any byte, the server is restarted three times: each client ends with
every event once, in order."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.homes import fresh
from tests.reliability.sizes import short_or_full
from tests.serving import Server, serving
from tests.user import User

TERMINAL = ("job.succeeded", "job.failed", "job.cancelled")


@dataclass(frozen=True)
class Size:
    clients: int
    events: int
    cuts: int
    restarts: int


class Follower:
    """One client: it follows the stream over as many connections as it takes, and cuts them itself after so many bytes."""

    def __init__(self, port: int, job_id: str, cuts: list[int]):
        self.port, self.job_id, self.cuts = port, job_id, cuts
        self.seqs: list[int] = []
        self.last, self.connections, self.lost = "", 0, 0

    async def follow(self) -> None:
        while self.last not in TERMINAL:
            try:
                await self._connection()
            except (OSError, asyncio.IncompleteReadError):      # the server is away
                self.lost += 1
                await asyncio.sleep(0.1)

    async def _connection(self) -> None:
        """Read until the end, until it is cut, or until it is time to cut: what was not told whole is not told."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        left = self.cuts.pop(0) if self.cuts else None
        self.connections += 1
        try:
            resume = f"last-event-id: {self.seqs[-1]}\r\n" if self.seqs else ""
            writer.write(f"GET /v1/jobs/{self.job_id}/events HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\naccept: text/event-stream\r\n{resume}\r\n"
                         .encode())
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head.split(b" ", 2)[1])
            if status == 503:
                await asyncio.sleep(0.1)
                return
            assert status == 200, head
            rest = b""
            while size := int(await reader.readuntil(b"\r\n"), 16):     # chunks
                taken = size if left is None else min(size, left)
                rest += await reader.readexactly(taken)
                *blocks, rest = rest.split(b"\n\n")
                for block in blocks:
                    self._take(block)
                if left is not None and (left := left - taken) <= 0:
                    return
                await reader.readexactly(2)
        finally:
            writer.transport.abort()

    def _take(self, block: bytes) -> None:
        fields = dict(line.split(b": ", 1) for line in block.split(b"\n") if b": " in line and not line.startswith(b":"))
        if b"data" in fields:
            event: dict[str, Any] = json.loads(fields[b"data"])
            assert int(fields[b"id"]) == event["seq"] and fields[b"event"].decode() == event["type"]
            self.seqs.append(event["seq"])
            self.last = event["type"]


def job(events: int) -> dict[str, Any]:
    """Trains for so many epochs of some 5 ms."""
    return {"model": {"kind": "chain", "layers": [{"kind": "dense", "units": 64, "activation": "relu"}, {"kind": "dense", "units": 10}]},
            "loss": "logit_cross_entropy", "optimiser": "adam", "epochs": events, "max_attempts": 100,
            "data": {"dataset": "sample:digits", "target": "label", "batch_size": 32, "repeat": 4}}


def restart(server: Server, kill: bool) -> None:
    """End the whole service, suddenly or not, and start it again on its port."""
    server.process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
    server.process.wait(60)
    server.start()


@short_or_full("size", Size(20, 200, 3, 1), Size(200, 2000, 20, 3))
def test_every_client_ends_with_every_event_once(tmp_path: Path, size: Size, shown: Callable[[str], None]) -> None:
    chance, began = random.Random(7), time.monotonic()
    with serving(fresh(tmp_path / "home"), workers=1, threads=1) as server:
        user = User(server.url)
        job_id = user.submit(job(size.events))
        most = 300 * size.events // (size.cuts + 1)         # an event is written with some 500 bytes
        followers = [Follower(int(server.port), job_id, [chance.randrange(1, 2 * most) for _ in range(size.cuts)]) for _ in range(size.clients)]

        def disturb() -> None:
            for number in range(size.restarts):
                while User(server.url).get(f"/v1/jobs/{job_id}")["epoch"] < (number + 1) * size.events // (size.restarts + 2):
                    time.sleep(0.1)
                restart(server, kill=number % 2 == 0)

        async def everybody() -> None:
            following = asyncio.gather(*(follower.follow() for follower in followers))
            await asyncio.to_thread(disturb)
            await following

        asyncio.run(everybody())
        user = User(server.url)
        done = user.get(f"/v1/jobs/{job_id}")
        page = user.get(f"/v1/jobs/{job_id}/events", limit=1000, after=max(0, followers[0].seqs[-1] - 500))["data"]
        open_now = next(line for line in user.http.get("/metrics").text.splitlines() if line.startswith("trainyard_sse_clients "))
    last = page[-1]["seq"]
    assert done["status"] == "succeeded" and last >= size.events and open_now.endswith(" 0.0")
    assert all(follower.seqs == list(range(1, last + 1)) for follower in followers)
    cuts = sum(size.cuts - len(follower.cuts) for follower in followers)
    assert cuts == size.clients * size.cuts
    connections = sum(follower.connections for follower in followers)
    shown(f"{size.clients} clients over {connections:,} connections ({cuts:,} cut by themselves, {size.restarts} restarts of everything) "
          f"each have events 1..{last:,} once, in order, after {time.monotonic() - began:.0f} s")
