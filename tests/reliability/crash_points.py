"""Every named point at which a process may die, in one table: what it is between, and how to see on which side of it the world is.

A transaction has the points NAME.before_commit and NAME.after_commit, a file that is written whole the five of FILE_MOMENTS; a few are single. What
must hold at each of them, at once and when another process has gone on, are the INVARIANTS.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service import artifacts, datasets
from service.datasets.parts import IncomingPart
from service.jobs import HELD, TERMINAL, TERMINAL_EVENTS, now
from service.origins import Held
from service.store import Event, Reply, Store
from service.store.asking import Asker
from tests.service.deeds import claimed, point, queued

Scene = Any
DATASET = {"name": "a", "format": "csv", "bytes": 1, "rows": 1, "columns": [], "warnings": []}
UPLOAD = {"name": "a", "media_type": "text/csv", "options": {}}
COMMITS = {"before_commit": 1, "after_commit": 0}       # how many of the deeds that were begun nobody sees
FILE_MOMENTS = {"mid_write": 1, "before_fsync": 1, "after_fsync": 1, "after_rename": 0, "after_folder_fsync": 0}


@dataclass(frozen=True)
class Deed:
    """One transaction, done twice: the points before and after its commit."""

    between: str                                    # what is not yet true before, and is true after
    do: Callable[[Store, Scene, int], Any]          # with what `before` gave, the first or the second time
    seen: str                                       # SQL: how often it was done; "" where no count tells
    before: Callable[[Store], Scene] = lambda store: None


def jobs(status: str) -> str:
    return f"SELECT count(*) FROM jobs WHERE status = '{status}'"


def two(make: Callable[[Store], Any]) -> Callable[[Store], list[Any]]:
    return lambda store: [make(store), make(store)]


def two_queued(store: Store) -> list[str]:
    return [queued(store)["id"] for _ in range(2)]


def two_paused(store: Store) -> list[str]:
    claims = [claimed(store), claimed(store)]
    for claim in claims:
        store.request_pause(claim.job_id)
        store.release(claim)
    return [claim.job_id for claim in claims]


def two_done(store: Store) -> list[str]:
    claims = [claimed(store), claimed(store)]
    for claim in claims:
        store.finish(claim, "succeeded", reason="completed", message="Done.")
    return [claim.job_id for claim in claims]


def two_datasets(store: Store) -> list[str]:
    return [add_dataset(store, number) for number in range(2)]


def content(store: Store, number: int) -> dict[str, Any]:
    """Write the content of a dataset; its row."""
    artifacts.write(artifacts.content_folder(store.home, f"{number}") / "content", b"x")
    return {**DATASET, "sha256": f"{number}"}


def add_dataset(store: Store, number: int) -> str:
    row = content(store, number)
    with artifacts.pinned(store, row["sha256"]):
        return store.add_dataset(row)["id"]


def post(store: Store, key: int) -> str:
    """A POST with an idempotency key, as the routes do it."""
    with store.write("post"):
        if (reply := store.recall(f"key {key}", "/v1/jobs", "body")) is None:
            reply = Reply(202, queued(store)["id"])
            store.remember(f"key {key}", "/v1/jobs", "body", reply)
    return reply.body


def two_uploads(store: Store) -> list[str]:
    return [store.add_upload(UPLOAD, 60)["id"] for _ in range(2)]


def discarded(store: Store) -> list[str]:
    """Content that no dataset names any more."""
    for number in range(2):
        store.delete_dataset(add_dataset(store, number))
    return ["0", "1"]


def two_tokens(store: Store) -> list[str]:
    return [store.add_token("a", "read")[0]["id"] for _ in range(2)]


def two_deliveries(store: Store) -> list[Any]:
    """Two that a courier has taken."""
    for number in range(2):
        hook = {"kind": "webhook", "url": f"https://{number}.example/", "events": ["job.queued"], "min_seconds": 0}
        store.add_job({"callbacks": [hook]}, {})
    return [store.take_delivery(f"courier {number}") for number in range(2)]


def two_failed(store: Store) -> list[str]:
    for row in (found := two_deliveries(store)):
        store.settle_delivery(row, {"at": now(), "seconds": 0}, gone=True)
    return [row["url"] for row in found]


def waiting(store: Store) -> None:
    store.release_deliveries(row["claimed_by"] for row in two_deliveries(store))


def put_part(store: Store, upload_id: str, number: int) -> None:
    artifacts.write(artifacts.upload_folder(store.home, upload_id) / f"{number}", b"x")
    store.put_part(upload_id, {"number": number, "bytes": 1, "sha256": "", "file": f"{number}"}, 10, 60)


def originate(store: Store, number: int) -> None:
    """A job that begins with a file, as a fork does."""
    artifacts.write(store.home / "source", b"x")
    held = Held(store.home, store.home / "source")
    row = store.add_job({}, {}, job_id=f"job_{number}", name="begun")
    file = held.settle(Path("jobs", row["id"], "checkpoints", "1.safetensors"))
    store.begin_from(row, {"kind": "fork"}, checkpoint={"step": 1, "epoch": 1, "metrics": {}, "best": False, **file})


def ingest(store: Store, number: int) -> None:
    datasets.ingest_inline(store.home, columns={"x": [1, 2, number]}, name="x")


def take_part(store: Store, number: int) -> None:
    with IncomingPart(artifacts.upload_folder(store.home, "upload"), number, 10) as coming:
        coming.write(b"x")
        coming.finish(None)


def tell(store: Store, claim: Any, number: int) -> None:
    file = artifacts.write_checkpoint(store.home, claim.job_id, number, b"x")
    store.record(claim, events=[Event("epoch", key=f"epoch:{number}")], checkpoint={**point(number), **file})


TRANSACTIONS = {
    "post": Deed("a job and the answer to its key are written | the client may be told", lambda s, _, n: post(s, n), "SELECT count(*) FROM jobs"),
    "add_job": Deed("a job with its first event is written | it can be claimed", lambda s, _, n: queued(s), "SELECT count(*) FROM jobs"),
    "remember": Deed("an answer is written | it is given again", lambda s, _, n: s.remember(f"{n}", "/", "", Reply(200, None)),
                     "SELECT count(*) FROM idempotency"),
    "claim": Deed("a job is chosen and its fence raised | this worker holds it", lambda s, _, n: s.claim("here", 60), jobs("running"), two_queued),
    "renew": Deed("leases are lengthened | others see it", lambda s, claims, n: s.renew("here", 1e6 * (n + 1)),
                  "SELECT max(lease_expires_at > strftime('%s') + 5e5) + max(lease_expires_at > strftime('%s') + 1.5e6) FROM jobs", two(claimed)),
    "record": Deed("events, curves and a checkpoint's row are written | they are told", lambda s, claim, n: tell(s, claim, n + 1),
                   "SELECT count(*) FROM checkpoints", claimed),
    "finish": Deed("the last event and status are written | the job is over",
                   lambda s, claims, n: s.finish(claims[n], "succeeded", reason="completed", message=""), jobs("succeeded"), two(claimed)),
    "release": Deed("a worker lets go | others may claim", lambda s, claims, n: s.release(claims[n]), jobs("queued"), two(claimed)),
    "lost": Deed("a worker is noted as lost | others may claim", lambda s, claims, n: s.lost(claims[n].job_id, claims[n].fence),
                 jobs("queued"), two(claimed)),
    "request_cancel": Deed("a cancel is written | the client is told", lambda s, ids, n: s.request_cancel(ids[n]), jobs("cancelled"), two_queued),
    "request_pause": Deed("a pause is asked | the trainer sees it", lambda s, claims, n: s.request_pause(claims[n].job_id), jobs("pausing"),
                          two(claimed)),
    "resume": Deed("a paused job is queued | it can be claimed", lambda s, ids, n: s.resume(ids[n]), jobs("queued"), two_paused),
    "adjust": Deed("a live change is noted | the trainer sees it", lambda s, ids, n: s.adjust(ids[0], {"learning_rate": n}),
                   "SELECT count(*) FROM adjustments", two_queued),
    "create": Deed("a job is written | its answer is", lambda s, _, n: nested(s, "create", queued, s), "SELECT count(*) FROM jobs"),
    "update_job": Deed("a job gets a name | others see it", lambda s, ids, n: s.update_job(ids[n], name="new"),
                       "SELECT count(*) FROM jobs WHERE name = 'new'", two_queued),
    "touch_job": Deed("a use of a model is noted | it is kept longer", lambda s, ids, n: s.touch_job(ids[n]),
                      "SELECT count(used_at) FROM jobs", two_queued),
    "delete_job": Deed("a job's rows go | its files do", lambda s, ids, n: artifacts.delete_job(s, ids[n]), "SELECT 2 - count(*) FROM jobs",
                       two_done),
    "add_dataset": Deed("a dataset's row is written | jobs may read it", lambda s, _, n: s.add_dataset(content(s, n)),
                        "SELECT count(*) FROM datasets"),
    "pinned": Deed("content that nobody removes meanwhile has a row | jobs may read it", lambda s, _, n: add_dataset(s, n),
                   "SELECT count(*) FROM datasets"),
    "touch_datasets": Deed("a use of a dataset is noted | it is kept longer", lambda s, ids, n: s.touch_datasets(ids),
                           "", two_datasets),
    "delete_dataset": Deed("a dataset's row goes | its files do", lambda s, ids, n: artifacts.delete_dataset(s, ids[n]),
                           "SELECT 2 - count(*) FROM datasets", two_datasets),
    "discard_content": Deed("content without a row is moved away | it is removed", lambda s, names, n: artifacts.discard_content(s, names[n]),
                            "", discarded),
    "sweep": Deed("what no row names is found | it is removed", lambda s, _, n: artifacts.sweep(s), "", discarded),
    "add_upload": Deed("an upload in parts is begun | its parts may come", lambda s, _, n: s.add_upload(UPLOAD, 60), "SELECT count(*) FROM uploads"),
    "put_part": Deed("a part has its row | the client is told", lambda s, ids, n: put_part(s, ids[0], n), "SELECT count(*) FROM upload_parts",
                     two_uploads),
    "touch_upload": Deed("an upload is asked for | it is kept longer", lambda s, ids, n: s.touch_upload(ids[n], 60), "", two_uploads),
    "end_upload": Deed("a dataset of parts has its row | the parts go", lambda s, ids, n: s.end_upload(ids[n], "ds_x"),
                       "SELECT count(*) FROM uploads WHERE status = 'completed'", two_uploads),
    "delete_upload": Deed("an upload's rows go | its files do", lambda s, ids, n: artifacts.delete_upload(s, ids[n]),
                          "SELECT 2 - count(*) FROM uploads", two_uploads),
    "expire_idempotency": Deed("old answers go | they are gone", lambda s, _, n: s.expire_idempotency(), ""),
    "set_setting": Deed("a fact is written | it is known", lambda s, _, n: s.set_setting(f"fact {n}", 1),
                        "SELECT count(*) FROM settings WHERE name LIKE 'fact%'"),
    "tell_supervisor": Deed("a supervisor's GPUs and workers are written | jobs for a GPU are accepted",
                            lambda s, _, n: s.tell_supervisor(f"{n}", [{"index": 0}], 1, 60),
                            "SELECT count(*) FROM settings WHERE name LIKE 'supervisor:%'"),
    "publish": Deed("a name is given | it answers", lambda s, ids, n: s.publish("name", ids[n]), "SELECT count(*) FROM models", two_done),
    "put_model": Deed("a name is given and its answer written | the client is told",
                      lambda s, ids, n: nested(s, "put_model", s.publish, "name", ids[n]), "SELECT count(*) FROM models", two_done),
    "unpublish": Deed("a name goes | it is unknown", lambda s, ids, n: s.unpublish(f"{n}"), "SELECT 2 - count(*) FROM models",
                      lambda s: [s.publish(f"{n}", job_id) for n, job_id in enumerate(two_done(s))]),
    "change": Deed("a PATCH and its answer are written | the client is told", lambda s, ids, n: nested(s, "change", s.adjust, ids[0], {}),
                   "SELECT count(*) FROM adjustments", two_queued),
    "begin_from": Deed("a job gets what it begins with | it can be claimed", lambda s, ids, n: s.begin_from({"id": ids[n]}, {"kind": "fork"}),
                       "SELECT count(origin) FROM jobs", two_queued),
    "add_token": Deed("a token's hash is written | it is told", lambda s, _, n: s.add_token("a", "read"), "SELECT count(*) FROM tokens"),
    "revoke_token": Deed("a token is revoked | it is refused", lambda s, ids, n: s.revoke_token(ids[n]), "SELECT count(revoked_at) FROM tokens",
                         two_tokens),
    "touch_token": Deed("a use of a token is noted | it is shown", lambda s, ids, n: s.touch_token(ids[n]), "SELECT count(last_used_at) FROM tokens",
                        two_tokens),
    "refused": Deed("a refusal is noted | it is answered", lambda s, _, n: s.refused(Asker(), "forbidden"), "SELECT count(*) FROM audit"),
    "expire_audit": Deed("old rows of the audit go | they are gone", lambda s, _, n: s.expire_audit(60, 100), ""),
    "take_delivery": Deed("a courier takes a delivery | it is sent", lambda s, _, n: s.take_delivery("courier"),
                          "SELECT count(claimed_by) FROM webhook_deliveries", waiting),
    "settle_delivery": Deed("a delivery was taken | it is not sent again",
                            lambda s, rows, n: s.settle_delivery(rows[n], {"at": now(), "seconds": 0}, delivered=True),
                            "SELECT count(*) FROM webhook_deliveries WHERE status = 'delivered'", two_deliveries),
    "release_deliveries": Deed("a dead courier's deliveries are due | others take them",
                               lambda s, rows, n: s.release_deliveries([rows[n]["claimed_by"]]),
                               "SELECT sum(claimed_by IS NULL) FROM webhook_deliveries", two_deliveries),
    "enable_target": Deed("a receiver is enabled | it is told again", lambda s, urls, n: s.enable_target(urls[n]),
                          "SELECT 2 - count(*) FROM webhook_targets", two_failed),
    "enable": Deed("a receiver is enabled and the answer written | the client is told",
                   lambda s, urls, n: nested(s, "enable", s.enable_target, urls[n]), "SELECT 2 - count(*) FROM webhook_targets", two_failed),
    "webhook_secrets": Deed("the first secret is written | it signs", lambda s, _, n: s.webhook_secrets(f"{n}"),
                            "SELECT count(*) FROM settings WHERE name LIKE 'webhook_secrets:%'"),
    "rotate_webhook_secret": Deed("a new secret is written | it signs", lambda s, _, n: s.rotate_webhook_secret(),
                                  "SELECT sum(json_array_length(value)) FROM settings WHERE name = 'webhook_secrets:'"),
}

FILES = {       # place: what is written, in two generations
    "checkpoint": ("a checkpoint's file | its row", "jobs/*/checkpoints/*.safetensors",
                   lambda s, n: artifacts.write_checkpoint(s.home, "job", n, b"xy")),
    "file": ("any other file | what names it", "datasets/*/content",
             lambda s, n: artifacts.write(artifacts.content_folder(s.home, f"{n}") / "content", b"xy")),
}

RENAMES = {     # what gets its name when it is durable: as FILES
    "dataset": ("a dataset's columns | their row", "datasets/[!.]*", ingest),
    "part": ("a part of an upload | its row", "uploads/upload/[!.]*", take_part),
    "origin": ("what a job begins with | its row", "jobs/*/checkpoints/*", originate),
}
RENAME_MOMENTS = {"before_rename": 1, "after_rename": 0}

OTHERS = {
    "migrate.after_backup": "a copy of the store is made | its schema changes",
    "migrate.before_commit": "the schema has changed | others see it",
    "migrate.after_commit": "the schema has changed | the service starts",
    "train.{self.row['name']}": "a job is claimed | it is trained: for tests that poison a job by its name (R12)",
    "device.{self.row['name']}": "a job is claimed | it is trained: its device fails in the worker, which lives to tell",
}

POINTS = [*(f"{name}.{moment}" for name in TRANSACTIONS for moment in COMMITS), *(f"{place}.{moment}" for place in FILES for moment in FILE_MOMENTS),
          *(f"{place}.{moment}" for place in RENAMES for moment in RENAME_MOMENTS), *OTHERS]


def nested(store: Store, name: str, deed: Callable[..., Any], *arguments: Any) -> None:
    with store.write(name):
        deed(*arguments)


# ---------------------------------------------------------------- what holds, whoever dies where


def whole(store: Store, raw: sqlite3.Connection) -> None:
    """Pages, indices and references."""
    assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)] and raw.execute("PRAGMA foreign_key_check").fetchall() == []


def numbered(store: Store, raw: sqlite3.Connection) -> None:
    """Events are numbered without a gap, up to the number in the job's row."""
    for job_id, seq in raw.execute("SELECT id, seq FROM jobs").fetchall():
        assert [row[0] for row in raw.execute("SELECT seq FROM events WHERE job_id = ? ORDER BY seq", (job_id,))] == list(range(1, seq + 1))


