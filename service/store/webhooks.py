"""Webhooks on their way: who delivers what, what came of it, the secrets that they are signed with, and receivers that are not told any more."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, func, insert, select, update

from service import jobs as states
from service.errors import not_found
from service.jobs import Event
from service.store.asking import current, owner
from service.store.changes import Row, change
from service.store.facts import Facts
from service.store.outbox import DELIVERED, DISABLED, GIVEN_UP, PENDING
from service.store.tables import deliveries, jobs, targets

CLAIM_SECONDS = 60.0                # a delivery whose courier was not heard of for so long is another's
FAILING_SECONDS = 5 * 86400.0       # a receiver that took nothing for so long is told nothing more
OVERLAP_SECONDS = 86400.0           # after a rotation both secrets sign for so long
SECRET_BYTES = 32

_DUE = select(deliveries.c.id).where(deliveries.c.next_at <= bindparam("now"), deliveries.c.host.not_in(bindparam("busy", expanding=True))).order_by(
    deliveries.c.next_at, deliveries.c.id).limit(1)
_NEXT = select(func.min(deliveries.c.next_at)).where(deliveries.c.next_at.isnot(None))


class Webhooks(Facts):
    def take_delivery(self, courier: str, busy: Iterable[str] = (), seconds: float = CLAIM_SECONDS) -> Row | None:
        """Take over the delivery that is due longest, to a host that is not `busy`; None when none is due. `settle_delivery` says what came of it,
        within so many seconds."""
        due = {"now": states.seconds_now(), "busy": list(busy)}
        with self.read() as connection:
            if connection.execute(_DUE, due).scalar() is None:
                return None
        with self.write("take_delivery") as connection:
            chosen = _DUE.with_for_update(skip_locked=True).scalar_subquery()
            taken = update(deliveries).where(deliveries.c.id == chosen).values(claimed_by=courier, next_at=states.seconds_now() + seconds)
            row = connection.execute(taken.returning(*deliveries.c), due).mappings().first()
        return None if row is None else dict(row)

    def settle_delivery(self, delivery: Row, tried: Row, *, delivered: bool = False, gone: bool = False, again_in: float | None = None) -> str:
        """Write what a try came to: {"at", "seconds", "code"?, "error"?}. Returns what the delivery is now.

        `gone`: the receiver wants no more (410). Otherwise it is tried again in so many seconds, or given up where there are none. Nothing is written
        when another courier has it.
        """
        with self.write("settle_delivery") as connection:
            mine = and_(deliveries.c.id == delivery["id"], deliveries.c.claimed_by == delivery["claimed_by"], deliveries.c.next_at.isnot(None))
            if connection.execute(select(deliveries.c.id).where(mine)).first() is None:
                return DELIVERED if delivered else PENDING
            disabled = not delivered and self._failed(connection, delivery, tried, gone)
            if delivered:
                connection.execute(delete(targets).where(_target(delivery["owner"], delivery["url"])))
            status = DELIVERED if delivered else DISABLED if disabled else GIVEN_UP if again_in is None else PENDING
            moment = states.seconds_now()
            ending: Row = {"next_at": moment + (again_in or 0.0)} if status == PENDING else {"next_at": None, "finished_at": states.iso(moment)}
            tries = [*delivery["tries"], tried]
            connection.execute(update(deliveries).where(mine).values(status=status, tries=tries, claimed_by=None, **ending))
            self._tell_job(connection, delivery, status)
        return status

    def _failed(self, connection: Connection, delivery: Row, tried: Row, gone: bool) -> bool:
        """Note that a receiver failed; whether it is told nothing more from now on: then what waits for it is over too."""
        where = _target(delivery["owner"], delivery["url"])
        known = connection.execute(select(targets).where(where)).mappings().first()
        since = known["failing_since"] if known else tried["at"]
        reason = "the receiver answered 410: it wants no more" if gone else "the receiver has taken nothing for 5 days"
        disabled = gone or states.seconds_now() - states.seconds_of(since) >= FAILING_SECONDS
        row = {"failing_since": since, "disabled_at": states.now() if disabled else None, "reason": reason if disabled else None}
        if known is None:
            connection.execute(insert(targets), {"owner": delivery["owner"], "url": delivery["url"], **row})
        elif known["disabled_at"] is None:
            connection.execute(update(targets).where(where).values(**row))
        if disabled:
            waiting = and_(deliveries.c.owner == delivery["owner"], deliveries.c.url == delivery["url"], deliveries.c.next_at.isnot(None),
                           deliveries.c.id != delivery["id"])
            connection.execute(update(deliveries).where(waiting).values(status=DISABLED, next_at=None, finished_at=states.now()))
        return disabled

    def _tell_job(self, connection: Connection, delivery: Row, status: str) -> None:
        """A job that still goes on says that a webhook reached nobody; of one that is removed nothing is kept."""
        job = connection.execute(select(jobs).where(jobs.c.id == delivery["job_id"])).mappings().first()
        if job is None and status != PENDING:
            connection.execute(delete(deliveries).where(deliveries.c.job_id == delivery["job_id"], deliveries.c.next_at.is_(None)))
        if job is not None and job["status"] in states.LIVE and status in (GIVEN_UP, DISABLED):
            message = f"The webhook {delivery['url']} was not delivered: {status.replace('_', ' ')}."
            warning = Event("warning", message, {"code": f"webhook_{status}", "url": delivery["url"]}, "warn", f"webhook:{delivery['place']}")
            change(connection, dict(job), [warning], {})
            self.tell("events", job["id"])

    def release_deliveries(self, couriers: Iterable[str]) -> None:
        """What dead couriers had taken is due at once."""
        if names := list(couriers):
            with self.write("release_deliveries") as connection:
                held = and_(deliveries.c.claimed_by.in_(names), deliveries.c.next_at.isnot(None))
                connection.execute(update(deliveries).where(held).values(claimed_by=None, next_at=states.seconds_now()))

    def couriers(self) -> list[str]:
        """Who has deliveries under way."""
        with self.read() as connection:
            return list(connection.execute(select(deliveries.c.claimed_by).where(deliveries.c.claimed_by.isnot(None)).distinct()).scalars())

    def next_delivery(self) -> float | None:
        """When the next one is due, in seconds since the epoch; None when none waits."""
        with self.read() as connection:
            return connection.execute(_NEXT).scalar()

    def deliveries_waiting(self) -> int:
        with self.read() as connection:
            return connection.execute(select(func.count()).select_from(deliveries).where(deliveries.c.next_at.isnot(None))).scalar_one()

    def deliveries(self, job_id: str, *, after: str | None = None, limit: int = 20) -> tuple[list[Row], bool]:
        """A job's deliveries, newest first, older than `after`; and whether there are more."""
        query = select(deliveries).where(deliveries.c.job_id == job_id).order_by(deliveries.c.id.desc()).limit(limit + 1)
        if after is not None:
            query = query.where(deliveries.c.id < after)
        with self.read() as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
        return rows[:limit], len(rows) > limit

    # ---------------------------------------------------------------- receivers and secrets

    def webhook_targets(self) -> list[Row]:
        """Receivers that fail or are told nothing more: of who asks, or all for the service's own."""
        mine = [] if (asker := current()) is None or asker.may("admin") else [targets.c.owner == asker.owner]
        with self.read() as connection:
            return [dict(row) for row in connection.execute(select(targets).where(*mine).order_by(targets.c.url)).mappings()]

    def enable_target(self, url: str) -> None:
        """Tell a receiver again. 404 when it never failed."""
        mine = [] if (asker := current()) is None or asker.may("admin") else [targets.c.owner == asker.owner]
        with self.write("enable_target") as connection:
            if not connection.execute(delete(targets).where(targets.c.url == url, *mine)).rowcount:
                raise not_found("failing receiver", url[:200])

    def webhook_secrets(self, of: str | None = None) -> list[str]:
        """The secrets that sign an owner's webhooks now, newest first; the first is made when it is asked for."""
        name = _secrets_of(owner() if of is None else of)
        with self.read():
            kept = _current(self.get_setting(name, []))
        if not kept:
            with self.write("webhook_secrets"):
                kept = _current(self.get_setting(name, []))
                if not kept:
                    self.set_setting(name, kept := [{"secret": _new_secret()}])
        return [row["secret"] for row in kept]

    def rotate_webhook_secret(self, overlap: float = OVERLAP_SECONDS) -> list[str]:
        """A new secret; those before it go on signing beside it for `overlap` seconds more."""
        name, until = _secrets_of(owner()), states.seconds_now() + overlap
        with self.write("rotate_webhook_secret"):
            before = [{**row, "until": min(until, row.get("until", until))} for row in _current(self.get_setting(name, []))] if overlap else []
            self.set_setting(name, kept := [{"secret": _new_secret()}, *before][:3])
        return [row["secret"] for row in kept]


def _target(owned_by: str, url: str) -> ColumnElement[bool]:
    return and_(targets.c.owner == owned_by, targets.c.url == url)


def _secrets_of(owned_by: str) -> str:
    return f"webhook_secrets:{owned_by}"


def _current(kept: list[Row]) -> list[Row]:
    return [row for row in kept if row.get("until", states.seconds_now() + 1) > states.seconds_now()]


def _new_secret() -> str:
    return f"whsec_{base64.b64encode(os.urandom(SECRET_BYTES)).decode()}"
