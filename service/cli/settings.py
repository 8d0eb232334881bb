"""settings."""

from __future__ import annotations

import json

from service.cli.serve import read
from service.cli.session import AsJson
from service.cli.text import columns
from service.settings import describe


def settings(as_json: AsJson = False) -> None:
    values = read().model_dump(mode="json")
    rows = [{**row, "value": shown(row["name"], values)} for row in describe()]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    print(columns([("VARIABLE", "VALUE", "MEANING"), *((row["name"], row["value"], row["description"]) for row in rows)]))


def shown(name: str, values: dict[str, object]) -> str:
    """A value as text; of a token only that there is one."""
    value = values[name.removeprefix("TRAINYARD_").lower()]
    return ("(set)" if value else "") if name == "TRAINYARD_TOKEN" else str(value)
