"""What a job's webhooks are to be told, written in the transaction of the events that it tells of: neither is there without the other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Connection, bindparam, func, insert, select

from service import jobs as states
from service.jobs import Event
from service.store.database import tell
from service.store.tables import deliveries, targets

TOPIC = "webhooks"
PENDING, DELIVERED, GIVEN_UP, DISABLED = "pending", "delivered", "given_up", "disabled"
MOST_WAITING = 1000         # deliveries of one job; what is not its end is left out beyond that
LEFT_OUT = Event("warning", f"{MOST_WAITING:,} deliveries of webhooks wait: until some are taken, only the job's end is added.",
                 {"code": "webhooks_left_out"}, "warn", "webhooks_left_out")
SHOWN = ("epoch", "step", "code")       # what a webhook says of an event besides its names

_THIS = deliveries.c.job_id == bindparam("this_job")
_KIND = (deliveries.c.place, deliveries.c.type)
_LATEST = select(*_KIND, func.max(deliveries.c.created_at)).where(_THIS).group_by(*_KIND)
_WAITING = select(func.count()).select_from(deliveries).where(_THIS, deliveries.c.next_at.isnot(None))
_DISABLED = select(targets.c.url).where(targets.c.owner == bindparam("this_owner"), targets.c.disabled_at.isnot(None))


def hooks_of(spec: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The webhooks of a spec as a job's row has them."""
    found = [callback for callback in spec.get("callbacks", ()) if callback["kind"] == "webhook"]
    return [{name: hook[name] for name in ("url", "events", "min_seconds")} for hook in found] or None


def post(connection: Connection, job: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> bool:
    """Put what the job's webhooks want to hear of these events into the outbox. Whether something was left out because too much waits."""
    wanted = [(place, hook, row) for place, hook in enumerate(job["webhooks"]) for row in rows if row["type"] in hook["events"]]
    if not wanted:
        return False
    this = {"this_job": job["id"]}
    room = MOST_WAITING - connection.execute(_WAITING, this).scalar_one()
    disabled = set(connection.execute(_DISABLED, {"this_owner": job["owner"]}).scalars())
    latest: dict[tuple[int, str], float] = {}
    if any(hook["min_seconds"] for _, hook, _ in wanted):
        latest = {(place, type): states.seconds_of(moment) for place, type, moment in connection.execute(_LATEST, this)}
    made, left_out = [], False
    for place, hook, row in wanted:
        happened, key, last = states.seconds_of(row["created_at"]), (place, row["type"]), row["type"] in states.TERMINAL_EVENTS
        if not last and (hook["url"] in disabled or happened - latest.get(key, 0.0) < hook["min_seconds"]):
            continue
        if not last and len(made) >= room:
            left_out = True
            continue
        latest[key] = happened
        made.append(_delivery(job, place, hook["url"], row, DISABLED if hook["url"] in disabled else PENDING))
    if made:
        connection.execute(insert(deliveries), made)
        tell(connection, TOPIC)
    return left_out


def _delivery(job: Mapping[str, Any], place: int, url: str, event: Mapping[str, Any], status: str) -> dict[str, Any]:
    told = {name: event["data"][name] for name in SHOWN if name in event["data"]}
    data = {"id": job["id"], "status": job["status"], "event": states.event_id(job["id"], event["seq"]), **told}
    body = json.dumps({"type": event["type"], "timestamp": event["created_at"], "data": data}, separators=(",", ":"))
    over = status != PENDING
    return {"id": states.new_id("msg"), "job_id": job["id"], "owner": job["owner"], "place": place, "seq": event["seq"], "type": event["type"],
            "url": url, "host": urlsplit(url).netloc, "body": body, "status": status, "tries": [], "created_at": event["created_at"],
            "next_at": None if over else states.seconds_now(), "claimed_by": None, "finished_at": event["created_at"] if over else None}
