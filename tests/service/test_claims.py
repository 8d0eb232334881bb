"""Many processes on one queue (R6), random sequences against a model (R10)."""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from service import jobs as states
from service.errors import ServiceError, StaleFence
from service.jobs import Claim
from service.store import Event, Store

SPAWN = multiprocessing.get_context("spawn")


def work(home: Path, owner: str, jobs: int, answers: Any) -> None:
    """Claim and finish no-op jobs until none is left; answers with what was claimed, the longest claim, and the first error."""
    store, taken, slowest, idle = Store.at(home), [], 0.0, 0
    try:
        while idle < 20:
            begin = time.perf_counter()
            found = store.claim(owner, 60, {"pid": 0, "threads": 1})
            slowest = max(slowest, time.perf_counter() - begin)
            if found is None:
                idle += 1
                time.sleep(0.01)
                continue
            store.record(found[0], events=[Event("job.started")])
            store.finish(found[0], "succeeded", reason="completed", message="Done.")
            taken.append(found[0].job_id)
        answers.put((taken, slowest, None))
    except Exception as error:
        answers.put((taken, slowest, repr(error)))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("jobs", [200, pytest.param(5000, marks=pytest.mark.slow)])
def test_sixteen_claimants_take_each_job_once_and_never_meet_a_lock(store: Store, home: Path, jobs: int):
    with store.write("fill"):
        for _ in range(jobs):
            store.add_job({}, {})
    answers = SPAWN.Queue()
    claimants = [SPAWN.Process(target=work, args=(home, f"w{n}", jobs, answers)) for n in range(16)]
    for claimant in claimants:
        claimant.start()
    results = [answers.get(timeout=800) for _ in claimants]
    for claimant in claimants:
        claimant.join()
    assert [error for _, _, error in results if error] == []
    taken = Counter(job_id for ids, _, _ in results for job_id in ids)
    assert len(taken) == jobs and set(taken.values()) == {1}
    assert store.counts()["jobs"]["succeeded"] == jobs
    assert max(slowest for _, slowest, _ in results) < 5
    for job_id in list(taken)[:20]:
        assert [event["type"] for event in store.events(job_id)] == ["job.queued", "job.started", "job.succeeded"]


class Life(RuleBasedStateMachine):
    """Jobs under random wishes of clients, workers, supervisors and clocks. The model knows only each job's status and fence."""

    jobs, claims = Bundle("jobs"), Bundle("claims")
    template: Path

    @initialize()
    def start(self) -> None:
        self.home = Path(tempfile.mkdtemp())
        shutil.copy(self.template / "trainyard.db", self.home)
        self.store = Store.at(self.home)
        self.status: dict[str, str] = {}
        self.fence: dict[str, int] = {}
        self.ended: dict[str, dict[str, Any]] = {}

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.home)

    @rule(target=jobs, attempts=st.integers(1, 3))
    def create(self, attempts: int) -> str:
        job = self.store.add_job({}, {}, max_attempts=attempts)
        self.status[job["id"]], self.fence[job["id"]] = "queued", 0
        return job["id"]

    @rule(target=claims)
    def claim(self) -> Any:
        found = self.store.claim("here", 3600)
        waiting = [job_id for job_id, status in self.status.items() if status == "queued"]
        if found is None:
            assert not waiting
            return multiple()
        assert found[0].job_id == min(waiting)
        self.become(found[0].job_id, "running")
        self.fence[found[0].job_id] += 1
        assert found[0].fence == self.fence[found[0].job_id]
        return found[0]

    @rule(job_id=jobs, wish=st.sampled_from(["request_cancel", "request_pause", "resume"]))
    def ask(self, job_id: str, wish: str) -> None:
        old = self.status.get(job_id)
        goal = {"request_cancel": {"queued": "cancelled", "paused": "cancelled", "running": "cancelling", "pausing": "cancelling",
                                   "cancelling": "cancelling"},
                "request_pause": {"running": "pausing", "pausing": "pausing", "paused": "paused"}, "resume": {"paused": "queued"}}[wish].get(str(old))
        try:
            job = getattr(self.store, wish)(job_id)
        except ServiceError as error:
            assert error.status == (404 if old is None else 409) and goal is None
        else:
            assert job["status"] == goal
            if goal != old:
                self.become(job_id, str(goal))

    @rule(claim=claims, deed=st.sampled_from(["record", "checkpoint", "release", "succeeded", "failed", "lost"]))
    def act(self, claim: Claim, deed: str) -> None:
        job_id, old = claim.job_id, self.status.get(claim.job_id)
        rightful = old in states.HELD and self.fence[job_id] == claim.fence
        try:
            job = self.deed(claim, deed)
        except StaleFence:
            assert not rightful
            return
        assert rightful
        goals = {"record": {old}, "checkpoint": {old}, "release": {states.LET_GO[str(old)]}, "succeeded": {"succeeded"}, "failed": {"failed"},
                 "lost": {states.LET_GO[str(old)], "failed"} if old == "running" else {states.LET_GO[str(old)]}}[deed]
        assert job["status"] in goals
        if job["status"] != old:
            self.become(job_id, job["status"])

    def deed(self, claim: Claim, deed: str) -> dict[str, Any]:
        if deed == "record":
            return self.store.record(claim, events=[Event("step"), Event("epoch", key="epoch:1")]).job
        if deed == "checkpoint":
            file = {"epoch": 0, "metrics": {}, "path": "x", "bytes": 1, "sha256": ""}
            return self.store.record(claim, checkpoint={"step": claim.fence, **file}).job
        if deed == "release":
            return self.store.release(claim).job
        if deed == "lost":
            return self.store.lost(claim.job_id, claim.fence)
        return self.store.finish(claim, deed, reason="completed", message="").job

    @rule(job_id=consumes(jobs))
    def delete(self, job_id: str) -> None:
        old = self.status[job_id]
        try:
            self.store.delete_job(job_id)
        except ServiceError as error:
            assert error.status == 409 and old not in states.TERMINAL
        else:
            assert old in states.TERMINAL
            del self.status[job_id], self.ended[job_id]

    def become(self, job_id: str, new: str) -> None:
        assert new in states.TRANSITIONS[self.status[job_id]]
        self.status[job_id] = new
        if new in states.TERMINAL:
            self.ended[job_id] = self.store.get_job(job_id)

    @invariant()
    def the_store_agrees(self) -> None:
        if not hasattr(self, "store"):
            return
        for job_id, status in self.status.items():
            job = self.store.get_job(job_id)
            happened = self.store.events(job_id, limit=1000)
            assert (job["status"], job["fence"]) == (status, self.fence[job_id])
            assert [event["seq"] for event in happened] == list(range(1, job["seq"] + 1))
            assert sum(event["type"] == "epoch" for event in happened) <= 1
            assert [event["type"] for event in happened if event["type"] in states.TERMINAL_EVENTS] == [f"job.{status}"] * (status in states.TERMINAL)
            assert job == self.ended.get(job_id, job)


def live(empty_home: Path, sequences: int, steps: int) -> None:
    quiet = list(HealthCheck)
    machine = type("Life", (Life,), {"template": empty_home})
    machine.TestCase.settings = settings(max_examples=sequences, stateful_step_count=steps, deadline=None, suppress_health_check=quiet, database=None)
    machine.TestCase().runTest()


def test_random_lives_of_jobs_follow_the_table_of_states(empty_home: Path):
    live(empty_home, 25, 30)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_twenty_thousand_random_lives_of_jobs_follow_the_table_of_states(empty_home: Path):
    live(empty_home, 20_000, 30)
