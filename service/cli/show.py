"""show."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from engine.data.table import Table
from engine.errors import SpecError
from engine.graph.show import show as text_of
from engine.kernels import library
from engine.plan.program import SECTIONS, Program
from engine.spec import problems as problems_of
from engine.train import Job, build
from engine.train.ready.build import Built
from engine.train.ready.planned import program_of
from service.cli.jobs import SpecFile, spec_file
from service.cli.serve import Home, read
from service.cli.session import WRONG, say
from service.cli.text import columns
from service.client.client import read_spec
from service.client.errors import Problem
from service.client.placeholders import names as left_open
from service.errors import ServiceError
from service.samples import open_sample
from service.store import Store
from service.store.migrate import migrate
from service.tables import SAMPLE, open_tables


class View(StrEnum):
    graph = "graph"
    plan = "plan"
    source = "source"


def show(spec: SpecFile,
         view: Annotated[View, typer.Option("--as", help="graph: nodes of a training step; plan: its launches; source: their code")] = View.graph,
         home: Home = None) -> None:
    try:
        built = built_of(whole(read_spec(spec_file(spec))), home)
    except (SpecError, ServiceError) as error:
        problems = error.problems if isinstance(error, SpecError) else error.errors
        say("\n".join(str(Problem(**problem.as_dict())) for problem in problems) or str(error))
        raise typer.Exit(WRONG) from None
    except (OSError, ValueError) as error:
        say(str(error))
        raise typer.Exit(WRONG) from None
    if view is View.graph:
        print(graph(built))
    else:
        print((plan if view is View.plan else source)(program_of(built)))


def whole(raw: dict[str, Any]) -> dict[str, Any]:
    """A job that leaves no data set open. ValueError."""
    if left := left_open(raw):
        raise ValueError(f"the job leaves its data open, as ${', $'.join(left)}: write the id there that `trainyard upload FILE` gives")
    return raw


def built_of(raw: dict[str, Any], home: Home) -> Built:
    """A job with its data, checked and built. Raises SpecError and ServiceError as POST would answer."""
    try:
        job = Job.model_validate(raw)
    except ValidationError as error:
        raise SpecError(problems_of(error, raw)) from None
    return build(job, tables(job, home))


def tables(job: Job, home: Home) -> dict[str, Table]:
    """The data that a job names: samples, data in the spec, and data sets of the home folder."""
    names = job.references()
    found = {name: open_sample(name.removeprefix(SAMPLE)) for name in names if name.startswith(SAMPLE)}
    if not isinstance(inline := job.data.dataset, str):
        found["inline"] = Table.from_columns(inline.columns) if inline.columns is not None else Table.from_rows(inline.rows or [])
    if uploads := [name for name in names if name not in found]:
        settings = read(home=home)
        migrate(settings.home, settings.store_url)
        store = Store.at(settings.home, settings.store)
        try:
            found |= open_tables(store, uploads)
        finally:
            store.close()
    return found


def graph(built: Built) -> str:
    """One line a node of the training step of a full batch, then what is wanted of it."""
    step = built.make_graph(built.batch_size, True)
    return text_of({"loss": step.loss, **{f"gradient of {path}": node for path, node in step.gradients.items()}, **step.assigned})


def plan(program: Program) -> str:
    """One line a kernel launch of the training step of a full batch; launches of one group run tile by tile together."""
    rows = [("SECTION", "GROUP", "KERNEL", "TYPE", "SIZE", "CHUNKS", "FOR")]
    number = 0
    for section, made in zip(SECTIONS, program.phases["train"].plans, strict=False):
        for group in made.groups:
            number += 1
            chunks = -(-group.size // max(group.chunk, 1))
            rows += [(section, str(number), row.kernel, row.dtype, f"{row.size:,}", str(chunks), row.label if section == "compute" else "")
                     for row in made.rows[group.first:group.last]]
    return f"{columns(rows)}\narena: {program.nbytes:,} bytes"


def source(program: Program) -> str:
    """The text of every kernel that the job runs, as it is compiled."""
    used = sorted({(row.kernel, row.dtype) for phase in program.phases.values() for made in phase.plans for row in made.rows})
    return "\n".join(f"# {'-' * 20} {name}, {dtype}\n{library.source(name, dtype)}" for name, dtype in used)
