"""Owners take turns: nobody's queue keeps another one waiting, and nobody has more jobs running than allowed."""

from __future__ import annotations

from collections import Counter

import pytest

from service.jobs import TERMINAL
from service.store import Store
from service.store.asking import Asker, asking


def queue(store: Store, owner: str, count: int = 1, priority: int = 0) -> list[str]:
    """Queue jobs as somebody."""
    with asking(Asker(token=owner, owner=owner, scope="submit")):
        return [store.add_job({"epochs": 1}, {}, name=owner, epochs=1, priority=priority)["id"] for _ in range(count)]


def served(store: Store, count: int, most: int = 1 << 30, end: bool = True) -> list[str]:
    """The owners of the next jobs, each ended before the next is claimed, or left running."""
    names = []
    for _ in range(count):
        if (found := store.claim("here", 60, None, most)) is None:
            break
        names.append(found[1]["owner"])
        if end:
            store.finish(found[0], "succeeded", reason="completed", message="")
    return names


def test_a_long_queue_of_one_owner_keeps_nobody_waiting(store: Store) -> None:
    queue(store, "ada", 100)
    queue(store, "ben", 3)
    queue(store, "", 2)
    assert Counter(served(store, 6)) == {"ada": 2, "ben": 2, "": 2}
    assert Counter(served(store, 20)) == {"ada": 19, "ben": 1}


def test_priority_orders_the_jobs_of_one_owner_and_no_others(store: Store) -> None:
    low, = queue(store, "ada")
    high, = queue(store, "ada", priority=100)
    queue(store, "ben", 50, priority=100)
    taken = [store.claim("here", 60) for _ in range(4)]
    mine = [found[0].job_id for found in taken if found is not None and found[1]["owner"] == "ada"]
    assert mine == [high, low]


def test_an_owner_has_so_many_running_and_the_others_go_on(store: Store) -> None:
    queue(store, "ada", 5)
    queue(store, "ben", 5)
    queue(store, "", 5)
    assert Counter(served(store, 20, most=2, end=False)) == {"ada": 2, "ben": 2, "": 5}
    running = [row["id"] for row in store.list_jobs(status=["running"], limit=100)[0] if row["owner"] == "ada"]
    row = next(row for row in store.owned() if row["id"] == running[0])
    store.lost(row["id"], row["fence"])                         # her turn comes again
    assert served(store, 20, most=2, end=False) == ["ada"]


def test_places_are_told_among_ones_own(store: Store) -> None:
    queue(store, "ada", 100)
    mine = queue(store, "ben", 2)
    assert [store.queue_position(store.get_job(job_id)) for job_id in mine] == [1, 2] == list(store.queue_positions(mine).values())
    assert store.waiting("ben") == 2 and store.waiting() == 102


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)       # which says how it looks
def test_a_claim_looks_at_owners_and_not_at_all_their_jobs(store: Store) -> None:
    for owner in ("ada", "ben"):
        queue(store, owner, 300)
    with store.read() as connection:
        plan = " ".join(str(row) for row in connection.exec_driver_sql(
            "EXPLAIN QUERY PLAN SELECT id FROM jobs AS waiting WHERE waiting.status = 'queued' AND waiting.owner = 'ada' "
            "ORDER BY waiting.priority DESC, waiting.id LIMIT 1"))
    assert "USING COVERING INDEX jobs_queue" in plan and "TEMP B-TREE" not in plan


def test_each_claim_is_of_a_job_that_waits(store: Store) -> None:
    ids = set(queue(store, "ada", 20) + queue(store, "ben", 20))
    assert len(served(store, 100)) == 40
    assert {row["id"] for row in store.list_jobs(limit=100)[0] if row["status"] in TERMINAL} == ids


def test_an_eta_is_told_of_what_waits_from_how_long_jobs_took_lately(store: Store) -> None:
    first, = queue(store, "ada")
    assert store.etas({first: 1}) == {}                         # nothing has ended yet: nobody knows
    claim, _ = store.claim("here", 60) or pytest.fail("nothing to claim")
    store.record(claim, job={"elapsed_seconds": 10.0})
    store.finish(claim, "succeeded", reason="completed", message="")
    mine = queue(store, "ada", 4)
    assert store.etas(store.queue_positions(mine)) == dict(zip(mine, (10.0, 20.0, 30.0, 40.0), strict=True))
    queue(store, "ben", 1)                                      # takes every other turn, as long as he waits
    assert store.etas(store.queue_positions(mine)) == dict(zip(mine, (20.0, 40.0, 50.0, 50.0), strict=True))
    served(store, 2, end=False)                                 # two run at once
    waiting = [job_id for job_id in mine if job_id in store.queue_positions(mine)]
    assert set(store.etas(store.queue_positions(waiting)).values()) == {10.0, 20.0}