def told_once(store: Store, raw: sqlite3.Connection) -> None:
    """An event with a key is there once; the terminal one exactly where the job is over, and last."""
    assert raw.execute("SELECT 1 FROM events WHERE key IS NOT NULL GROUP BY job_id, key HAVING count(*) > 1").fetchall() == []
    for job_id, status, seq in raw.execute("SELECT id, status, seq FROM jobs").fetchall():
        ends = raw.execute(f"SELECT type, seq FROM events WHERE job_id = ? AND type IN {TERMINAL_EVENTS}", (job_id,)).fetchall()
        assert ends == ([(f"job.{status}", seq)] if status in TERMINAL else [])


def owned(store: Store, raw: sqlite3.Connection) -> None:
    """A job is held exactly where it has a lease and one open attempt, the newest, under its fence."""
    for job_id, status, owner, attempt, fence in raw.execute("SELECT id, status, lease_owner, attempt, fence FROM jobs").fetchall():
        open_ones = raw.execute("SELECT attempt, fence FROM attempts WHERE job_id = ? AND ended_at IS NULL", (job_id,)).fetchall()
        assert (status in HELD) == (owner is not None) and open_ones == ([(attempt, fence)] if status in HELD else [])


def answered(store: Store, raw: sqlite3.Connection) -> None:
    """A job whose POST is remembered exists."""
    known = {f'"{row[0]}"' for row in raw.execute("SELECT id FROM jobs")}
    assert {row[0] for row in raw.execute("SELECT body FROM idempotency WHERE route = '/v1/jobs'")} <= known


INVARIANTS = (whole, numbered, told_once, owned, answered)


def check(store: Store) -> None:
    """Every invariant, on a store that nobody writes."""
    raw = sqlite3.connect(Path(store.home, "trainyard.db"))
    for invariant in INVARIANTS:
        invariant(store, raw)
    raw.close()
