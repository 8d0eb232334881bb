"""What the store promises, on every kind of store."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import pytest

from service import jobs as states
from service.errors import ServiceError, StaleFence
from service.store import Event, Store
from service.store.curves import Curve
from tests.service.deeds import claimed, numbers, point, queued, types


def test_a_new_job_is_queued_with_its_first_event(store: Store):
    job = queued(store, metadata={"team": "a"})
    assert store.get_job(job["id"]) == job
    assert (job["status"], job["status_reason"], job["attempt"], job["seq"]) == ("queued", "waiting_for_worker", 0, 1)
    [event] = store.events(job["id"])
    assert event["type"] == "job.queued" and event["seq"] == 1 and event["id"] == states.event_id(job["id"], 1)
    assert store.queue_position(job) == 1


def test_lists_are_newest_first_filtered_and_paged(store: Store):
    ids = [queued(store, metadata={"n": str(n % 2), 'odd "key': "x"})["id"] for n in range(5)][::-1]
    rows, more = store.list_jobs(limit=2)
    assert [row["id"] for row in rows] == ids[:2] and more
    rows, more = store.list_jobs(limit=3, after=ids[1])
    assert [row["id"] for row in rows] == ids[2:] and not more
    assert [row["id"] for row in store.list_jobs(metadata={"n": "1", 'odd "key': "x"})[0]] == [ids[1], ids[3]]
    store.update_job(ids[0], metadata={"n": "1"}, name="new")
    assert [row["name"] for row in store.list_jobs(metadata={"n": "1"})[0]] == ["new", "digits", "digits"]
    assert store.list_jobs(status=["running", "paused"]) == ([], False)


def test_the_queue_gives_highest_priority_then_oldest(store: Store):
    low, first, second = queued(store, priority=-1), queued(store), queued(store)
    high = queued(store, priority=5)
    assert [store.queue_position(job) for job in (high, first, second, low)] == [1, 2, 3, 4]
    taken = [store.claim("here", 15) for _ in range(5)]
    assert [found[0].job_id if found else None for found in taken] == [high["id"], first["id"], second["id"], low["id"], None]


def test_a_run_is_recorded_and_ends(store: Store):
    claim = claimed(store)
    epoch = Event("epoch", "Epoch 1", {"epoch": 1, "step": 5, "train_loss": math.nan}, key="epoch:1")
    answer = store.record(claim, events=[epoch], curves={"loss": Curve([1, 2, 3, 4, 5], [5, 4, math.nan, 2, 1])},
                          job={"epoch": 1, "step": 5, "metrics": {"train_loss": math.inf}}, checkpoint=point(5, best=True))
    assert answer.status == "running" and answer.removed == []
    done = store.finish(claim, "succeeded", reason="completed", message="Done.", publish="digits-1").job
    assert (done["status"], done["progress"], done["lease_owner"], done["worker"]) == ("succeeded", 1.0, None, None)
    job = store.get_job(claim.job_id)
    assert job["metrics"] == {"train_loss": math.inf} and job["finished_at"] is not None
    assert types(store, claim.job_id) == ["job.queued", "epoch", "job.succeeded"] and numbers(store, claim.job_id) == [1, 2, 3]
    [attempt] = store.attempts(claim.job_id)
    assert (attempt["ended_by"], attempt["from_step"], attempt["to_step"]) == ("succeeded", 0, 5)
    assert store.get_model("digits-1")["job_id"] == claim.job_id
    with pytest.raises(ServiceError, match="digits-1"):
        store.delete_job(claim.job_id)
    store.unpublish("digits-1")
    store.delete_job(claim.job_id)
    with pytest.raises(ServiceError, match="there is no job"):
        store.get_job(claim.job_id)


def test_a_stale_fence_writes_nothing(store: Store):
    old = claimed(store)
    store.lost(old.job_id, old.fence)
    found = store.claim("there", 15)
    assert found is not None and found[0].fence == old.fence + 1
    before = (store.get_job(old.job_id), numbers(store, old.job_id))
    for write in (lambda: store.record(old, events=[Event("step")], curves={"loss": Curve([1], [1])}, checkpoint=point(9)),
                  lambda: store.release(old), lambda: store.finish(old, "succeeded", reason="completed", message=""),
                  lambda: store.lost(old.job_id, old.fence), lambda: store.holds(old)):
        with pytest.raises(StaleFence):
            write()
    assert (store.get_job(old.job_id), numbers(store, old.job_id)) == before and store.checkpoints(old.job_id) == []


def test_keyed_events_are_inserted_once_and_numbers_have_no_gaps(store: Store):
    claim = claimed(store)
    for _ in range(3):
        store.record(claim, events=[Event("step"), Event("epoch", "", {"epoch": 1}, key="epoch:1"), Event("step")])
    assert types(store, claim.job_id) == ["job.queued", "step", "epoch", "step", "step", "step", "step", "step"]
    assert numbers(store, claim.job_id) == list(range(1, 9))
    assert [event["type"] for event in store.events(claim.job_id, types=["epoch"])] == ["epoch"]


def test_numbers_have_no_gaps_when_worker_and_client_write_at_once(store: Store, open_store: Callable[[], Store]):
    claim, other = claimed(store), open_store()

    def ask() -> None:
        for _ in range(20):
            other.request_pause(claim.job_id)
            other.update_job(claim.job_id, priority=1)
        other.request_cancel(claim.job_id)

    asking = threading.Thread(target=ask)
    asking.start()
    for _ in range(50):
        store.record(claim, events=[Event("step"), Event("step")])
    asking.join()
    assert store.release(claim).status == "cancelled"
    assert numbers(store, claim.job_id) == list(range(1, 1 + 1 + 100 + 3))


def test_a_lost_worker_requeues_until_attempts_are_used_up(store: Store):
    claim = claimed(store, max_attempts=2)
    store.record(claim, job={"step": 7}, checkpoint=point(5))
    job = store.lost(claim.job_id, claim.fence, code="signal_9")
    assert (job["status"], job["status_reason"], job["losses"]) == ("queued", "worker_lost", 1)
    assert store.events(claim.job_id)[-1]["data"] == {"reason": "signal_9", "resumed_from": 5}
    second, _ = store.claim("here", 15) or pytest.fail("nothing to claim")
    store.record(second, checkpoint=point(6))                   # a new checkpoint: the count starts again
    assert store.lost(second.job_id, second.fence)["status"] == "queued"
    third, _ = store.claim("here", 15) or pytest.fail("nothing to claim")
    store.record(third, checkpoint=point(6))                    # a replayed one: it does not
    job = store.lost(third.job_id, third.fence, code="out_of_memory", kind="resource", message="The system killed the trainer.")
    assert (job["status"], job["error"]["code"], job["error"]["kind"]) == ("failed", "out_of_memory", "resource")
    assert [attempt["ended_by"] for attempt in store.attempts(job["id"])] == ["signal_9", "worker_lost", "out_of_memory"]
    assert [attempt["from_step"] for attempt in store.attempts(job["id"])] == [0, 5, 6]


def test_drains_and_pauses_never_use_up_attempts(store: Store):
    claim = claimed(store, max_attempts=1)
    for _ in range(3):
        assert store.release(claim, "draining", checkpoint=point(3)).job["status_reason"] == "draining"
        claim, _ = store.claim("here", 15) or pytest.fail("nothing to claim")
        store.request_pause(claim.job_id)
        assert store.record(claim).status == "pausing"
        assert store.release(claim).status == "paused"
        store.resume(claim.job_id)
        claim, _ = store.claim("here", 15) or pytest.fail("nothing to claim")
    assert store.get_job(claim.job_id)["attempt"] == 7 and store.get_job(claim.job_id)["losses"] == 0


@pytest.mark.parametrize(("wish", "end"), [("request_pause", "paused"), ("request_cancel", "cancelled")])
def test_a_worker_lost_while_stopping_has_stopped(store: Store, wish: str, end: str):
    claim = claimed(store)
    getattr(store, wish)(claim.job_id)
    assert store.lost(claim.job_id, claim.fence)["status"] == end


def test_an_expired_lease_is_claimed_again_and_a_renewed_one_is_not(store: Store, monkeypatch: pytest.MonkeyPatch):
    first = claimed(store, "one", lease=15)
    clock = states.seconds_now() + 20
    monkeypatch.setattr(states, "seconds_now", lambda: clock)
    store.renew("one", 15)
    assert store.claim("two", 15) is None
    clock += 20
    second, job = store.claim("two", 15) or pytest.fail("the lease has expired")
    assert (second.job_id, second.fence, job["attempt"]) == (first.job_id, first.fence + 1, 2)
    assert store.renew("one", 15) == [] and [row["fence"] for row in store.renew("two", 15)] == [second.fence]
    clock -= 24 * 3600                                          # the clock is set back by a day: the lease seems to end tomorrow
    assert (store.claim("three", 15) or pytest.fail("the job is stuck for a day"))[0].fence == second.fence + 1


def test_requests_follow_the_table_of_states(store: Store):
    job = queued(store)
    for wish in (store.request_pause, store.resume):
        with pytest.raises(ServiceError) as refused:
            wish(job["id"])
        assert refused.value.status == 409 and refused.value.more["allowed"] == ["running", "cancelled", "failed"]
    assert store.request_cancel(job["id"])["status"] == "cancelled"
    assert types(store, job["id"]) == ["job.queued", "job.cancelled"]
    with pytest.raises(ServiceError, match="it is over"):
        store.request_cancel(job["id"])
    with pytest.raises(ServiceError, match="fork"):
        store.adjust(job["id"], {"learning_rate": 0.1})


def test_a_live_change_keeps_the_step_where_it_took_effect(store: Store):
    claim = claimed(store)
    store.adjust(claim.job_id, {"learning_rate": 0.1}, epochs=7)
    store.adjust(claim.job_id, {"learning_rate": 0.2})
    store.record(claim, adjusted={1: (2, 30)})
    store.record(claim, adjusted={1: (3, 40)})                  # a replay does not move it
    assert [(row["number"], row["step"]) for row in store.adjustments(claim.job_id)] == [(1, 30), (2, None)]
    assert [row["number"] for row in store.adjustments(claim.job_id, after=1)] == [2]
    assert store.get_job(claim.job_id)["epochs"] == 7
