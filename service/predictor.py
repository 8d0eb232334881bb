"""The process that answers with trained models: predictions, evaluations, gradients. `service.ask` is the other end of its socket.

Models stay loaded, those used last, by the bytes of their checkpoints. It reads files and the store and writes neither: its death costs the requests
that it was answering.
"""

from __future__ import annotations

import contextlib
import csv
import json
import socketserver
import sys
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from engine.data.table import Table
from engine.errors import CheckpointError, Problem, SpecError
from engine.train import Job
from engine.train.trained.generate import generate
from engine.train.trained.gradients import gradients, trained_gradients
from engine.train.trained.predict import Predictor
from service import artifacts
from service.ask import LONGEST, pack, socket_path
from service.datasets import open_table
from service.datasets.csv import likely_delimiter
from service.errors import ServiceError, conflict, invalid_request, invalid_spec, too_large
from service.samples import open_sample
from service.settings import Settings
from service.store import Store
from service.stream import run_folder
from service.tables import open_tables

KEPT_BYTES = 1 << 30
Json = dict[str, Any]


class Models:
    """Loaded models, by the content of their checkpoints."""

    def __init__(self, settings: Settings):
        self.home = settings.home
        self._kept: OrderedDict[tuple[str, str, bool], tuple[Predictor, int]] = OrderedDict()
        self._turn = threading.Lock()

    def get(self, request: Json) -> Predictor:
        """The model of a request's `job` at its `checkpoint`; with `best` the best weights that this one knows instead of its last.

        409 when the file is damaged, or has just been replaced by a newer one.
        """
        job, checkpoint, best = request["job"], request["checkpoint"], bool(request.get("best"))
        key = (job["id"], checkpoint["sha256"], best)
        with self._turn:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
            data = artifacts.read_checkpoint(self.home, checkpoint)
            if data is None:
                raise conflict("the file of this checkpoint is damaged, or was just replaced by a newer one: ask again, or name another checkpoint",
                               "checkpoint_corrupt", retry=True)
            made = Predictor(job["spec"], data, best=best)
            self._kept[key] = made, len(data)
            while len(self._kept) > 1 and sum(size for _, size in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
            return made


class Answers:
    """One method for each call."""

    def __init__(self, settings: Settings):
        self.settings, self.models = settings, Models(settings)

    @cached_property
    def store(self) -> Store:
        return Store.at(self.settings.home, self.settings.store)

    def answer(self, request: Json) -> Json:
        """{"ok"} or {"problem"}; it raises nothing."""
        try:
            return {"ok": getattr(self, f"call_{request['call']}")(request)}
        except SpecError as error:
            of_spec = request["call"] == "gradients"        # it has a model and a loss of its own
            return {"problem": problem(invalid_spec(error.problems) if of_spec else invalid_request(error.problems[0].detail, error.problems))}
        except ServiceError as error:
            return {"problem": problem(error)}
        except CheckpointError as error:
            return {"problem": problem(conflict(str(error), "checkpoint_corrupt"))}
        except MemoryError:
            return {"problem": problem(too_large("there is not enough memory for so many rows: send fewer"))}
        except Exception as error:
            traceback.print_exc()
            return {"problem": problem(ServiceError(500, "internal", f"something went wrong on our side: {type(error).__name__}"))}

    def call_predict(self, request: Json) -> Json:
        """`rows`, `inputs`, `csv` or `table`, and `losses`."""
        model = self.models.get(request)
        losses = bool(request.get("losses"))
        if "table" in request:
            return _told(lambda pointer: "/dataset", lambda: model.predict(table=self._table(request["table"]), losses=losses))
        if "inputs" in request:
            return _told("/inputs".__add__, lambda: model.predict(inputs=request["inputs"]))
        rows = request["rows"] if "rows" in request else rows_of(request["csv"], model.fitted.known, self.settings.max_predict_rows)
        return _told("/rows".__add__, lambda: model.predict(rows=rows, losses=losses))

    def call_evaluate(self, request: Json) -> Json:
        """`table`, or the `split` of the job's own data; `metrics` other than the job's."""
        model, metrics = self.models.get(request), request.get("metrics")
        data = "/dataset" if "table" in request else "/split"

        def evaluate() -> Json:
            if "table" in request:
                return model.evaluate(self._table(request["table"]), metrics)
            job = Job.model_validate(request["job"]["spec"])
            return model.evaluate_split(open_tables(self.store, job.references()), request["split"], metrics)

        return _told(lambda pointer: pointer if pointer.startswith("/metrics") else data, evaluate)

    def call_generate(self, request: Json) -> Json:
        """`prompt`, `length`, `temperature` and `seed`."""
        return {"text": generate(self.models.get(request), **request["asked"])}

    def call_gradients(self, request: Json) -> Json:
        """`request` as it was posted; with a job that one's model, loss, preprocessing and trained parameters."""
        asked = request["request"]
        return trained_gradients(self.models.get(request), asked) if "job" in request else gradients(asked)

    def _table(self, where: Mapping[str, str]) -> Table:
        return open_sample(where["sample"]) if "sample" in where else open_table(self.settings.home, where["sha256"])


def _told(place: Callable[[str], str], call: Callable[[], Json]) -> Json:
    """The answer of `call`, with its problems and warnings told where the request has them: `place` makes their pointers."""
    try:
        answer = call()
    except SpecError as error:
        raise SpecError([replace(found, pointer=place(found.pointer)) for found in error.problems]) from None
    return {**answer, "warnings": [{**warning, "pointer": place(warning["pointer"])} for warning in answer["warnings"]]}


def problem(error: ServiceError) -> Json:
    return {"status": error.status, "code": error.code, "detail": error.detail, "errors": [found.as_dict() for found in error.errors]}


def rows_of(text: str, known: tuple[str, ...], most: int) -> list[dict[str, str | None]]:
    """CSV as rows. Without a header that has a known name the columns are c0, c1, … as in an upload."""
    lines = text.splitlines()
    table = [row for row in csv.reader(lines, delimiter=likely_delimiter(lines[:100]), skipinitialspace=True) if any(cell.strip() for cell in row)]
    if not table:
        raise SpecError([Problem("", "empty", "the text has no rows")])
    header = [name.strip() for name in table[0]]
    names, rows = (header, table[1:]) if set(header) & set(known) else ([f"c{place}" for place in range(len(header))], table)
    if len(rows) > most:
        raise too_large(f"one prediction takes at most {most:,} rows; these are {len(rows):,}")
    if wrong := [place for place, row in enumerate(rows) if len(row) != len(names)]:
        raise SpecError([Problem(f"/{wrong[0]}", "ragged", f"this row has {len(rows[wrong[0]])} cells, the first one {len(names)}")])
    return [{name: cell.strip() for name, cell in zip(names, row, strict=True)} for row in rows]


class Server(socketserver.ThreadingUnixStreamServer):
    """A thread for each request."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, settings: Settings):
        path = socket_path(run_folder(settings.home))
        path.unlink(missing_ok=True)        # left by one that died
        self.answers = Answers(settings)
        super().__init__(str(path), Handler)


class Handler(socketserver.StreamRequestHandler):
    server: Server

    def handle(self) -> None:
        """One request, one answer; a client that goes away is no matter."""
        with contextlib.suppress(OSError):
            length = int.from_bytes(self.rfile.read(4), "big")
            body = self.rfile.read(min(length, LONGEST))
            if length and len(body) == length:
                self.wfile.write(pack(self.server.answers.answer(json.loads(body))))


def main() -> None:
    Server(Settings()).serve_forever()


if __name__ == "__main__":
    sys.exit(main())
