"""Answers of trained models. The predictor process computes; here requests are read, limited and handed on."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from engine.errors import Problem
from service.ask import Answered, Rest, ask
from service.errors import ServiceError, invalid_request
from service.routes import shapes
from service.routes.api import Api, Closed, Here, in_thread
from service.routes.bodies import as_object, check_json_type, closed, media_type, parse, read, read_json
from service.routes.problems import documented
from service.routes.render import Answer, Json, present
from service.routes.results import WHICH, Which, find_checkpoint
from service.routes.tables import SAMPLE
from service.store.changes import Row

router = APIRouter(route_class=Closed, tags=["predictions"])
SHORT = 1 << 16      # bytes of a body that may name a dataset
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


Losses = Annotated[bool, Query(description="the loss of each row, where the target is given")]
Form = Annotated[Literal["json", "csv"] | None, Query(alias="format", description="instead of `Accept`")]
ANSWERED: dict[int | str, dict[str, Any]] = {200: {"model": shapes.Prediction, "content": CSV}, **documented(400, 404, 409, 413, 415, 422, 503)}


@router.post("/v1/jobs/{job_id}/predict", responses=ANSWERED, openapi_extra=PREDICT)
async def predict(request: Request, api: Here, job_id: str, which: Which = "last", losses: Losses = False, form: Form = None) -> Response:
    """What the model makes of rows, arrays or a dataset. Works from the first checkpoint on."""
    return await predicted(request, api, *await in_thread(find_checkpoint, api, job_id, which), losses=losses, form=form)


async def predicted(request: Request, api: Api, job: Row, checkpoint: Row, *, losses: bool, form: str | None, **also: str) -> Response:
    """The prediction that a request asks of a model; `also` are further fields of the answer."""
    data, body = await given(request, api)
    wanted = form or ("csv" if "text/csv" in request.headers.get("accept", "") else "json")
    facts = {"object": "prediction", "job_id": job["id"], **also, "checkpoint": epoch_of(job, checkpoint)}
    asked = {"call": "predict", **model_of(job, checkpoint), **data, "losses": losses, "form": wanted, "facts": facts}
    return answered(await ask(api.wake, asked, body))


def answered(found: Answered) -> Response:
    """The predictor's answer as it is."""
    media_type, headers = found.head["media_type"], found.head.get("headers")
    if found.rest is None:
        plain = media_type == Answer.media_type and not headers
        return (Answer if plain else Response)(found.body, media_type=media_type, headers=headers)
    return Pieces(found.body, found.rest, media_type=media_type, headers=headers)


class Pieces(StreamingResponse):
    """An answer as the predictor makes it, piece by piece. However it ends, the predictor has its connection back."""

    def __init__(self, first: bytes, rest: Rest, **more: Any):
        async def pieces() -> AsyncIterator[bytes]:
            yield first
            async for piece in rest:
                if piece:
                    yield piece

        super().__init__(pieces(), **more)
        self.rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.rest.close()


def epoch_of(job: Row, checkpoint: Row) -> Json:
    """The `checkpoint` of an answer: which epoch's weights these are."""
    if checkpoint["best_weights"] and job["best"]:
        return {"name": "best", "epoch": job["best"]["epoch"]}
    return {"name": "last" if checkpoint["last"] else str(checkpoint["epoch"]), "epoch": checkpoint["epoch"], "step": checkpoint["step"]}


async def given(request: Request, api: Api) -> tuple[Json, bytes]:
    """The data of a prediction: a `table`, or the type `of` the body, which the predictor reads."""
    most = api.settings.max_predict_bytes
    if media_type(request) == "text/csv":
        return {"of": "csv"}, await read(request, most, "a prediction")
    check_json_type(request, " or text/csv")
    body = await read(request, most, "a prediction")
    if len(body) < SHORT and b'"dataset"' in body and isinstance(raw := parse(body), dict) and list(raw) == ["dataset"]:
        return {"table": await in_thread(table_of, api, raw["dataset"], "/dataset")}, b""
    return {"of": "json"}, body


