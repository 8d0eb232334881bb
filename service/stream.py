"""Waiting for something to happen: wake-ups over local sockets, with polling as the fallback, and the stream of a job's events.

A process that waits for a topic binds a datagram socket `<topic>.<pid>.<n>` in the run folder; whoever changes something sends the word to all
sockets of the topic. A wake-up may be lost (a full buffer, a crash between commit and send): waits are bounded, and what is true is in the store.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import itertools
import os
import socket
import tempfile
import threading
import weakref
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.store import Store
from service.store.asking import view

LONGEST = 107               # bytes of a unix socket's path, with its closing zero
POLL_SECONDS = 2.0
BATCH = 500                 # events read at once
SPREAD_SECONDS = 0.0002     # of the time until the next news, for each open stream
KEPT_LOOKS = 32
_numbers = itertools.count()


def run_folder(home: Path) -> Path:
    """Where the sockets of a home folder live; a short temporary folder when the path would be too long for a socket."""
    folder = home / "run"
    if len(os.fsencode(folder)) + len("/events.4294967296.999999") >= LONGEST:
        folder = Path(tempfile.gettempdir(), f"trainyard-{os.getuid()}-{hashlib.sha256(os.fsencode(home)).hexdigest()[:16]}")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


class Listener:
    """A socket that hears the words sent to one topic."""

    def __init__(self, folder: Path, topic: str):
        self.path = folder / f"{topic}.{os.getpid()}.{next(_numbers)}"
        self.path.unlink(missing_ok=True)       # left by a dead process that had this pid
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self._end = weakref.finalize(self, _close, self.socket, self.path)

    def wait(self, seconds: float) -> set[str]:
        """The words that came, as soon as there is one; empty after `seconds` without."""
        self.socket.settimeout(max(seconds, 0.001))
        try:
            words = {self.socket.recv(256).decode()}
        except TimeoutError:
            return set()
        return words | self.pending()

    def pending(self) -> set[str]:
        """The words that are there now."""
        words: set[str] = set()
        self.socket.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                words.add(self.socket.recv(256).decode())
        return words

    def close(self) -> None:
        self._end()


def _close(open_socket: socket.socket, path: Path) -> None:
    open_socket.close()
    path.unlink(missing_ok=True)


class Wake:
    """The wake-ups of one home folder."""

    def __init__(self, home: Path):
        self.folder = run_folder(home)
        self._listeners: dict[str, Listener] = {}
        self._turn = threading.Lock()
        self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sender.setblocking(False)

    def notify(self, topic: str, word: str = "") -> None:
        """Send `word` to everyone who waits for `topic`. Never blocks and never fails: who misses it polls."""
        for path in self.folder.glob(f"{topic}.*"):
            try:
                self._sender.sendto(word.encode(), str(path))
            except OSError as error:
                if error.errno == errno.ECONNREFUSED:      # its process died
                    path.unlink(missing_ok=True)

    def listen(self, topic: str) -> Listener:
        """This process's socket for a topic. It hears from the first call on: call once before looking at the store, then `wait`."""
        with self._turn:
            if topic not in self._listeners:
                self._listeners[topic] = Listener(self.folder, topic)
            return self._listeners[topic]

    def wait(self, topic: str, seconds: float) -> set[str]:
        """Block until a word comes for `topic`, at most `seconds`; for one thread per topic."""
        return self.listen(topic).wait(seconds)

    def close(self) -> None:
        for listener in self._listeners.values():
            listener.close()
        self._sender.close()


@dataclass
class Batch:
    """Events that were read at once, for all who follow from the same place."""

    events: list[dict[str, Any]]
    _written: dict[Callable[[dict[str, Any]], bytes], bytes] = field(default_factory=dict)

    def written(self, write: Callable[[dict[str, Any]], bytes]) -> bytes:
        """The events one after the other, written once however many read them."""
        if write not in self._written:
            self._written[write] = b"".join(map(write, self.events))
        return self._written[write]


Seen = tuple[Batch, int, bool | None]       # events, the number that they reach to, whether there are more (None: never again)


@dataclass
class Followers:
    """Who waits for one job; they were last told of news so that the next time may be at `due`."""

    events: set[asyncio.Event] = field(default_factory=set)
    due: float = 0.0
    timer: asyncio.TimerHandle | None = None


