"""A large file on its way in parts: several at once, each again where its connection broke, until all are there."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import httpx

from service.client.connection import Connection
from service.client.errors import Answered, ClientError, Refused, Unreachable
from service.client.objects import Object

PART = 32 << 20             # bytes of a part
PIECE = 1 << 18
MOST_PARTS = 5000
AT_ONCE = 3
TRIES = 100                 # for one part, each with all the patience of the connection
Progress = Callable[[int, int], None]


def send(connection: Connection, path: Path, about: Mapping[str, Any], part: int = PART, progress: Progress | None = None) -> Object:
    """The dataset that a file becomes. `progress` is told (bytes sent, bytes in all)."""
    size = path.stat().st_size
    part = max(part, -(-size // MOST_PARTS))
    asked = {**about, "bytes": size}
    upload = connection.json("POST", "/v1/uploads", json=asked, headers={"Idempotency-Key": str(uuid.uuid4())})["id"]
    sender = Sender(connection, path, upload, part, size, progress)
    try:
        sender.send_all()
        return sender.complete()
    except (Answered, OSError, KeyboardInterrupt):
        with contextlib.suppress(ClientError, httpx.HTTPError):
            connection.http.delete(f"/v1/uploads/{upload}", timeout=5)
        raise


class Sender:
    def __init__(self, connection: Connection, path: Path, upload: str, part: int, size: int, progress: Progress | None):
        self.connection, self.path, self.upload, self.part, self.size, self.progress = connection, path, f"/v1/uploads/{upload}", part, size, progress
        self.sent, self.turn, self.stopped = 0, threading.Lock(), False

    def send_all(self) -> None:
        """All parts. The first error ends it."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            sending = [pool.submit(self.send_part, number) for number in range(1, -(-self.size // self.part) + 1)]
            try:
                done, _ = wait(sending, return_when=FIRST_EXCEPTION)
            finally:
                self.stopped = True
                for one in sending:
                    one.cancel()
            for one in done:
                one.result()

    def send_part(self, number: int) -> None:
        if self.stopped:
            return
        found, size = hashlib.sha256(), 0
        for piece in self.pieces(number):
            found.update(piece)
            size += len(piece)
        digest = found.hexdigest()

        def request() -> Any:
            return self.connection.http.put(f"{self.upload}/parts/{number}", params={"sha256": digest}, content=self.pieces(number), timeout=300,
                                            headers={"Content-Length": str(size)})

        self.patiently(lambda: self.connection.send(request), lambda there: digest in {part["sha256"] for part in there["parts"]})
        with self.turn:
            self.sent += size
            if self.progress is not None:
                self.progress(self.sent, self.size)

    def pieces(self, number: int) -> Iterator[bytes]:
        """The bytes of a part, never all at once."""
        left = self.part
        with self.path.open("rb") as file:
            file.seek((number - 1) * self.part)
            while left and (piece := file.read(min(PIECE, left))):
                left -= len(piece)
                yield piece

    def complete(self) -> Object:
        """The dataset, however long the service takes to read it."""
        def request() -> Any:
            return self.connection.http.post(f"{self.upload}/complete", timeout=None)

        while True:
            try:
                return self.patiently(lambda: self.connection.send(request)).json()
            except Refused as error:
                if error.code != "idempotency_running":
                    raise
                time.sleep(1.0)         # the connection broke, and the service goes on

    def patiently(self, call: Callable[[], Any], done: Callable[[Object], bool] = lambda there: False) -> Any:
        """What `call` gives. When its connections break for longer than patience lasts, and the service still answers, it is made again."""
        for left in reversed(range(TRIES)):
            try:
                return call()
            except Unreachable:
                if left == 0 or self.stopped or done(self.connection.json("GET", self.upload)):
                    if left and not self.stopped:
                        return None
                    raise
        raise AssertionError("the last try raises")
