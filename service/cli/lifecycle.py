"""pause, resume, adjust."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from service.cli.session import DEFAULT_URL, AsJson, JobId, Token, Url, connect
from service.client import Job

Given = Annotated[list[str], typer.Argument(metavar="NAME=VALUE", help=(
    "hyper-parameters by name, epochs (in all), freeze and thaw (path patterns, as often as needed), name, metadata (as JSON), priority"))]
TEXTS, PATHS = ("name",), ("freeze", "thaw")


def pause(job_id: JobId, as_json: AsJson = False, url: Url = DEFAULT_URL, token: Token = "") -> None:
    with connect(url, token) as client:
        _show(client.pause(job_id), as_json)


def resume(job_id: JobId, as_json: AsJson = False, url: Url = DEFAULT_URL, token: Token = "") -> None:
    with connect(url, token) as client:
        _show(client.resume(job_id), as_json)


def adjust(job_id: JobId, given: Given, as_json: AsJson = False, url: Url = DEFAULT_URL, token: Token = "") -> None:
    with connect(url, token) as client:
        _show(client.adjust(job_id, **changes(given)), as_json)


def _show(job: Job, as_json: bool) -> None:
    print(job.model_dump_json(exclude_unset=True) if as_json else f"{job.id} is {job.status}, epoch {job.epoch}/{job.epochs}")


def changes(given: Iterable[str]) -> dict[str, Any]:
    """What NAME=VALUE pairs say. A value is JSON where it can be, else text; those of freeze and thaw add up. ValueError for what is no pair."""
    found: dict[str, Any] = {}
    for pair in given:
        name, equals, text = pair.partition("=")
        if not name or not equals:
            raise ValueError(f"{pair!r} does not say what to change: write NAME=VALUE, as in learning_rate=0.001")
        value = text if name in TEXTS else _value(text)
        if name in PATHS:
            value = [*found.get(name, ()), *(value if isinstance(value, list) else [value])]
        found[name] = value
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
