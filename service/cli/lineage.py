"""fork, publish, unpublish, models."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.jobs import follow_new
from service.cli.session import DEFAULT_URL, AsJson, JobId, Token, Url, Which, connect
from service.cli.text import columns
from service.client.client import read_spec

Name = Annotated[str, typer.Argument(metavar="NAME", help="a name of small letters, digits, dots, lines and underscores")]
Given = Annotated[list[str] | None, typer.Argument(metavar="[PART=VALUE]", help=(
    "what is to be other than in the job: optimiser.learning_rate=0.001 data.batch_size=64 callbacks=null"))]


def fork(job_id: JobId, given: Given = None,
         more_epochs: Annotated[int | None, typer.Option(min=1, help="train so many epochs beyond those of the checkpoint")] = None,
         checkpoint: Which = "last",
         changes: Annotated[Path | None, typer.Option(metavar="FILE", help="a JSON object that is merged into the job")] = None,
         reset: Annotated[bool, typer.Option("--reset", help="begin with the parameters alone, at epoch 1")] = False,
         wait: Annotated[bool, typer.Option("--wait/--no-wait", help="follow the job to its end")] = True,
         as_json: AsJson = False, url: Url = DEFAULT_URL, token: Token = "") -> None:
    with connect(url, token) as client:
        patch = patched(read_spec(changes) if changes else {}, given or [])
        job = client.fork(job_id, more_epochs=more_epochs, checkpoint=checkpoint, changes=patch or None, state="reset" if reset else "keep")
        follow_new(client, job, wait, as_json)


def patched(patch: dict[str, Any], given: list[str]) -> dict[str, Any]:
    """A merge patch with PART=VALUE pairs in it; a value is JSON where it can be, else text. ValueError for what is no pair."""
    for pair in given:
        path, equals, text = pair.partition("=")
        if not path or not equals:
            raise ValueError(f"{pair!r} does not say what to change: write PART=VALUE, as in optimiser.learning_rate=0.001")
        *parents, last = path.split(".")
        here = patch
        for step in parents:
            here = here.setdefault(step, {})
            if not isinstance(here, dict):
                raise ValueError(f"{pair!r}: {step} is given whole already")
        try:
            here[last] = json.loads(text)
        except ValueError:
            here[last] = text
    return patch


def publish(name: Name, job_id: JobId, checkpoint: Which = "last", as_json: AsJson = False, url: Url = DEFAULT_URL, token: Token = "") -> None:
    with connect(url, token) as client:
        model = client.publish(name, job_id, checkpoint=checkpoint)
    print(model.model_dump_json(exclude_unset=True) if as_json else f"{name} answers with {model.job}, checkpoint {model.checkpoint}")


def unpublish(name: Name, url: Url = DEFAULT_URL, token: Token = "") -> None:
    with connect(url, token) as client:
        client.unpublish(name)
    print(f"{name} is gone; the jobs stay")


def models(name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="only this one, with what it answered with before")] = None,
           limit: Annotated[int, typer.Option(min=1, help="at most so many")] = 20,
           as_json: AsJson = False, url: Url = DEFAULT_URL, token: Token = "") -> None:
    with connect(url, token) as client:
        found = [client.model(name)] if name else list(islice(client.models(), limit))
    if as_json:
        print("[" + ",\n".join(model.model_dump_json(exclude_unset=True) for model in found) + "]")
        return
    rows = [row for model in found for row in ([_row(model.name, one) for one in model.history] if name else [_row(model.name, vars(model))])]
    print(columns([("NAME", "JOB", "CHECKPOINT", "SINCE"), *rows]))


def _row(name: str, model: dict[str, Any]) -> tuple[str, str, str, str]:
    return name, model["job"], model["checkpoint"], model["created_at"][:19].replace("T", " ")
