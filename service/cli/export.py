"""export."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.session import DEFAULT_URL, JobId, Token, Url, connect

Tool = Annotated[str, typer.Argument(metavar="mlflow|tensorboard", help="for which tool")]
Folder = Annotated[str | None, typer.Argument(metavar="DIR", help="tensorboard: the folder that it looks at")]


def export(tool: Tool, job_id: JobId, folder: Folder = None,
           to: Annotated[str | None, typer.Option(metavar="URI", help="where to: a folder, a database or a server [env MLFLOW_TRACKING_URI]")] = None,
           experiment: Annotated[str, typer.Option(help="mlflow: the experiment that the run is put in")] = "trainyard",
           model: Annotated[bool, typer.Option("--model/--no-model", help="mlflow: with the trained model")] = True,
           url: Url = DEFAULT_URL, token: Token = "") -> None:
    if tool not in ("mlflow", "tensorboard"):
        raise typer.BadParameter(f"nothing is exported for {tool!r}; there are mlflow and tensorboard")
    place = to or folder
    if tool == "tensorboard" and place is None:
        raise typer.BadParameter("name the folder: trainyard export tensorboard ID DIR")
    with connect(url, token) as client:
        print(client.export_tensorboard(job_id, place or "") if tool == "tensorboard"
              else client.export_mlflow(job_id, place, experiment=experiment, model=model))
