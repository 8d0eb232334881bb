"""The root of the tree of processes: it trains nothing and answers nothing, so little can happen to it.

    supervisor ── API            python -m service.app          answers; the supervisor makes its listening socket
               ├─ worker         python -m service.worker       trains, one job at a time; as many as the settings say, and one for each GPU
               ├─ probe          python -m service.probe        looks for GPUs, and ends
               ├─ predictor      python -m service.predictor    from the first prediction on
               └─ courier        python -m service.courier      delivers webhooks, from the first one on

The API and the workers load their programs meanwhile (`service.ahead`), and begin when the home is in order.

It alone owns a home folder, brings the store to the newest schema, takes back the jobs of supervisors that died, keeps its children running, and
renews the leases of its workers. Its children die with it.
"""

from __future__ import annotations

import http.client
import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from service import artifacts, child, devices, logs, tally
from service.ahead import API, Ahead, CannotServe, of_api, run
from service.crew import Child, Crew
from service.errors import ServiceError
from service.settings import Settings
from service.store import Store
from service.store.database import connect, schema_of
from service.store.outbox import TOPIC
from service.store.tables import SCHEMA
from service.stream import Wake, run_folder

log = logs.of("supervisor")
TURN_SECONDS, STARTING_SECONDS = 0.25, 0.02     # between two looks at the children; while they start
MOST_FALSE_STARTS = 5       # ends of the API in a row, before it ever answered


class Supervisor:
    def __init__(self, ahead: Ahead):
        self.ahead, self.settings, self.with_api = ahead, ahead.settings, ahead.listening is not None
        settings, self.owner = ahead.settings, ahead.owner
        tally.begin(run_folder(settings.home), f"{os.getpid()}.supervisor")
        _bring_up_to_date(settings)
        self.wake = Wake(settings.home)
        self.store = Store.at(settings.home, settings.store, self.wake.notify)
        self.crew = Crew(settings, self.store, self.wake.folder, self.owner, ahead.workers, bool(settings.store) or not self.with_api)
        self.search: devices.Search | None = None
        self.api: Child | None = None
        if ahead.listening is not None:
            self.api = Child(API, settings, **of_api(ahead.listening))
            self.api.process = ahead.api
        self.predictor: Child | None = None
        self.courier: Child | None = None
        self.announced = self.stopping = False
        self.tidy_at = time.monotonic() + settings.tidy_seconds

    def run(self) -> int:
        bell, wanted, told = self._signals(), self.wake.listen("predictor"), self.wake.listen(TOPIC)
        self._take_over()
        self.search = devices.Search(self.settings, self.wake.folder)
        self.ahead.open()
        while not self.stopping:
            self._turn()
            pause = STARTING_SECONDS if self.with_api and not self.announced else TURN_SECONDS
            ready, _, _ = select.select([bell, wanted.socket, told.socket], [], [], pause)
            if bell in ready:
                os.read(bell, 512)
            if wanted.pending() and self.predictor is None:
                self.predictor = Child("service.predictor", self.settings)
            if told.pending() and self.with_api:
                if self.courier is None:
                    self.courier = Child("service.courier", self.settings, **{tally.SLOT: f"{os.getpid()}.courier"})
                self.courier.ready = self.courier.process is not None
        self._drain()
        return 0

    def _signals(self) -> int:
        """A file that can be read as soon as a signal has come: a child ended, or stop."""
        bell, sender = os.pipe()
        os.set_blocking(sender, False)
        signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        return bell

    def _stop(self, *_: Any) -> None:
        self.stopping = True

    def _take_over(self) -> None:
        """Begin with a home in order: no job that nobody trains, no socket or file that nobody needs."""
        self.crew.give_back(self.with_api, "worker_lost")
        if self.with_api:
            artifacts.sweep(self.store)
            if self.store.next_delivery() is not None:
                self.wake.notify(TOPIC)
            for path in run_folder(self.settings.home).iterdir():
                pid = path.name.split(".")[1]
                if pid.isdigit() and not Path("/proc", pid).exists():
                    path.unlink(missing_ok=True)

    # ---------------------------------------------------------------- running

    def _turn(self) -> None:
        self.crew.keep()
        if self.search is not None and self.search.look() and self.search.found:
            self.crew.give(self.search.found.gpus)
        if self.api is not None:
            self._keep_api(self.api)
        if self.predictor is not None and (code := self.predictor.keep()) is not None:
            log.warning("the predictor ended with status %d", code)
            self.predictor = None       # the next request asks for another one
        if self.courier is not None and (code := self.courier.keep()) is not None:
            log.warning("the courier ended with status %d", code)
        if time.monotonic() >= self.tidy_at:
            self.tidy_at = time.monotonic() + self.settings.tidy_seconds
            self._tidy()

    def _keep_api(self, api: Child) -> None:
        if (code := api.keep()) is not None:
            log.warning("the API ended with status %d", code)
            if not self.announced and api.failures >= MOST_FALSE_STARTS:
                raise CannotServe(f"the API does not start: it ended {api.failures} times, lastly with status {code}")
        if api.process is not None and not api.ready and self._answers():
            api.ready = True
        if api.ready and self.crew.ready and self.search and self.search.found and not self.announced:
            self.announced = True
            print(f"Trainyard is ready at http://{_in_url(self.settings.host)}:{self.settings.port}", flush=True)

    def _answers(self) -> bool:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.settings.host, self.settings.host)
        connection = http.client.HTTPConnection(host, self.settings.port, timeout=1.0)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def _tidy(self) -> None:
        """Remove what is not to be kept any longer, and see whether a webhook waits."""
        with suppress(ServiceError, SQLAlchemyError):
            if self.store.next_delivery() is not None:
                self.wake.notify(TOPIC)
            self.store.expire_idempotency()
            self.store.expire_audit(self.settings.audit_seconds, self.settings.max_audit_rows)
            artifacts.remove_outlived(self.store)
            artifacts.tidy_uploads(self.store)

    # ---------------------------------------------------------------- the end

    def _drain(self) -> None:
        """Workers write checkpoints and give their jobs back, the API ends its answers, then the predictor goes; who takes too long is killed."""
        began = time.monotonic()
        self.crew.drain()
        for one in (self.api, self.courier):
            if one is not None:
                one.send(signal.SIGTERM)
        while not (self.crew.gone and _gone(self.api) and _gone(self.predictor) and _gone(self.courier)):
            passed = time.monotonic() - began
            self.crew.hold()
            if self.api is not None and passed > self.settings.stop_seconds:
                self.api.send(signal.SIGKILL)
            if self.predictor is not None and _gone(self.api):
                self.predictor.send(signal.SIGTERM)
            if self.courier is not None and passed > self.settings.stop_seconds:
                self.courier.send(signal.SIGKILL)
            if passed > self.settings.drain_seconds:
                self.crew.kill()
            time.sleep(0.02)
        with suppress(ServiceError, SQLAlchemyError):
            self.crew.give_back(False, "draining")
        self.store.close()
        self.wake.close()


def _bring_up_to_date(settings: Settings) -> None:
    """Migrate the store, where it is at another schema, in a process of its own: what that needs would stay in this one for good."""
    engine = connect(settings.store_url, "BEGIN")
    found = schema_of(engine)
    engine.dispose()
    if found != SCHEMA and (said := child.complaint("service.store.migrate", settings)):
        raise CannotServe(said)


def _gone(one: Child | None) -> bool:
    return one is None or one.process is None or one.process.poll() is not None


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def main() -> None:
    sys.exit(run(Settings(), with_api=sys.argv[1:] != ["worker"]))


if __name__ == "__main__":
    main()
