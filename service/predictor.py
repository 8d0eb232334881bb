"""The process that answers with trained models: predictions, evaluations, gradients. `service.ask` is the other end of its socket.

Models stay loaded, those used last, by the bytes of their checkpoints. It reads files and the store and writes neither: its death costs the requests
that it was answering.
"""

from __future__ import annotations

import contextlib
import json
import socketserver
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any, TypeVar

from engine.data.encode import by_input
from engine.data.table import Table
from engine.errors import CheckpointError, SpecError
from engine.export.onnx.document import export
from engine.train.trained.generate import generate
from engine.train.trained.gradients import Room, gradients, trained_gradients
from engine.train.trained.predict import Predictor
from service import artifacts, child, logs, weights
from service.ask import LONGEST, pack, socket_path
from service.datasets import open_table
from service.errors import ServiceError, conflict, invalid_request, invalid_spec, too_large
from service.kserve import describe, infer
from service.notation import as_object, dumps, parse
from service.rows import as_csv, asked_rows, check_count, read_text, rows_of
from service.samples import open_sample
from service.settings import Settings
from service.store import Store
from service.stream import run_folder
from service.tables import open_tables

log = logs.of("predictor")
mapped = lru_cache(maxsize=16)(open_table)      # what a dataset holds never changes
KEPT_BYTES, KEPT_MODELS = 1 << 30, 64       # the plans of a small model take more than its checkpoint
SWITCH_SECONDS = 0.0005       # small requests beside large ones wait a tenth of what they would by default
Json = dict[str, Any]
T = TypeVar("T")


class Models:
    """Loaded models, by the content of their checkpoints."""

    def __init__(self, settings: Settings, spec_of: Callable[[str], Json]):
        self.home, self.spec_of = settings.home, spec_of
        self._kept: OrderedDict[tuple[str, str, bool], tuple[Predictor, int]] = OrderedDict()
        self._turn, self._loading = threading.Lock(), dict[tuple[str, str, bool], threading.Lock]()

    def get(self, request: Json) -> Predictor:
        """The model of a request's `job` at its `checkpoint`; with `best` the best weights that this one knows instead of its last.

        409 when the file is damaged, or has just been replaced by a newer one.
        """
        key = (request["job"], request["checkpoint"]["sha256"], bool(request.get("best")))
        with self._turn:
            if (found := self._found(key)) is not None:
                return found
            loading = self._loading.setdefault(key, threading.Lock())
        with loading:       # one at a time loads a model; those who ask for others go on
            with self._turn:
                if (found := self._found(key)) is not None:
                    return found
            made, size = self._load(*key, request["checkpoint"])
            with self._turn:
                self._keep(key, made, size)
                self._loading.pop(key, None)
            return made

    def _found(self, key: tuple[str, str, bool]) -> Predictor | None:
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def _load(self, job_id: str, sha256: str, best: bool, checkpoint: Json) -> tuple[Predictor, int]:
        data = artifacts.read_checkpoint(self.home, checkpoint)
        if data is None:
            raise conflict("the file of this checkpoint is damaged, or was just replaced by a newer one: ask again, or name another checkpoint",
                           "checkpoint_corrupt", retry=True)
        return Predictor(self.spec_of(job_id), data, best=best), len(data)

    def _keep(self, key: tuple[str, str, bool], made: Predictor, size: int) -> None:
        self._kept[key] = made, size
        while len(self._kept) > 1 and (len(self._kept) > KEPT_MODELS or sum(size for _, size in self._kept.values()) > KEPT_BYTES):
            self._kept.popitem(last=False)


@dataclass
class Answer:
    """Bytes that go to the client as they are; in pieces where they are not made at once."""

    body: bytes | Iterator[bytes]
    media_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


