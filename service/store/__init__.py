"""The store: one truth about jobs, events, datasets and checkpoints. This page is its whole interface.

    store = Store.at(home, notify=Wake(home).notify)         # opened by each process for itself, after the supervisor's `migrate(home)`

Every method is one transaction and durable when it returns (SQLite WAL, synchronous=FULL). Methods called inside `with store.write("name"):` on the
same thread are part of that one transaction, and see each other's writes; `with store.read():` gives several reads one view. Rows are plain dicts of
the columns in `tables.py`. Methods block for about a millisecond: call them from a thread, not from the event loop. Errors for clients are
ServiceErrors (404, 409, 422, 507); StaleFence tells a worker that its claim is over and that nothing was written.

    datasets     add_dataset(row)  get_dataset(id)  list_datasets(after, limit)  delete_dataset(id) -> sha256
                 touch_datasets(ids)  outlived_datasets()  contents()
    jobs         add_job(spec, summary, name, epochs, priority, …, datasets=[ids], inline=dataset row)  get_job(id)
                 list_jobs(status, metadata, after, limit) -> (rows, has_more)  update_job(id, name, metadata, priority)
                 delete_job(id) -> [sha256]  attempts(id)  queue_position(job)  queue_positions(ids)  etas(places)
                 counts()  touch_job(id)  outlived_jobs()
    requests     request_cancel(id)  request_pause(id)  resume(id)  adjust(id, changes, epochs)  adjustments(id, after)  published_step(id)
                 (deleting with files: artifacts.delete_job, artifacts.delete_dataset)
    leases       claim(owner, lease_seconds, worker) -> (Claim, job) | None          the worker process
                 renew(owner, lease_seconds)  owned(owner)  lost(id, fence, code, kind, message, … as record)
                 release(claim, reason, happened, **columns)      stopped as asked: running -> queued, pausing -> paused, cancelling -> cancelled
    record       record(claim, events, curves, job, checkpoint, kept, adjusted) -> Recorded(job, removed files)
                 finish(claim, "succeeded" | "failed", reason, message, hint, error, publish, … as record)  holds(claim)
    reading      events(id, after, limit, types)  head(id) -> (seq, terminal)  checkpoints(id)  checkpoint(id, "last" | "best" | epoch)
                 checkpoint_paths()  job_ids()      (charts: curves.chart(store, id, series, by, points))
    once         recall(key, route, body_hash) -> Reply | None  remember(key, route, body_hash, reply)  expire_idempotency()
    origins      begin_from(job, origin, checkpoint, columns)
    models       publish(name, job_id, checkpoint)  get_model(name)  list_models(after, limit)  unpublish(name)
    tokens       add_token(name, scope, owner, seconds) -> (row, token)  list_tokens(after, limit)  live_tokens()  revoke_token(id)  touch_token(id)
                 stored_bytes(owner)
    audit        refused(asker, outcome)  list_audit(after, limit, token=…)  expire_audit(seconds, most)
    webhooks     take_delivery(courier, busy)  settle_delivery(delivery, tried, delivered, gone, again_in)  release_deliveries(couriers)  couriers()
                 next_delivery()  deliveries_waiting()  deliveries(job id, after, limit)  webhook_targets()  enable_target(url)
                 webhook_secrets(owner)  rotate_webhook_secret(overlap)      (written with their events: outbox.post)
    uploads      add_upload(row, seconds)  get_upload(id)  list_uploads(after, limit)  put_part(id, part, most, seconds)  end_upload(id, dataset id)
                 delete_upload(id)  expired_uploads()  part_files()  pending_uploads()  touch_upload(id, seconds)
    facts        get_setting(name)  set_setting(name, value)  check_writable()
    supervisors  tell_supervisor(owner, gpus, workers, seconds)  gpus()  workers()

What belongs to one owner is not there for another: see `asking`. The audit of a request's change is written in its transaction.

A POST that may be sent twice:

    with store.write("post"):
        if (reply := store.recall(key, route, body_hash)) is None:
            job = store.add_job(…)
            store.remember(key, route, body_hash, reply := Reply(202, show(job)))

After a commit the store calls `notify(topic, word)`: "queue" (a job can be claimed), "events" (job id: it has new events), "stop" (job id: its
worker should look at its status and adjustments), "webhooks" (there is something to deliver), "lease_expired" (job id: its worker was lost).
"""

from __future__ import annotations

from pathlib import Path

from service.jobs import Claim, Event
from service.store.audit import Audit
from service.store.checkpoints import Checkpoints
from service.store.database import Notify
from service.store.datasets import Datasets
from service.store.events import Events
from service.store.facts import Facts
from service.store.idempotency import Idempotency, Reply
from service.store.jobs import Jobs
from service.store.leases import Leases
from service.store.models import Models
from service.store.origins import Origins
from service.store.record import Record, Recorded
from service.store.requests import Requests
from service.store.supervisors import Supervisors
from service.store.tokens import Tokens
from service.store.uploads import Uploads
from service.store.webhooks import Webhooks

__all__ = ["Claim", "Event", "Recorded", "Reply", "Store"]


class Store(Datasets, Jobs, Requests, Leases, Record, Events, Checkpoints, Idempotency, Models, Webhooks, Facts, Tokens, Audit, Origins, Uploads,
            Supervisors):
    @classmethod
    def at(cls, home: Path, url: str = "", notify: Notify | None = None) -> Store:
        """The store of a home folder: `url` if given, else SQLite in `home/trainyard.db`. 503 unless the schema is this program's."""
        return cls(url or f"sqlite:///{home / 'trainyard.db'}", home, notify)
