"""webhooks."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from service.cli.session import DEFAULT_URL, AsJson, Token, Url, connect
from service.cli.text import columns

Deed = Annotated[str, typer.Argument(metavar="ID|secret|rotate|failing|enable", help=(
    "the id of a job: what was told of it; secret: what webhooks are signed with; rotate: a new one; failing: receivers that fail or are left alone; "
    "enable URL: tell one again"))]


def webhooks(deed: Deed, target: Annotated[str | None, typer.Argument(metavar="URL", help="for enable")] = None,
             as_json: AsJson = False, url: Url = DEFAULT_URL, token: Token = "") -> None:
    if (deed == "enable") != (target is not None):
        raise typer.BadParameter("a URL goes with enable, and only with it: trainyard webhooks enable URL")
    with connect(url, token) as client:
        if deed in ("secret", "rotate"):
            print(client.webhook_secret() if deed == "secret" else client.rotate_webhook_secret())
            return
        if target is not None:
            client.enable_webhook(target)
            print(f"{target} is told again")
            return
        if deed == "failing":
            found = client.webhook_targets()
            shown = [(row["status"], row["failing_since"], row["url"], row.get("reason", "")) for row in found]
            rows = [("STATUS", "SINCE", "URL", "REASON"), *shown]
        else:
            deliveries = list(client.deliveries(deed))
            found = [delivery.model_dump(mode="json", exclude_unset=True) for delivery in deliveries]
            rows = [("STATUS", "TRIES", "TYPE", "URL", "LAST"), *((one.status, str(len(one.tries)), one.type, one.url, _last(one.tries))
                                                                  for one in deliveries)]
    print(json.dumps(found, indent=1) if as_json else columns(rows))


def _last(tries: list[dict[str, object]]) -> str:
    return str(tries[-1].get("error") or tries[-1].get("code", "")) if tries else ""
