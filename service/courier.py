"""The process that delivers webhooks. It reads the outbox and the answers of receivers; nothing and nobody waits for it.

Every delivery is tried until a receiver takes it (2xx) or the tries are over: at once, then after the pauses of the settings. What was being sent
when this process died is sent again, under the same id.
"""

from __future__ import annotations

import logging
import random
import signal
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from service import child, logs, tally
from service.errors import ServiceError
from service.jobs import iso, seconds_now
from service.settings import Settings
from service.store import Store
from service.store.changes import Row
from service.store.outbox import DELIVERED, PENDING, TOPIC
from service.store.webhooks import CLAIM_SECONDS
from service.stream import Wake, run_folder
from service.webhooks import sending, signing
from service.webhooks.addresses import NotAllowed, target_of

log = logs.of("courier")
AT_ONCE = 16                # deliveries under way
OF_ONE_HOST = 4             # of them to one host: a slow one holds up itself only
POLL_SECONDS = 2.0          # a wake-up may be lost
JITTER = 0.1                # of a pause
USER_AGENT = "Trainyard-Webhooks/1"


class Courier:
    """Takes what is due and sends it, a thread each."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.name = child.name_of("courier")
        self.pauses = [float(word) for word in settings.webhook_retries.split(",") if word.strip()]
        self.claim_seconds = CLAIM_SECONDS + 2 * settings.webhook_seconds
        self.wake = Wake(settings.home)
        self.store = Store.at(settings.home, settings.store, self.wake.notify)
        self.threads = ThreadPoolExecutor(AT_ONCE, "courier")
        self.under_way: Counter[str] = Counter()        # by host
        self.turn = threading.Lock()
        self.stopping = False

    def run(self) -> None:
        listener = self.wake.listen(TOPIC)
        signal.signal(signal.SIGTERM, self._stop)
        self.store.release_deliveries(name for name in self.store.couriers() if child.is_dead(name, False))
        while not self.stopping:
            listener.wait(min(POLL_SECONDS, self._send_due()))
        self.threads.shutdown(cancel_futures=True)

    def _stop(self, *_: Any) -> None:
        """End once what is under way is settled; the rest waits in the store."""
        self.stopping = True
        self.wake.notify(TOPIC)

    def _send_due(self) -> float:
        """Begin all that is due and for which there is room; returns in how many seconds to look again."""
        try:
            while not self.stopping:
                with self.turn:
                    busy = [host for host, count in self.under_way.items() if count >= OF_ONE_HOST]
                    if self.under_way.total() >= AT_ONCE:
                        break
                if (delivery := self.store.take_delivery(self.name, busy, self.claim_seconds)) is None:
                    due = self.store.next_delivery()
                    return POLL_SECONDS if due is None or busy else max(0.05, due - seconds_now())
                with self.turn:
                    self.under_way[delivery["host"]] += 1
                self.threads.submit(self._deliver, delivery)
        except (ServiceError, SQLAlchemyError) as error:
            log.error("the store cannot be used: %s", error)
        return POLL_SECONDS

    def _deliver(self, delivery: Row) -> None:
        try:
            tried = self.try_once(delivery)
            code, number = tried.get("code", 0), len(delivery["tries"])
            pause = self.pauses[number] * random.uniform(1 - JITTER, 1 + JITTER) if number < len(self.pauses) else None
            result = self.store.settle_delivery(delivery, tried, delivered=200 <= code < 300, gone=code == 410, again_in=pause)
            tally.count("webhooks", "failed" if result == PENDING else result)
            tally.observe("webhook_seconds", tried["seconds"])
            log.log(logging.INFO if result == DELIVERED else logging.WARNING, "webhook %s: %s", delivery["id"], result, extra=logs.fields(
                job_id=delivery["job_id"], type=delivery["type"], host=delivery["host"], **tried))
        except (ServiceError, SQLAlchemyError) as error:       # another courier, or this one, takes it up when its claim is over
            log.error("%s cannot be settled: %s", delivery["id"], error)
        finally:
            with self.turn:
                self.under_way[delivery["host"]] -= 1
                self.under_way = +self.under_way        # without the hosts that have none
            self.wake.notify(TOPIC)

    def try_once(self, delivery: Row) -> Row:
        """One try: {"at", "seconds"} with the "code" of the answer, or the "error" in its place."""
        now, began, body = seconds_now(), time.monotonic(), delivery["body"].encode()
        tried: Row = {"at": iso(now)}
        try:
            target = target_of(delivery["url"], self.settings.webhook_allow)
            headers = {"Content-Type": "application/json", "User-Agent": USER_AGENT,
                       **signing.headers(delivery["id"], int(now), body, self.store.webhook_secrets(delivery["owner"]))}
            tried["code"] = sending.post(target, headers, body, self.settings.webhook_seconds)
            if 300 <= tried["code"] < 400:
                tried["error"] = "redirects are not followed"
        except (sending.NoAnswer, NotAllowed) as error:
            tried["error"] = str(error)
        except ValueError as error:     # a name that no resolver takes
            tried["error"] = f"{type(error).__name__}: {error}"
        return {**tried, "seconds": round(time.monotonic() - began, 3)}


def main() -> None:
    settings = Settings()
    logs.install(settings, "courier")
    tally.begin(run_folder(settings.home))
    Courier(settings).run()


if __name__ == "__main__":
    sys.exit(main())
