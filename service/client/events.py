"""A job's events as they happen, over server-sent events, without gap or repeat whatever the network does."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import httpx

from service.client.connection import Connection
from service.client.errors import Answered
from service.client.objects import Event, revive

QUIET = httpx.Timeout(10.0, read=45.0)      # the service sends a comment every 15 s


def watch(connection: Connection, job_id: str, after: int = 0, types: Iterable[str] = ()) -> Iterator[Event]:
    """Events from `after` on, until the one that ends the job. Connects again by itself; Unreachable when that fails for too long."""
    seen, tries = after, connection.tries()
    wanted = {"types": ",".join(types)} if types else {}
    while True:
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": str(seen)} if seen else {})}
        try:
            with connection.stream(f"/v1/jobs/{job_id}/events", headers=headers, params=wanted, timeout=QUIET) as response:
                if response.status_code == httpx.codes.NO_CONTENT:
                    return
                for event in parse(response.iter_lines()):
                    yield event
                    if event.is_last:
                        return
                    seen, tries = event.seq, connection.tries()
            failure: httpx.TransportError | Answered = httpx.RemoteProtocolError("the stream ended before the job did")
        except (httpx.TransportError, Answered) as error:
            failure = error
        connection.rest(failure, next(tries))


def parse(lines: Iterable[str]) -> Iterator[Event]:
    """Server-sent events from lines; what is cut off before its empty line never happened."""
    data: list[str] = []
    for line in lines:
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            yield Event.model_validate(revive(json.loads("\n".join(data))))
            data.clear()
