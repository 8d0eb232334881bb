"""Answers of trained models. The predictor process computes; here requests are read, limited and handed on."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from engine.errors import Problem
from service.ask import ask
from service.errors import ServiceError, invalid_request, too_large
from service.routes import shapes
from service.routes.api import Api, Closed, Here, in_thread
from service.routes.bodies import as_object, check_json_type, closed, media_type, parse, read, read_json
from service.routes.problems import documented
from service.routes.render import Answer, Json, present
from service.routes.results import WHICH, Which, find_checkpoint
from service.routes.tables import SAMPLE
from service.store.changes import Row

router = APIRouter(route_class=Closed, tags=["predictions"])
FORMS = ("rows", "inputs", "dataset")
CSV = {"text/csv": {"schema": {"type": "string"}}}
PREDICT = shapes.json_body({"type": "object", "additionalProperties": False, "minProperties": 1, "maxProperties": 1, "properties": {
    "rows": {"type": "array", "items": {"type": "object"}}, "inputs": {}, "dataset": {"type": "string"}}}, CSV)
EVALUATE = shapes.json_body({"type": "object", "additionalProperties": False, "properties": {
    "dataset": {"type": "string"}, "split": {"enum": ["train", "validation", "test"]}, "metrics": {"type": ["array", "object"]},
    "checkpoint": {"type": ["string", "integer"]}}})
WRITING: dict[str, tuple[Any, str]] = {"prompt": (str, "a text"), "length": (int, "a whole number"), "temperature": (int | float, "a number"),
                                       "seed": (int, "a whole number")}
GENERATE = shapes.json_body({"type": "object", "additionalProperties": False, "properties": {
    "prompt": {"type": "string", "default": ""}, "length": {"type": "integer", "minimum": 1, "default": 200},
    "temperature": {"type": "number", "minimum": 0, "default": 1}, "seed": {"type": "integer", "minimum": 0, "default": 0},
    "checkpoint": {"type": ["string", "integer"]}}})
GRADIENTS = shapes.json_body({"type": "object"})


@router.post("/v1/jobs/{job_id}/predict", responses={200: {"model": shapes.Prediction}, **documented(400, 404, 409, 413, 415, 422, 503)},
             openapi_extra=PREDICT)
async def predict(request: Request, api: Here, job_id: str, which: Which = "last",
                  losses: Annotated[bool, Query(description="the loss of each row, where the target is given")] = False) -> Response:
    """What the model makes of rows, arrays or a dataset. Works from the first checkpoint on."""
    return Answer(await predicted(request, api, *await in_thread(find_checkpoint, api, job_id, which), losses=losses))


async def predicted(request: Request, api: Api, job: Row, checkpoint: Row, *, losses: bool, **also: str) -> Json:
    """The prediction that a request asks of a model; `also` are further fields of the answer."""
    data = await given(request, api)
    answer = await ask(api.wake, {"call": "predict", **model_of(job, checkpoint), **data, "losses": losses})
    return {"object": "prediction", "job_id": job["id"], **also, "checkpoint": epoch_of(job, checkpoint), **answer}


def epoch_of(job: Row, checkpoint: Row) -> Json:
    """The `checkpoint` of an answer: which epoch's weights these are."""
    if checkpoint["best_weights"] and job["best"]:
        return {"name": "best", "epoch": job["best"]["epoch"]}
    return {"name": "last" if checkpoint["last"] else str(checkpoint["epoch"]), "epoch": checkpoint["epoch"], "step": checkpoint["step"]}


async def given(request: Request, api: Api) -> Json:
    """The data of a prediction: exactly one of `rows`, `inputs`, `csv` and `table`."""
    most = api.settings.max_predict_bytes
    if media_type(request) == "text/csv":
        body = await read(request, most, "a prediction")
        try:
            return {"csv": body.decode("utf-8-sig")}
        except UnicodeDecodeError as error:
            raise invalid_request(f"the CSV text is not UTF-8 (byte {error.start})") from None
    check_json_type(request, " or text/csv")
    raw = closed(as_object(parse(await read(request, most, "a prediction"))), FORMS)
    if len(raw) != 1:
        raise invalid_request("send exactly one of rows, inputs and dataset", [Problem("", "one_form", "exactly one of rows, inputs and dataset")])
    check_rows(api, raw)
    return {"table": await in_thread(table_of, api, raw["dataset"], "/dataset")} if "dataset" in raw else raw


def check_rows(api: Api, raw: Json) -> None:
    """413 for more rows than one prediction takes; 422 for what is no list of rows."""
    for name in ("rows", "inputs"):
        lists = list(raw.get(name, ()).values()) if isinstance(raw.get(name), dict) and name == "inputs" else [raw.get(name, [])]
        for rows in lists:
            if not isinstance(rows, list):
                raise invalid_value(f"/{name}", f"{name} is a list of rows")
            if len(rows) > api.settings.max_predict_rows:
                raise too_large(f"one prediction takes at most {api.settings.max_predict_rows:,} rows; these are {len(rows):,}")


def table_of(api: Api, reference: Any, pointer: str) -> Json:
    """How the predictor finds a dataset: `{"sha256"}` or `{"sample"}`; 422 when there is none of this name."""
    if not isinstance(reference, str):
        raise invalid_value(pointer, "a dataset is named by its id, a text")
    try:
        content, _ = api.tables.open(reference)
    except ServiceError as error:
        if error.status >= 500:
            raise
        raise invalid_request(error.detail, [Problem(pointer, "unknown_dataset", error.detail)]) from None
    return {"sample": reference.removeprefix(SAMPLE)} if reference.startswith(SAMPLE) else {"sha256": content}