class Bell:
    """Wake-ups of jobs for one event loop: any number of tasks wait, each for its job, on one socket, and share one look at the store.

    Telling many takes time, so news that follow others soon wait a little and are told together: the cost does not grow with the streams.
    """

    def __init__(self, wake: Wake, poll: float = POLL_SECONDS):
        self.stopped = False
        self._listener = Listener(wake.folder, "events")
        self._followers: dict[str, Followers] = defaultdict(Followers)
        self._count = 0
        self._looks: dict[tuple[str, int, tuple[str, ...]], asyncio.Task[Seen]] = {}       # those of now, and the last few, while there are no news
        self._heads: dict[tuple[str, str], asyncio.Task[tuple[int, bool] | None]] = {}     # that are being read, by job and by whose jobs are seen
        self._loop, self._poll_seconds = asyncio.get_running_loop(), poll
        self._loop.add_reader(self._listener.socket, self._hear)
        self._timer = self._loop.call_later(poll, self._poll)

    def _hear(self) -> None:
        for job_id in self._listener.pending():
            self._ring(job_id)

    def _poll(self) -> None:
        """A wake-up may be lost: now and then everybody looks."""
        for job_id in list(self._followers):
            self._ring(job_id)
        self._timer = self._loop.call_later(self._poll_seconds, self._poll)

    def _ring(self, job_id: str) -> None:
        """Tell who follows the job, at once or when it is time."""
        self._forget(job_id)                # what is being read now may be older than the news
        followers = self._followers.get(job_id)
        if followers is None or followers.timer is not None:
            return
        if (left := followers.due - self._loop.time()) <= 0 or self.stopped:
            self._tell(followers)
        else:
            followers.timer = self._loop.call_later(left, self._tell, followers)

    def _tell(self, followers: Followers) -> None:
        followers.timer = None
        followers.due = self._loop.time() + SPREAD_SECONDS * self._count
        for event in followers.events:
            event.set()

    def _forget(self, job_id: str) -> None:
        for asked in [asked for asked in self._looks if asked[0] == job_id]:
            del self._looks[asked]

    async def look(self, store: Store, job_id: str, after: int, types: tuple[str, ...]) -> Seen:
        """`_look`, once for all who ask the same until there is news."""
        asked = job_id, after, types
        if asked not in self._looks:
            if len(self._looks) >= KEPT_LOOKS:
                for old in [old for old, task in self._looks.items() if task.done()][:KEPT_LOOKS // 2]:
                    del self._looks[old]
            self._looks[asked] = self._loop.create_task(asyncio.to_thread(_look, store, job_id, after, types))
        try:
            return await asyncio.shield(self._looks[asked])
        except Exception:
            self._looks.pop(asked, None)
            raise

    async def head(self, store: Store, job_id: str) -> tuple[int, bool] | None:
        """`Store.head`, read once for all who ask while it is read: many streams of a job begin together."""
        asked = job_id, view()
        if asked not in self._heads:
            self._heads[asked] = task = self._loop.create_task(asyncio.to_thread(store.head, job_id))
            task.add_done_callback(lambda _: self._heads.pop(asked, None))
        return await asyncio.shield(self._heads[asked])

    def subscribe(self, job_id: str) -> asyncio.Event:
        """An event that is set whenever the job has news."""
        event = asyncio.Event()
        self._followers[job_id].events.add(event)
        self._count += 1
        return event

    def unsubscribe(self, job_id: str, event: asyncio.Event) -> None:
        followers = self._followers[job_id]
        followers.events.discard(event)
        self._count -= 1
        if not followers.events:
            if followers.timer is not None:
                followers.timer.cancel()
            del self._followers[job_id]
            self._forget(job_id)

    def stop(self) -> None:
        """End all streams, after what they have not told yet."""
        self.stopped = True
        for followers in self._followers.values():
            if followers.timer is not None:
                followers.timer.cancel()
            self._tell(followers)

    def close(self) -> None:
        self._timer.cancel()
        self._loop.remove_reader(self._listener.socket)
        self._listener.close()


async def follow(store: Store, job_id: str, after: int = 0, types: Iterable[str] = (), *, bell: Bell | None = None, poll: float = POLL_SECONDS,
                 idle: float | None = None) -> AsyncGenerator[dict[str, Any] | None]:
    """`follow_batches`, event by event; None instead of an empty batch."""
    async with aclosing(follow_batches(store, job_id, after, types, bell=bell, poll=poll, idle=idle)) as batches:
        async for batch in batches:
            for event in batch.events or [None]:
                yield event


async def follow_batches(store: Store, job_id: str, after: int = 0, types: Iterable[str] = (), *, bell: Bell | None = None,
                         poll: float = POLL_SECONDS, idle: float | None = None) -> AsyncGenerator[Batch]:
    """A job's events after number `after`: those that have happened, then those that happen, up to and with the terminal one.

    With `idle`, an empty batch is yielded whenever nothing has come for so many seconds (send a comment then). Ends also when the job is removed or
    the bell is stopped. Without a bell it polls.
    """
    wanted, loop = tuple(types), asyncio.get_running_loop()
    news = bell.subscribe(job_id) if bell is not None else None
    spoke_at = loop.time()
    try:
        while True:
            if bell is None or news is None:
                batch, after, more = await asyncio.to_thread(_look, store, job_id, after, wanted)
            else:
                news.clear()
                batch, after, more = await bell.look(store, job_id, after, wanted)
            if batch.events:
                spoke_at = loop.time()
                yield batch
            if more is None or (bell is not None and bell.stopped):
                return
            if not more:
                await (asyncio.sleep(poll) if news is None else news.wait())
            if idle is not None and loop.time() - spoke_at >= idle:
                spoke_at = loop.time()
                yield Batch([])
    finally:
        if bell is not None and news is not None:
            bell.unsubscribe(job_id, news)


def _look(store: Store, job_id: str, after: int, types: tuple[str, ...]) -> Seen:
    """The next events, the number that they reach to, and whether there are more: None means that none will ever come."""
    with store.read():
        head = store.head(job_id)
        if head is None:
            return Batch([]), after, None
        last, ended = head
        batch = store.events(job_id, after=after, limit=BATCH, types=types) if after < last else []
    if len(batch) == BATCH and batch[-1]["seq"] < last:
        return Batch(batch), batch[-1]["seq"], True
    return Batch(batch), max(after, last), None if ended else False
