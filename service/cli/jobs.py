"""submit, watch, jobs, cancel."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from service.cli.progress import follow
from service.cli.session import DEFAULT_URL, DETACHED, NOT_SUCCEEDED, AsJson, JobId, Token, Url, connect, say, warn
from service.cli.text import columns
from service.client import Client, Job

SpecFile = Annotated[Path, typer.Argument(metavar="JOB.json", help="the job; - is standard input", allow_dash=True)]


def submit(spec: SpecFile,
           data: Annotated[Path | None, typer.Option(metavar="FILE", help="upload this first; it becomes the job's dataset")] = None,
           wait: Annotated[bool, typer.Option("--wait/--no-wait", help="follow the job to its end")] = True,
           as_json: AsJson = False, url: Url = DEFAULT_URL, token: Token = "") -> None:
    with connect(url, token) as client:
        job = client.submit("/dev/stdin" if str(spec) == "-" else spec, data=data)
        warn(job.warnings)
        if not wait:
            print(job.model_dump_json(exclude_unset=True) if as_json else job.id)
            return
        if not as_json:
            say(f"{job.id} is queued")
        _to_the_end(client, job, as_json, False)


def watch(job_id: JobId, as_json: Annotated[bool, typer.Option("--json", help="print each event as a line of JSON")] = False,
          url: Url = DEFAULT_URL, token: Token = "") -> None:
    with connect(url, token) as client:
        _to_the_end(client, client.job(job_id), False, as_json)


def _to_the_end(client: Client, job: Job, final: bool, lines: bool) -> None:
    """Follow a job; exit with how it ended. `final`: only the job in the end, as JSON; `lines`: each event as JSON."""
    events = client.watch(job.id)
    try:
        if lines:
            events = (print(event.model_dump_json(), flush=True) or event for event in events)
        follow(job, events, quiet=final or lines)
    except KeyboardInterrupt:
        say(f"\nDetached; the job goes on. Follow it again: trainyard watch {job.id}   Stop it: trainyard cancel {job.id}")
        raise typer.Exit(DETACHED) from None
    job = client.job(job.id)
    if final:
        print(job.model_dump_json(exclude_unset=True))
    elif not lines:
        say("\n".join(line for line in (job.message, job.hint) if line))
    if not job.succeeded:
        raise typer.Exit(NOT_SUCCEEDED)


def jobs(status: Annotated[str, typer.Option(help="only these states, separated by commas")] = "",
         limit: Annotated[int, typer.Option(min=1, help="at most so many")] = 20,
         as_json: AsJson = False, url: Url = DEFAULT_URL, token: Token = "") -> None:
    with connect(url, token) as client:
        found = list(islice(client.jobs(status=status), limit))
    if as_json:
        print("[" + ",\n".join(job.model_dump_json(exclude_unset=True) for job in found) + "]")
        return
    rows = [(job.id, job.status, f"{job.epoch}/{job.epochs}", job.created_at[:19].replace("T", " "), job.name or "", metrics(job)) for job in found]
    print(columns([("ID", "STATUS", "EPOCH", "CREATED", "NAME", "METRICS"), *rows]))


def metrics(job: Job) -> str:
    """The numbers that tell most: of the validation, else of the training."""
    found = {name: value for name, value in job.metrics.items() if isinstance(value, float)}
    valid = {name: value for name, value in found.items() if name.startswith("valid_")}
    return "  ".join(f"{name} {value:.4g}" for name, value in list((valid or found).items())[:3])


def cancel(job_id: JobId, as_json: AsJson = False, url: Url = DEFAULT_URL, token: Token = "") -> None:
    with connect(url, token) as client:
        job = client.cancel(job_id)
    print(job.model_dump_json(exclude_unset=True) if as_json else f"{job.id} is {job.status}")
