"""Every call of the service as a method."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from service.client import events, parts, placeholders
from service.client.connection import Connection
from service.client.exports import Exports
from service.client.lineage import Lineage, place
from service.client.objects import Checkpoint, Dataset, Deed, Evaluation, Event, Job, Object, Prediction, Token, Validation
from service.client.told import Told
from service.client.uploads import Source, body, media_type, plain

DEFAULT_URL = "http://127.0.0.1:8000"
Spec = Mapping[str, Any] | str | Path


class Client(Told, Exports, Lineage):
    """One service, by default that of `TRAINYARD_URL` and `TRAINYARD_TOKEN`. Errors are `service.client.ClientError`s.

    timeout: seconds for one answer. patience: seconds in which a service that answered before may come back; until then requests are sent again,
    each with a key under which the service does it only once.
    """

    def __init__(self, url: str | None = None, token: str | None = None, *, timeout: float = 60.0, patience: float = 30.0):
        url = url or os.environ.get("TRAINYARD_URL") or DEFAULT_URL
        token = token if token is not None else os.environ.get("TRAINYARD_TOKEN", "")
        self.connection = Connection(url, token, timeout, patience)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.connection.url!r})"

    def close(self) -> None:
        self.connection.close()

    # ---------------------------------------------------------------- data

    def upload(self, source: Source, *, name: str | None = None, progress: parts.Progress | None = None, part_bytes: int = parts.PART,
               **options: Any) -> Dataset:
        """Send data: the path of a file, arrays (or paths of array files) by column, or rows as dicts.

        A file larger than two parts goes in parts, several at once; those whose connection breaks are sent again. `progress` is told the bytes sent
        and those in all. options: format, header, delimiter, types ("zip:category,when:datetime"), retain_seconds.
        """
        named = name if name is not None else Path(source).name if isinstance(source, str | Path) else ""
        query = {key: value for key, value in {"name": named, **options}.items() if value is not None}
        if isinstance(source, str | Path) and Path(source).is_file() and Path(source).stat().st_size >= 2 * part_bytes:
            about = {"media_type": media_type(Path(source)), **query}
            return Dataset.model_validate(parts.send(self.connection, Path(source), about, part_bytes, progress))
        key = _once()

        def request() -> Any:
            with body(source) as sent:
                headers = {**sent.pop("headers", {}), **key}
                return self.connection.http.post("/v1/datasets", params=query, headers=headers, timeout=None, **sent)

        return Dataset.model_validate(self.connection.send(request).json())

    def dataset(self, dataset_id: str) -> Dataset:
        return Dataset.model_validate(self.connection.json("GET", f"/v1/datasets/{dataset_id}"))

    def datasets(self) -> Iterator[Dataset]:
        """All uploads, newest first."""
        return map(Dataset.model_validate, self._pages("/v1/datasets", {}))

    def samples(self) -> list[Object]:
        """The data sets that ship with the service: `"dataset"` is what a job names them by."""
        return self.connection.json("GET", "/v1/catalogue/samples")["data"]

    # ---------------------------------------------------------------- jobs

    def submit(self, job: Spec, *, data: Source | None = None, datasets: Mapping[str, Source] = {}) -> Job:
        """Queue a job: a dict, or the path of a JSON file.

        `data` is uploaded first and becomes the job's dataset; `datasets` are uploaded too, and each stands where the job says "$NAME".
        """
        spec = read_spec(job)
        if data is not None:
            spec = {**spec, "data": {**spec.get("data", {}), "dataset": None}}
        placeholders.check(spec, datasets)
        spec = placeholders.filled(spec, {name: self.upload(source, name=name).id for name, source in datasets.items()})
        if data is not None:
            spec["data"]["dataset"] = self.upload(data).id
        return Job.model_validate(self.connection.json("POST", "/v1/jobs", json=spec, headers=_once()))

    def validate(self, job: Spec) -> Validation:
        """What the job would be, every default shown. Nothing is queued."""
        return Validation.model_validate(self.connection.json("POST", "/v1/jobs", params={"validate_only": "true"}, json=read_spec(job)))

    def job(self, job_id: str) -> Job:
        return Job.model_validate(self.connection.json("GET", f"/v1/jobs/{job_id}"))

    def jobs(self, *, status: str | Iterable[str] = (), metadata: Mapping[str, str] | None = None) -> Iterator[Job]:
        """All jobs, newest first; only those in a state, and with these labels."""
        states = status if isinstance(status, str) else ",".join(status)
        query = {**({"status": states} if states else {}), **{f"metadata[{name}]": value for name, value in (metadata or {}).items()}}
        return map(Job.model_validate, self._pages("/v1/jobs", query))

    def watch(self, job_id: str, *, after: int = 0, types: Iterable[str] = ()) -> Iterator[Event]:
        """What has happened and what happens, until the job is over; connects again by itself, without gap or repeat."""
        return events.watch(self.connection, job_id, after, types)

    def wait(self, job_id: str) -> Job:
        """The job, once it is over."""
        for _ in self.watch(job_id, types=("job.succeeded",)):
            pass
        return self.job(job_id)

    def cancel(self, job_id: str) -> Job:
        """Stop a job within a batch, or take it out of the queue."""
        return self._ask(job_id, "cancel")

    def pause(self, job_id: str) -> Job:
        """Let a running job write a checkpoint and give up its worker, until `resume`."""
        return self._ask(job_id, "pause")

    def resume(self, job_id: str) -> Job:
        """Let a paused job go on, as if it had not been paused."""
        return self._ask(job_id, "resume")

    def adjust(self, job_id: str, **changes: Any) -> Job:
        """Change a job: `name`, `metadata`, `priority` at any time; hyper-parameters by name, `epochs` (in all), `freeze` and `thaw` (path patterns)
        until it is over. The event `adjusted` says at which step a running job took it up."""
        return Job.model_validate(self.connection.json("PATCH", f"/v1/jobs/{job_id}", json=plain(changes), headers=_once()))

    def _ask(self, job_id: str, wish: str) -> Job:
        return Job.model_validate(self.connection.json("POST", f"/v1/jobs/{job_id}/{wish}", headers=_once()))

    # ---------------------------------------------------------------- results

    def metrics(self, job_id: str, *, series: Iterable[str] = (), by: str = "epoch", points: int = 1000) -> dict[str, list[Any]]:
        """Losses and metrics over time, by column."""
        names = {"series": ",".join(series)} if series else {}
        return self.connection.json("GET", f"/v1/jobs/{job_id}/metrics", params={**names, "by": by, "points": points})["columns"]

    def checkpoints(self, job_id: str) -> list[Checkpoint]:
        """Those that are kept, newest first."""
        return [Checkpoint.model_validate(row) for row in self.connection.json("GET", f"/v1/jobs/{job_id}/checkpoints")["data"]]

    def predict(self, job_id: str, rows: Iterable[Mapping[str, Any]] | None = None, *, inputs: Any = None, dataset: str | None = None,
                csv: str | None = None, checkpoint: str | int | None = None, losses: bool = False) -> Prediction:
        """What the model, a job's or one by its name, makes of rows as they were uploaded, arrays, a dataset, or CSV text: exactly one of them."""
        query, how = _asked(rows, inputs, dataset, csv, checkpoint, losses)
        return Prediction.model_validate(self.connection.json("POST", f"{place(job_id)}/predict", params=query, **how))

    def predict_csv(self, job_id: str, rows: Iterable[Mapping[str, Any]] | None = None, *, inputs: Any = None, dataset: str | None = None,
                    csv: str | None = None, checkpoint: str | int | None = None, losses: bool = False) -> Iterator[bytes]:
        """The same as CSV, as it comes: for a data set of any length. Texts that a spreadsheet would take for formulas begin with an apostrophe."""
        query, how = _asked(rows, inputs, dataset, csv, checkpoint, losses)
        with self.connection.stream(f"{place(job_id)}/predict", method="POST", params={**query, "format": "csv"}, **how) as response:
            yield from response.iter_bytes()

    def evaluate(self, job_id: str, *, dataset: str | None = None, split: str | None = None,
                 metrics: list[Any] | Mapping[str, list[Any]] | None = None, checkpoint: str | int | None = None) -> Evaluation:
        """Loss and metrics on a dataset, or on "train", "validation" or "test" of the job's own data."""
        given = {"dataset": dataset, "split": split, "metrics": metrics, "checkpoint": checkpoint}
        asked = {name: value for name, value in given.items() if value is not None}
        return Evaluation.model_validate(self.connection.json("POST", f"{place(job_id)}/evaluate", json=asked))

    def generate(self, job_id: str, prompt: str = "", *, length: int = 200, temperature: float = 1.0, seed: int = 0,
                 checkpoint: str | int | None = None) -> str:
        """What a model of plain text writes after a prompt."""
        asked = {"prompt": prompt, "length": length, "temperature": temperature, "seed": seed,
                 **({} if checkpoint is None else {"checkpoint": checkpoint})}
        return self.connection.json("POST", f"{place(job_id)}/generate", json=asked)["text"]

    def download(self, job_id: str, path: str | Path | None = None, *, format: str = "safetensors", checkpoint: str | int | None = None) -> Path:
        """Save the trained model, a job's (its last checkpoint) or one by its name. `path` is a file or a folder; by default a file called like
        the job or the model, here. Returns where it is."""
        source, which = self.answering(job_id)
        query = {"format": format, "checkpoint": which if checkpoint is None else checkpoint}
        answer = self.connection.send(lambda: self.connection.http.get(f"/v1/jobs/{source}/model", params=query))
        content, digest = answer.content, answer.headers.get("repr-digest", "")
        if digest and digest != f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:":
            raise ValueError("the file is not what the service sent: its SHA-256 differs; download it again")
        found = Path(path) if path is not None else Path()
        found = found / f"{job_id}.{format}" if found.is_dir() else found
        partial = found.with_name(found.name + ".part")
        partial.write_bytes(content)
        partial.replace(found)
        return found

    # ---------------------------------------------------------------- for administrators

    def create_token(self, name: str = "", *, scopes: Iterable[str] = ("submit",), owner: str | None = None,
                     expires_in_seconds: float | None = None) -> Token:
        """A new token, in `token`, told only now. Tokens of one owner see the same; by default it sees what it makes itself."""
        given = {"name": name, "scopes": list(scopes), "owner": owner, "expires_in_seconds": expires_in_seconds}
        asked = {key: value for key, value in given.items() if value is not None}
        return Token.model_validate(self.connection.json("POST", "/v1/tokens", json=asked, headers=_once()))

    def tokens(self) -> Iterator[Token]:
        """All tokens, newest first, also revoked ones."""
        return map(Token.model_validate, self._pages("/v1/tokens", {}))

    def revoke_token(self, token_id: str) -> None:
        """Refuse a token from now on; what belongs to it stays."""
        self.connection.send(lambda: self.connection.http.delete(f"/v1/tokens/{token_id}"))

    def audit(self, **only: str) -> Iterator[Deed]:
        """Who changed what, newest first. only: token, action, object_id, outcome."""
        return map(Deed.model_validate, self._pages("/v1/audit", only))

    def version(self) -> Object:
        """What runs there."""
        return self.connection.json("GET", "/version")

    def _pages(self, path: str, query: Mapping[str, str]) -> Iterator[Object]:
        after: dict[str, str] = {}
        while True:
            page = self.connection.json("GET", path, params={**query, **after, "limit": "100"})
            yield from page["data"]
            if not page["has_more"]:
                return
            after = {"after": page["last_id"]}


def _asked(rows: Any, inputs: Any, dataset: str | None, csv: str | None, checkpoint: str | int | None, losses: bool) -> tuple[Object, Object]:
    """Query and body of a prediction."""
    given = {"rows": None if rows is None else [dict(row) for row in rows], "inputs": inputs, "dataset": dataset}
    sent = {"json": {name: plain(value) for name, value in given.items() if value is not None}}
    how: Object = sent if csv is None else {"content": csv.encode(), "headers": {"Content-Type": "text/csv"}}
    return {"losses": str(losses).lower(), **({} if checkpoint is None else {"checkpoint": checkpoint})}, how


def read_spec(job: Spec) -> Object:
    """A job as a dict. Raises ValueError, with the place, for a file that is no JSON object."""
    if isinstance(job, Mapping):
        return plain(job)
    try:
        found = json.loads(Path(job).read_text("utf-8-sig"))        # some editors begin a file with a mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{job} is not JSON: no text in UTF-8 ({error.reason} at byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{job} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{job} is no job: a job is a JSON object")
    return found


def _once() -> dict[str, str]:
    """A new key under which the service does a request once, however often it is sent."""
    return {"Idempotency-Key": str(uuid.uuid4())}
