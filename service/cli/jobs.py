"""submit, watch, jobs, cancel."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.progress import follow
from service.cli.session import DEFAULT_URL, DETACHED, NOT_SUCCEEDED, AsJson, JobId, Token, Url, connect, say, warn
from service.cli.text import columns
from service.client import Client, Event, Job

EXAMPLES = {path.stem: path for path in sorted((Path(__file__).parents[1] / "samples" / "jobs").glob("*.json"))}
NAMED = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_-]*)(\.(?P<column>[A-Za-z0-9_-]+))?=(?P<file>.+)")
SpecFile = Annotated[Path, typer.Argument(metavar="JOB.json", help="the job; - is standard input, sample:NAME one that ships with the service: "
                                                                   + ", ".join(EXAMPLES), allow_dash=True)]
DataFiles = Annotated[list[str] | None, typer.Option(metavar="FILE", help=(
    "upload this first; it becomes the job's dataset. NAME=FILE becomes the dataset that the job calls $NAME; "
    "NAME.COLUMN=FILE, once for each array file, makes it of several"))]


def submit(spec: SpecFile, data: DataFiles = None,
           wait: Annotated[bool, typer.Option("--wait/--no-wait", help="follow the job to its end")] = True,
           as_json: AsJson = False, url: Url = DEFAULT_URL, token: Token = "") -> None:
    with connect(url, token) as client:
        whole, datasets = sources(data or [])
        job = client.submit(spec_file(spec), data=whole, datasets=datasets)
        follow_new(client, job, wait, as_json)


def spec_file(spec: Path) -> Path:
    """Where a job is read from. ValueError for the name of an example that is none."""
    name = str(spec).removeprefix("sample:")
    if name == str(spec):
        return Path("/dev/stdin") if name == "-" else spec
    if name not in EXAMPLES:
        raise ValueError(f"no job ships under the name {name!r}; there are {', '.join(EXAMPLES)}")
    return EXAMPLES[name]


def sources(given: list[str]) -> tuple[str | None, dict[str, Any]]:
    """The file that is the job's dataset, if there is one, and the files of the datasets that it leaves open, by name."""
    whole, datasets = None, {}
    for text in given:
        found = NAMED.fullmatch(text)
        if found is None or Path(text).exists():
            if whole is not None:
                raise ValueError(f"{whole} and {text} cannot both be the job's dataset: say NAME=FILE for those that the job calls $NAME")
            whole = text
        elif found["column"]:
            datasets.setdefault(found["name"], {})[found["column"]] = found["file"]
        else:
            datasets[found["name"]] = found["file"]
    return whole, datasets


def watch(job_id: JobId, as_json: Annotated[bool, typer.Option("--json", help="print each event as a line of JSON")] = False,
          url: Url = DEFAULT_URL, token: Token = "") -> None:
    with connect(url, token) as client:
        to_the_end(client, client.job(job_id), False, as_json)


def _interruptible(events: Iterator[Event]) -> Iterator[Event]:
    """Events until Ctrl-C. What the signal raises can be lost, where it comes while compiled code calls Python; so each event asks again."""
    asked: list[int] = []

    def interrupt(number: int, _: object) -> None:
        asked.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    for event in events:
        if asked:
            raise KeyboardInterrupt
        yield event


def follow_new(client: Client, job: Job, wait: bool, as_json: bool) -> None:
    """Say what a job that was just made warns of, and follow it, unless nobody waits."""
    warn(job.warnings)
    if not wait:
        print(job.model_dump_json(exclude_unset=True) if as_json else job.id)
        return
    if not as_json:
        say(f"{job.id} is queued")
    to_the_end(client, job, as_json, False)


def to_the_end(client: Client, job: Job, final: bool, lines: bool) -> None:
    """Follow a job; exit with how it ended. `final`: only the job in the end, as JSON; `lines`: each event as JSON."""
    events = _interruptible(client.watch(job.id))
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
