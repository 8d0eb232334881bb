"""A stream is a replay of rows: no gap, no repeat, whatever is cut."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from service import stream
from service.routes.patience import within
from service.store import Claim, Event, Store
from service.stream import Bell, Wake, follow


def claimed(store: Store) -> Claim:
    store.add_job({}, {})
    found = store.claim("here", 60)
    assert found is not None
    return found[0]


def shout(home: Path, topic: str, word: str) -> None:
    Wake(home).notify(topic, word)


def test_a_word_wakes_another_process(home: Path):
    wake = Wake(home)
    assert wake.wait("queue", 0.01) == set()
    begin = time.perf_counter()
    other = multiprocessing.get_context("spawn").Process(target=shout, args=(home, "queue", "job_1"))
    other.start()
    assert wake.wait("queue", 60) == {"job_1"} and time.perf_counter() - begin < 50
    other.join()
    wake.notify("events", "nobody hears this")
    assert wake.wait("queue", 0.01) == set()
    wake.close()
    assert list(wake.folder.iterdir()) == []


def test_a_long_home_path_gets_a_short_run_folder(tmp_path: Path):
    home = tmp_path / ("long" * 30)
    home.mkdir()
    assert stream.run_folder(home) == stream.run_folder(home) != stream.run_folder(tmp_path / ("long" * 31))
    wake = Wake(home)
    wake.listen("queue")
    wake.notify("queue", "x")
    assert wake.wait("queue", 1) == {"x"}
    wake.close()


def test_sockets_of_dead_processes_are_removed_and_full_ones_never_block(home: Path):
    wake = Wake(home)
    dead = stream.Listener(wake.folder, "queue")
    dead.socket.close()
    wake.listen("queue")
    for _ in range(5000):
        wake.notify("queue", "x")
    assert not dead.path.exists() and wake.wait("queue", 1) == {"x"}
    wake.close()


def test_a_follower_gets_what_happened_and_what_happens_until_the_end(store: Store, open_store: Callable[[], Store]):
    wake = Wake(store.home)
    store.notify = wake.notify
    claim = claimed(store)
    store.record(claim, events=[Event("step") for _ in range(700)])
    delays: list[float] = []

    async def write() -> None:
        for _ in range(20):
            await asyncio.sleep(0.02)
            await asyncio.to_thread(store.record, claim, events=[Event("epoch", data={"at": time.perf_counter()})])
        await asyncio.to_thread(store.finish, claim, "succeeded", reason="completed", message="")

    async def read() -> list[int]:
        bell, seen = Bell(wake), []
        writing = asyncio.create_task(write())
        async for event in follow(open_store(), claim.job_id, bell=bell, poll=30):
            assert event is not None
            seen.append(event["seq"])
            if event["type"] == "epoch":
                delays.append(time.perf_counter() - event["data"]["at"])
        await writing
        bell.close()
        return seen

    assert asyncio.run(read()) == list(range(1, 1 + 1 + 700 + 20 + 1))
    assert sorted(delays)[10] < 1


def test_without_wake_ups_a_follower_polls_and_gives_signs_of_life(store: Store):
    claim = claimed(store)

    async def read() -> list[str | None]:
        seen: list[str | None] = []
        async for event in follow(store, claim.job_id, poll=0.01, idle=0.05):
            seen.append(event and event["type"])
            if seen.count(None) == 2 and event is None:
                await asyncio.to_thread(store.finish, claim, "failed", reason="internal", message="", error={})
        return seen

    assert asyncio.run(read())[:4] == ["job.queued", None, None, "job.failed"]


def test_a_stream_stays_open_while_paused_and_ends_when_the_job_is_removed(store: Store):
    claim = claimed(store)
    store.request_pause(claim.job_id)
    store.release(claim)

    async def read() -> list[str]:
        seen = []
        async for event in follow(store, claim.job_id, types=["job.paused"], poll=0.01, idle=0.05):
            if event is not None:
                seen.append(event["type"])
            elif len(seen) == 1:
                store.request_cancel(claim.job_id)
        return seen

    async def read_again() -> list:
        return [event async for event in follow(store, claim.job_id, after=store.get_job(claim.job_id)["seq"])]

    assert asyncio.run(read()) == ["job.paused", "job.cancelled"]
    assert asyncio.run(read_again()) == []
    store.delete_job(claim.job_id)

    async def read_nothing() -> list:
        return [event async for event in follow(store, claim.job_id)]

    assert asyncio.run(read_nothing()) == []


def test_twenty_clients_cut_three_times_see_every_event_once(store: Store, open_store: Callable[[], Store]):
    wake, events = Wake(store.home), 200
    store.notify = wake.notify
    claim, rng = claimed(store), random.Random(0)

    async def client(bell: Bell, reading: Store) -> list[int]:
        cuts, seen = sorted(rng.randrange(1, events) for _ in range(3)), [0]
        while True:
            stop = cuts.pop(0) if cuts else None
            async for event in follow(reading, claim.job_id, seen[-1], bell=bell):
                assert event is not None
                seen.append(event["seq"])
                if event["type"] == "job.succeeded":
                    return seen[1:]
                if stop is not None and len(seen) > stop:
                    break

    def write() -> None:
        for _ in range(events - 2):
            store.record(claim, events=[Event("step")])
        store.finish(claim, "succeeded", reason="completed", message="")

    async def all_clients() -> list[list[int]]:
        bell, reading = Bell(wake), open_store()
        *seen, _ = await asyncio.gather(*(client(bell, reading) for _ in range(20)), asyncio.to_thread(write))
        bell.close()
        return seen

    assert asyncio.run(all_clients()) == [list(range(1, events + 1))] * 20


def test_news_that_come_fast_are_told_together_and_all_of_them(store: Store, open_store: Callable[[], Store], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stream, "SPREAD_SECONDS", 0.02)
    wake, followers = Wake(store.home), 10
    store.notify = wake.notify
    claim = claimed(store)

    def write() -> None:
        for _ in range(60):
            store.record(claim, events=[Event("step")])
        store.finish(claim, "succeeded", reason="completed", message="")

    async def read(bell: Bell, reading: Store) -> list[list[int]]:
        return [[event["seq"] for event in batch.events] async for batch in stream.follow_batches(reading, claim.job_id, bell=bell)]

    async def all_readers() -> tuple[float, list[list[list[int]]]]:
        bell, reading = Bell(wake, poll=30), open_store()
        began = time.monotonic()
        *read_by_each, _ = await asyncio.gather(*(read(bell, reading) for _ in range(followers)), asyncio.to_thread(write))
        bell.close()
        return time.monotonic() - began, read_by_each

    passed, read_by_each = asyncio.run(all_readers())
    for batches in read_by_each:
        assert [seq for batch in batches for seq in batch] == list(range(1, 63))
        assert len(batches) <= 4 + passed / (0.02 * followers)


def test_many_who_begin_together_read_the_head_once(home: Path, monkeypatch):
    store = Store.at(home)
    job_id, asked = claimed(store).job_id, []
    head = store.head
    monkeypatch.setattr(store, "head", lambda name: asked.append(name) or head(name))

    async def ask() -> None:
        bell = Bell(Wake(home))
        first = await asyncio.gather(*(bell.head(store, job_id) for _ in range(50)))
        assert asked == [job_id] and first == [head(job_id)] * 50
        assert await bell.head(store, "job_none") is None and await bell.head(store, job_id) == first[0] and len(asked) == 3
        bell.close()

    asyncio.run(ask())
    store.close()


def test_work_that_waits_too_long_is_given_up_and_other_work_needs_no_timer():
    async def work(seconds: float, said: list[str]) -> None:
        said.append("begun")
        if seconds:
            await asyncio.sleep(seconds)
        said.append("done")

    async def ask() -> None:
        for seconds, expected in ((0.0, 2), (0.01, 2), (60.0, 1)):
            said: list[str] = []
            try:
                await within(0.05 if expected == 1 else 30, work(seconds, said))
            except TimeoutError:
                assert expected == 1
            assert len(said) == expected
        task = asyncio.create_task(within(30, work(60, [])))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(ask())