class Answers:
    """One method for each call: it returns JSON, to which the request's `facts` are added, or an Answer."""

    def __init__(self, settings: Settings):
        self.settings, self.models = settings, Models(settings, lambda job_id: self.store.get_job(job_id)["spec"])

    @cached_property
    def store(self) -> Store:
        return Store.at(self.settings.home, self.settings.store)

    def answer(self, request: Json, body: bytes) -> Iterator[bytes]:
        """The messages of the answer; it raises nothing."""
        try:
            found = getattr(self, f"call_{request['call']}")(request, body)
            if isinstance(found, dict):
                found = Answer(dumps({**request.get("facts", {}), **found}))
            head = {"media_type": found.media_type, "headers": found.headers}
            if isinstance(found.body, bytes):
                yield pack(head, found.body)
                return
            for piece in found.body:
                yield pack({**head, "more": True}, piece)
            yield pack(head)
        except Exception as error:
            yield pack({"problem": problem(self._told(error, request))})

    def _told(self, error: Exception, request: Json) -> ServiceError:
        if isinstance(error, SpecError):
            of_spec = request["call"] == "gradients"        # it has a model and a loss of its own
            return invalid_spec(error.problems) if of_spec else invalid_request(error.problems[0].detail, error.problems)
        if isinstance(error, ServiceError):
            return error
        if isinstance(error, CheckpointError):
            return conflict(str(error), "checkpoint_corrupt")
        if isinstance(error, MemoryError):
            return too_large("there is not enough memory for so many rows: send fewer")
        log.error("%s failed", request["call"], exc_info=error)
        return ServiceError(500, "internal", f"something went wrong on our side: {type(error).__name__}")

    def call_predict(self, request: Json, body: bytes) -> Json | Answer:
        """The rows of a body of the type `of`, or a `table`; `losses`; as JSON, or as text of the `form` csv."""
        model, losses = self.models.get(request), bool(request.get("losses"))
        data = self._data(request, body, model)
        place = "/inputs".__add__ if "inputs" in data else "/rows".__add__ if "rows" in data else lambda pointer: "/dataset"
        if "inputs" in data:
            _placed(place, lambda: self._check_rows(by_input(model.fitted, data["inputs"])))
        if request.get("form") != "csv":
            if "table" in data and model.fitted.windows is None:      # of windows only the last is predicted
                self._check_size(data["table"].rows * model.width)
            return _placed(place, lambda: model.predict(**data, losses=losses))
        pieces = as_csv(model.pieces(**data, losses=losses))
        return Answer(chain([_placed(place, lambda: next(pieces))], pieces), "text/csv")

    def _data(self, request: Json, body: bytes, model: Predictor) -> dict[str, Any]:
        """Arguments of a prediction."""
        if "table" in request:
            return {"table": self._table(request["table"])}
        if request["of"] == "csv":
            return {"rows": rows_of(read_text(body), model.fitted.known, self.settings.max_predict_rows)}
        return asked_rows(parse(body), self.settings.max_predict_rows)

    def _check_rows(self, inputs: Mapping[str, Any]) -> None:
        """Only the model tells a list of inputs from a list of rows."""
        for rows in inputs.values():
            check_count(len(rows) if isinstance(rows, list) else 0, self.settings.max_predict_rows)

    def _check_size(self, numbers: int) -> None:
        if numbers > self.settings.max_predict_numbers:
            raise too_large(f"this would be {numbers:,} numbers of JSON; at most {self.settings.max_predict_numbers:,} are sent at once: ask with "
                            "Accept: text/csv, which comes row by row and may be as long as it likes")

    def call_infer(self, request: Json, body: bytes) -> Answer:
        """By KServe V2."""
        found = infer(self.models.get(request), request["facts"], body, request["length"], self.settings.max_predict_rows)
        return Answer(found.body, found.media_type, found.headers)

    def call_describe(self, request: Json, body: bytes) -> Json:
        """What KServe V2 says of a model."""
        return describe(self.models.get(request))

    def call_export(self, request: Json, body: bytes) -> Answer:
        """The model as an ONNX file."""
        model = self.models.get(request)
        spec, arrays = self.store.get_job(request["job"])["spec"], {**model.parameters, **model.buffers}
        facts = weights.facts_of(spec, request["which"], request["epoch"], model.meta, arrays)
        return Answer(_placed(lambda pointer: "/query/format", lambda: export(model, facts)), weights.MEDIA_TYPES["onnx"])

    def call_evaluate(self, request: Json, body: bytes) -> Json:
        """`table`, or the `split` of the job's own data; `metrics` other than the job's."""
        model, metrics = self.models.get(request), request.get("metrics")
        data = "/dataset" if "table" in request else "/split"

        def evaluate() -> Json:
            if "table" in request:
                return model.evaluate(self._table(request["table"]), metrics)
            return model.evaluate_split(open_tables(self.store, model.job.references()), request["split"], metrics)

        return _placed(lambda pointer: pointer if pointer.startswith("/metrics") else data, evaluate)

    def call_generate(self, request: Json, body: bytes) -> Json:
        """`prompt`, `length`, `temperature` and `seed`."""
        return {"text": generate(self.models.get(request), **request["asked"])}

    def call_gradients(self, request: Json, body: bytes) -> Json:
        """The body as it was posted; with a job that one's model, loss, preprocessing and trained parameters."""
        asked, room = as_object(parse(body)), Room(max_numbers=self.settings.max_gradient_numbers)
        return trained_gradients(self.models.get(request), asked, room) if "job" in request else gradients(asked, room)

    def _table(self, where: Mapping[str, str]) -> Table:
        return open_sample(where["sample"]) if "sample" in where else mapped(self.settings.home, where["sha256"])


def _placed(place: Callable[[str], str], call: Callable[[], T]) -> T:
    """The answer of `call`, with its problems and warnings told where the request has them: `place` makes their pointers."""
    try:
        answer = call()
    except SpecError as error:
        raise SpecError([replace(found, pointer=place(found.pointer)) for found in error.problems]) from None
    if isinstance(answer, dict):
        answer["warnings"] = [{**warning, "pointer": place(warning["pointer"])} for warning in answer.get("warnings", ())]
    return answer


def problem(error: ServiceError) -> Json:
    return {"status": error.status, "code": error.code, "detail": error.detail, "errors": [found.as_dict() for found in error.errors],
            "headers": error.headers}


class Server(socketserver.ThreadingUnixStreamServer):
    """A thread for each connection."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, settings: Settings):
        path = socket_path(run_folder(settings.home))
        path.unlink(missing_ok=True)        # left by one that died
        self.answers = Answers(settings)
        super().__init__(str(path), Handler)


class Handler(socketserver.StreamRequestHandler):
    """One connection: a request, its answer, the next request. A client that goes away is no matter."""

    server: Server

    def handle(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while (head := self._bytes(int.from_bytes(self.rfile.read(4), "big"))) is not None:
                request = json.loads(head)
                if (body := self._bytes(request.get("bytes", 0), b"")) is None:
                    return
                for message in self.server.answers.answer(request, body):
                    self.wfile.write(message)

    def _bytes(self, size: int, nothing: bytes | None = None) -> bytes | None:
        """So many bytes; None where the connection ended."""
        if not size:
            return nothing
        found = self.rfile.read(min(size, LONGEST))
        return found if len(found) == size else None


def main() -> None:
    sys.setswitchinterval(SWITCH_SECONDS)
    settings = Settings()
    logs.install(settings, "predictor")
    child.load_numba()
    Server(settings).serve_forever()


if __name__ == "__main__":
    sys.exit(main())