def table_of(api: Api, reference: Any, pointer: str) -> Json:
    """How the predictor finds a dataset: `{"sha256"}` or `{"sample"}`; 422 when there is none of this name."""
    if not isinstance(reference, str):
        raise invalid_value(pointer, "a dataset is named by its id, a text")
    try:
        content, _ = api.tables.open(reference)
        api.uses.dataset(reference)
    except ServiceError as error:
        if error.status >= 500:
            raise
        raise invalid_request(error.detail, [Problem(pointer, "unknown_dataset", error.detail)]) from None
    return {"sample": reference.removeprefix(SAMPLE)} if reference.startswith(SAMPLE) else {"sha256": content}


def model_of(job: Row, checkpoint: Row) -> Json:
    """What the predictor needs to load a model."""
    return {"job": job["id"], "checkpoint": {name: checkpoint[name] for name in ("path", "bytes", "sha256")}, "best": checkpoint["best_weights"]}


@router.post("/v1/jobs/{job_id}/evaluate", responses={200: {"model": shapes.Evaluation}, **documented(400, 404, 409, 413, 415, 422, 503)},
             openapi_extra=EVALUATE)
async def evaluate(request: Request, api: Here, job_id: str) -> Response:
    """Loss and metrics of a model on a dataset, or on a part of the data it was trained with."""
    return await evaluated(request, api, lambda which: find_checkpoint(api, job_id, which or "last"))


Find = Callable[[str | None], tuple[Row, Row]]
"""(job, checkpoint) of the model that a request is about; its body may say which checkpoint."""


async def evaluated(request: Request, api: Api, find: Find, **also: str) -> Response:
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
    facts = {"object": "evaluation", "job_id": job["id"], **also}
    asked = {"call": "evaluate", **model_of(job, checkpoint), **data, **present(metrics=raw.get("metrics")), "facts": facts}
    return answered(await ask(api.wake, asked))


@router.post("/v1/jobs/{job_id}/generate", responses={200: {"model": shapes.Generation}, **documented(400, 404, 409, 413, 415, 422, 503)},
             openapi_extra=GENERATE)
async def generate(request: Request, api: Here, job_id: str) -> Response:
    """What a model of plain text writes after a prompt, character by character. The same seed gives the same text."""
    return await generated(request, api, lambda which: find_checkpoint(api, job_id, which or "last"))


async def generated(request: Request, api: Api, find: Find, **also: str) -> Response:
    """The text that a request asks of a model."""
    _, raw = await read_json(request, api.settings.max_spec_bytes, "a request for text")
    closed(as_object(raw), (*WRITING, "checkpoint"))
    wrong = [Problem(f"/{name}", "invalid_value", f"{name} is {WRITING[name][1]}") for name, value in raw.items()
             if name in WRITING and (not isinstance(value, WRITING[name][0]) or isinstance(value, bool))]
    if wrong:
        raise invalid_request(wrong[0].detail, wrong)
    job, checkpoint = await in_thread(find, which_of(raw))
    asked = {name: value for name, value in raw.items() if name in WRITING}
    facts = {"object": "generation", "job_id": job["id"], **also, "checkpoint": epoch_of(job, checkpoint)}
    return answered(await ask(api.wake, {"call": "generate", **model_of(job, checkpoint), "asked": asked, "facts": facts}))


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
    check_json_type(request)
    return answered(await ask(api.wake, {"call": "gradients"}, await read(request, api.settings.max_inline_bytes, "a gradients request")))


@router.post("/v1/jobs/{job_id}/gradients", responses={200: {"model": shapes.Gradients}, **documented(400, 404, 409, 413, 415, 422, 503)},
             openapi_extra=GRADIENTS)
async def gradients_of_job(request: Request, api: Here, job_id: str, which: Which = "last") -> Response:
    """Loss and derivatives of a trained model."""
    check_json_type(request)
    body = await read(request, api.settings.max_inline_bytes, "a gradients request")
    job, checkpoint = await in_thread(find_checkpoint, api, job_id, which)
    return answered(await ask(api.wake, {"call": "gradients", **model_of(job, checkpoint)}, body))
