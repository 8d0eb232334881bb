"""serve, worker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from service import ahead
from service.settings import Settings

Home = Annotated[Path | None, typer.Option(metavar="DIR", help="folder of the store [env TRAINYARD_HOME; ~/.trainyard]")]
Workers = Annotated[int | None, typer.Option(min=0, help="jobs trained at the same time [env TRAINYARD_WORKERS; 1]")]


def serve(host: Annotated[str | None, typer.Option(help="address to listen on [env TRAINYARD_HOST; 127.0.0.1]")] = None,
          port: Annotated[int | None, typer.Option(help="port; 0 takes a free one [env TRAINYARD_PORT; 8000]")] = None,
          home: Home = None, workers: Workers = None) -> None:
    raise typer.Exit(ahead.run(read(host=host, port=port, home=home, workers=workers), with_api=True))


def worker(home: Home = None, workers: Workers = None) -> None:
    raise typer.Exit(ahead.run(read(home=home, workers=workers), with_api=False))


def read(**given: object) -> Settings:
    """The settings of the environment, with those that were given in their place."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        wrong = "; ".join(f"TRAINYARD_{str(item['loc'][0]).upper()}: {item['msg'][:1].lower()}{item['msg'][1:]}" for item in error.errors())
        raise typer.BadParameter(wrong) from None