def model_of(job: Row, checkpoint: Row) -> Json:
    """What the predictor needs to load a model."""
    kept = {name: checkpoint[name] for name in ("step", "epoch", "path", "bytes", "sha256")}
    return {"job": {"id": job["id"], "spec": job["spec"]}, "checkpoint": kept, "best": checkpoint["best_weights"]}


@router.post("/v1/jobs/{job_id}/evaluate", responses={200: {"model": shapes.Evaluation}, **documented(400, 404, 409, 413, 415, 422, 503)},
             openapi_extra=EVALUATE)
async def evaluate(request: Request, api: Here, job_id: str) -> Response:
    """Loss and metrics of a model on a dataset, or on a part of the data it was trained with."""
    return Answer(await evaluated(request, api, lambda which: find_checkpoint(api, job_id, which or "last")))


Find = Callable[[str | None], tuple[Row, Row]]
"""(job, checkpoint) of the model that a request is about; its body may say which checkpoint."""


async def evaluated(request: Request, api: Api, find: Find, **also: str) -> Json:
    """The evaluation that a request asks of a model."""
    _, raw = await read_json(request, api.settings.max_spec_bytes, "an evaluation")
    closed(as_object(raw), ("dataset", "split", "metrics", "checkpoint"))
    if ("dataset" in raw) == ("split" in raw):
        raise invalid_request("send either dataset or split", [Problem("", "one_form", "either dataset or split")])
    if raw.get("split", "train") not in ("train", "validation", "test"):
        raise invalid_value("/split", "split is train, validation or test")
    if not isinstance(raw.get("metrics", []), list | dict):
        raise invalid_value("/metrics", "metrics is a list of names or objects, or lists by output name")
    job, checkpoint = await in_thread(find, which_of(raw))
    data = {"table": await in_thread(table_of, api, raw["dataset"], "/dataset")} if "dataset" in raw else {"split": raw["split"]}
    answer = await ask(api.wake, {"call": "evaluate", **model_of(job, checkpoint), **data, **present(metrics=raw.get("metrics"))})
    return {"object": "evaluation", "job_id": job["id"], **also, **answer}


@router.post("/v1/jobs/{job_id}/generate", responses={200: {"model": shapes.Generation}, **documented(400, 404, 409, 413, 415, 422, 503)},
             openapi_extra=GENERATE)
async def generate(request: Request, api: Here, job_id: str) -> Response:
    """What a model of plain text writes after a prompt, character by character. The same seed gives the same text."""
    return Answer(await generated(request, api, lambda which: find_checkpoint(api, job_id, which or "last")))


async def generated(request: Request, api: Api, find: Find, **also: str) -> Json:
    """The text that a request asks of a model."""
    _, raw = await read_json(request, api.settings.max_spec_bytes, "a request for text")
    closed(as_object(raw), (*WRITING, "checkpoint"))
    wrong = [Problem(f"/{name}", "invalid_value", f"{name} is {WRITING[name][1]}") for name, value in raw.items()
             if name in WRITING and (not isinstance(value, WRITING[name][0]) or isinstance(value, bool))]
    if wrong:
        raise invalid_request(wrong[0].detail, wrong)
    job, checkpoint = await in_thread(find, which_of(raw))
    asked = {name: value for name, value in raw.items() if name in WRITING}
    answer = await ask(api.wake, {"call": "generate", **model_of(job, checkpoint), "asked": asked})
    return {"object": "generation", "job_id": job["id"], **also, "checkpoint": epoch_of(job, checkpoint), **answer}


def which_of(raw: Json) -> str | None:
    """The checkpoint that a body names: last, best or an epoch; None where it names none."""
    if "checkpoint" not in raw:
        return None
    found = raw["checkpoint"]
    if not isinstance(found, str | int) or isinstance(found, bool) or not re.fullmatch(WHICH, str(found)):
        raise invalid_value("/checkpoint", "checkpoint is last, best or the number of an epoch")
    return str(found)


def invalid_value(pointer: str, detail: str) -> ServiceError:
    """422 for one wrong value."""
    return invalid_request(detail, [Problem(pointer, "invalid_value", detail)])


@router.post("/v1/gradients", responses={200: {"model": shapes.Gradients}, **documented(400, 413, 415, 422, 503)}, openapi_extra=GRADIENTS)
async def gradients(request: Request, api: Here) -> Response:
    """Loss and derivatives of a model that is in the request; nothing is kept."""
    _, raw = await read_json(request, api.settings.max_inline_bytes, "a gradients request")
    return Answer(await ask(api.wake, {"call": "gradients", "request": as_object(raw)}))


@router.post("/v1/jobs/{job_id}/gradients", responses={200: {"model": shapes.Gradients}, **documented(400, 404, 409, 413, 415, 422, 503)},
             openapi_extra=GRADIENTS)
async def gradients_of_job(request: Request, api: Here, job_id: str, which: Which = "last") -> Response:
    """Loss and derivatives of a trained model."""
    _, raw = await read_json(request, api.settings.max_inline_bytes, "a gradients request")
    job, checkpoint = await in_thread(find_checkpoint, api, job_id, which)
    return Answer(await ask(api.wake, {"call": "gradients", **model_of(job, checkpoint), "request": as_object(raw)}))
