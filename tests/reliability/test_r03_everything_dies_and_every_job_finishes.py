"""R3. Everything is killed 100 times during 30 mixed jobs: the store is intact each time, 60 s after the restart no live job is without an owner, no
file is without a row, all jobs finish, equal ones with equal bytes."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from service.jobs import HELD, TERMINAL
from service.store import Store
from tests.homes import fresh
from tests.reliability.crash_points import check
from tests.reliability.sizes import short_or_full
from tests.reliability.whole import intact, tidy, whole
from tests.service.running import until

LAYERS = [{"kind": "dense", "units": 64, "activation": "relu"}, {"kind": "dropout", "rate": 0.1}, {"kind": "dense", "units": "target"}]
DIGITS = {"dataset": "sample:digits", "target": "label", "batch_size": 16}
TABLE = "a,b,kind\n" + "".join(f"{n},{n * n % 17},{'odd' if n % 2 else 'even'}\n" for n in range(200))
INLINE = {"dataset": {"columns": {"x": [[n / 9, n % 3] for n in range(90)], "y": [n % 3 for n in range(90)]}}, "target": "y", "batch_size": 8}


def spec(data: dict[str, Any] = DIGITS, epochs: int = 200) -> dict[str, Any]:
    return {"model": {"kind": "chain", "layers": LAYERS}, "loss": "logit_cross_entropy", "optimiser": "adam", "data": data, "epochs": epochs,
            "callbacks": [{"kind": "checkpoint", "every_epochs": 20}]}


class Client:
    """A user who asks until there is an answer, and knows what became of the job."""

    def __init__(self, url: str, number: int):
        self.url, self.number, self.asked = url, number, 0
        self.job_id, self.others, self.failure = "", [], ""

    def ask(self, method: str, path: str, allowed: tuple[int, ...] = (), **sent: Any) -> httpx.Response:
        """An answer that is neither cut nor put off; other errors than the `allowed` ones are wrong."""
        self.asked += 1
        headers = {"Idempotency-Key": f"{self.number}-{self.asked}", **sent.pop("headers", {})} if method == "POST" else {}
        while True:
            try:
                answer = httpx.request(method, f"{self.url}{path}", headers=headers, timeout=60, trust_env=False, **sent)
            except httpx.TransportError:
                time.sleep(0.1)
                continue
            if answer.status_code == 503 or (answer.status_code == 409 and answer.json()["code"] == "idempotency_running"):
                time.sleep(0.1)
                continue
            assert answer.is_success or answer.status_code in allowed, answer.text
            return answer

    def submit(self, body: dict[str, Any]) -> str:
        return self.ask("POST", "/v1/jobs", json=body).json()["id"]

    def job(self) -> dict[str, Any]:
        return self.ask("GET", f"/v1/jobs/{self.job_id}").json()

    def wait(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while not (wanted(job := self.job()) or job["is_terminal"]):
            time.sleep(0.1)
        return job

    def end(self, status: str = "succeeded") -> None:
        job = self.wait(lambda job: False)
        assert job["status"] == status, (job["status"], job["message"], job["attempts"])

    def live(self) -> None:
        try:
            KINDS[self.number % len(KINDS)](self)
        except Exception as error:
            self.failure = f"job {self.number}: {error!r}"


def train(client: Client) -> None:
    client.job_id = client.submit(spec())
    client.end()


def bring_data(client: Client) -> None:
    client.job_id = client.submit(spec(INLINE))
    client.end()


def upload(client: Client) -> None:
    answer = client.ask("POST", "/v1/datasets?name=table", content=TABLE, headers={"content-type": "text/csv"})
    client.job_id = client.submit(spec({"dataset": answer.json()["id"], "target": "kind"}))
    client.end()


def pause_and_resume(client: Client) -> None:
    client.job_id = client.submit(spec())
    client.wait(lambda job: job["epoch"] > 5)
    client.ask("POST", f"/v1/jobs/{client.job_id}/pause", (409,))
    while client.wait(lambda job: job["status"] == "paused")["status"] == "paused":
        client.ask("POST", f"/v1/jobs/{client.job_id}/resume", (409,))
    client.end()


def cancel(client: Client) -> None:
    client.job_id = client.submit(spec(epochs=100_000))
    client.wait(lambda job: job["epoch"] > 5)
    client.ask("POST", f"/v1/jobs/{client.job_id}/cancel")
    client.end("cancelled")


def delete(client: Client) -> None:
    bring_data(client)
    client.ask("DELETE", f"/v1/jobs/{client.job_id}", (404,))
    client.job_id = ""


def predict_and_fork(client: Client) -> None:
    train(client)
    client.ask("POST", f"/v1/jobs/{client.job_id}/predict", json={"inputs": [[0.5] * 64]})
    client.job_id = client.ask("POST", f"/v1/jobs/{client.job_id}/fork", json={"more_epochs": 50}).json()["id"]
    client.end()


KINDS = (train, cancel, pause_and_resume, upload, bring_data, delete, predict_and_fork)
EQUAL = (train, pause_and_resume)


@short_or_full("size", (2, 5), (100, 30))
def test_everything_dies_and_every_job_finishes(tmp_path: Path, size: tuple[int, int], shown: Callable[[str], None]) -> None:
    (kills, jobs), chance, home = size, random.Random(3), fresh(tmp_path / "home")
    with whole(home, workers=2) as service:
        began = time.monotonic()
        clients = [Client(service.url, number) for number in range(jobs)]
        threads = [threading.Thread(target=client.live, daemon=True) for client in clients]
        for thread in threads:
            thread.start()
        time.sleep(1)
        for _ in range(kills):
            service.kill()
            intact(home)
            restarted = time.monotonic()
            service.launch()
            time.sleep(chance.random() * 8)
        service.kill()
        restarted = time.monotonic()
        service.start()
        store = Store.at(home)
        until(lambda: not unowned(store, service.pids()), 60 - time.monotonic() + restarted)
        for thread in threads:
            thread.join(600)
        assert [client.failure for client in clients if client.failure] == [] and not any(thread.is_alive() for thread in threads)
        took = time.monotonic() - began
    intact(home)
    check(store)
    tidy(store)
    rows = store.list_jobs(limit=100)[0]
    assert {row["status"] for row in rows} <= set(TERMINAL) and {client.job_id for client in clients} - {""} <= {row["id"] for row in rows}
    last = {store.checkpoint(client.job_id)["sha256"] for client in clients if KINDS[client.number % len(KINDS)] in EQUAL}
    assert len(last) == 1
    store.close()
    shown(f"everything killed {kills + 1} times in {took:.0f} s of {jobs} mixed jobs: store intact each time, all jobs ended as asked, "
          "equal ones with equal bytes, every file has its row")


def unowned(store: Store, pids: list[int]) -> list[str]:
    """Live jobs that no living worker holds, although their row says that one does."""
    return [row["id"] for row in store.owned() if row["status"] in HELD and (row["worker"] or {}).get("pid") not in pids]
