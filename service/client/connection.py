"""Requests that are sent again where that is safe and can help."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, repeat
from typing import Any
from urllib.parse import urlsplit

import httpx

from service.client.errors import Answered, Failed, Refused, Unreachable
from service.client.objects import revive

BUSY = (429, 503)           # the service says that a later try may do
PAUSES = (0.1, 0.3, 1.0, 2.0)
MOST_PAUSE = 5.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Connection:
    """HTTP to one service. Once it has answered, it is given `patience` seconds to answer again (it may be restarting)."""

    def __init__(self, url: str, token: str, timeout: float, patience: float):
        url = url if "://" in url else f"http://{url}"
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        near = urlsplit(url).hostname in LOOPBACK       # no proxy stands before this machine
        self.url, self.patience, self.known = url.rstrip("/"), patience, False
        self.http = httpx.Client(base_url=self.url, headers=headers, timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)), trust_env=not near)

    def close(self) -> None:
        self.http.close()

    def json(self, method: str, path: str, **request: Any) -> Any:
        """The answer's JSON, non-finite numbers in place. Raises Refused, Failed or Unreachable."""
        return revive(self.send(lambda: self.http.request(method, path, **request)).json())

    def send(self, request: Callable[[], httpx.Response]) -> httpx.Response:
        """The good answer to a request that may be made more than once."""
        for pause in self.tries():
            try:
                return self.good(request())
            except (httpx.TransportError, Answered) as error:
                self.rest(error, pause)
        raise AssertionError("the last rest raises")

    def tries(self) -> Iterator[float | None]:
        """The pause after each try; None after the last."""
        deadline = time.monotonic() + self.patience
        for pause in chain(PAUSES, repeat(MOST_PAUSE)):
            if time.monotonic() + pause > deadline:
                break
            yield pause
        yield None

    def rest(self, error: httpx.TransportError | Answered, pause: float | None) -> None:
        """Wait for the next try. Raises when there is none, when it cannot help, or when nobody ever answered."""
        if isinstance(error, Answered):
            if error.status not in BUSY or pause is None:
                raise error
        elif pause is None or (isinstance(error, httpx.ConnectError) and not self.known):
            raise Unreachable(f"no service answers at {self.url} ({error}): start one with `trainyard serve`, or give another --url") from None
        time.sleep(pause)

    def good(self, response: httpx.Response) -> httpx.Response:
        """The answer, if it is a good one."""
        self.known = True
        if response.status_code < 400:
            return response
        response.read()
        try:
            body = response.json()
        except ValueError:
            body = {}
        body = body if isinstance(body, dict) else {}
        kind = Refused if response.status_code < 500 else Failed
        raise kind(response.status_code, body or {"title": f"HTTP {response.status_code}", "detail": response.text[:200]})

    @contextmanager
    def stream(self, path: str, method: str = "GET", **request: Any) -> Iterator[httpx.Response]:
        """A good answer whose body is read as it comes."""
        with self.http.stream(method, path, **request) as response:
            yield self.good(response)
