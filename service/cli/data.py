"""upload."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from service.cli.session import DEFAULT_URL, AsJson, Token, Url, connect, warn
from service.cli.text import columns


def told(sent: int, size: int) -> None:
    """How far a large file is."""
    print(f"\r{sent / 1e6:,.0f} of {size / 1e6:,.0f} MB" + ("; reading it\n" if sent == size else ""), end="", file=sys.stderr, flush=True)


def upload(files: Annotated[list[str], typer.Argument(metavar="FILE", help="one file; or COLUMN=FILE for each array file")],
           name: Annotated[str | None, typer.Option(help="what to call it; by default the file's name")] = None,
           format: Annotated[str | None, typer.Option(help="csv, text, ndjson, json, npy, npz, idx, parquet or images, where unclear")] = None,
           types: Annotated[str | None, typer.Option(help="kinds of columns: zip:category,when:datetime")] = None,
           as_json: AsJson = False, url: Url = DEFAULT_URL, token: Token = "") -> None:
    pairs = [file.partition("=") for file in files]
    if len(files) > 1 and not all(path for _, _, path in pairs):
        raise typer.BadParameter("several files are given as COLUMN=FILE each")
    with connect(url, token) as client:
        source = {column: path for column, _, path in pairs} if pairs[0][2] else files[0]
        found = client.upload(source, name=name, format=format, types=types, progress=told if sys.stderr.isatty() else None)
    warn(found.warnings)
    if as_json:
        print(found.model_dump_json(exclude_unset=True))
        return
    print(f"{found.id}  {found.rows:,} rows")
    rows = [(column.name, column.kind, "x".join(map(str, column.shape)), f"{column.missing:,}") for column in found.columns]
    print(columns([("COLUMN", "KIND", "SHAPE", "MISSING"), *rows]))
