"""Pages for people: every call, made from the OpenAPI document, and every error code. No scripts, nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from service.routes.api import Closed
from service.routes.codes import ANSWERS, PROBLEMS
from service.routes.problems import documented
from service.routes.render import Answer, Json

router = APIRouter(route_class=Closed, tags=["service"])
STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 56rem; margin: 2rem auto; padding: 0 1rem }
code, pre { font-family: ui-monospace, monospace; font-size: 0.95em }
pre { overflow-x: auto }
h3 { margin: 1.6rem 0 0.2rem; font-size: 1rem }
table { border-collapse: collapse }
td { padding: 0.15rem 0.8rem 0.15rem 0; vertical-align: top }
.method { display: inline-block; min-width: 4.5rem; font-weight: 700 } .note { opacity: 0.7 } :target { background: #fc03 }
"""
_hash = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS = {"Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"}
FIRST = """<p>A job is a model, a loss, an optimiser and data, as JSON. This one learns to read digits; its answer has its id:</p>
<pre>curl -s {url}/v1/jobs -H 'content-type: application/json' -d '{{
  "model": {{"kind": "chain", "layers": [{{"kind": "dense", "units": 64, "activation": "relu"}}, {{"kind": "dense", "units": "target"}}]}},
  "loss": "logit_cross_entropy", "optimiser": "adam", "epochs": 10,
  "data": {{"dataset": "sample:digits", "target": "label", "validation": {{"fraction": 0.2}}}}}}'

curl -sN '{url}/v1/jobs/ID/events?format=text'</pre>"""
HTML = {200: {"description": "A page", "content": {"text/html": {"schema": {"type": "string"}}}}}


@router.get("/", status_code=307, response_class=RedirectResponse, responses={307: {"description": "To /docs"}, **documented()})
async def get_root() -> Response:
    """The web page; until there is one, the documentation."""
    return RedirectResponse("/docs")


@router.get("/openapi.json", responses=documented())
async def get_openapi(request: Request) -> Response:
    """The OpenAPI document of this service."""
    return Answer(request.app.openapi())


@router.get("/docs", response_class=HTMLResponse, responses={**HTML, **documented()})
async def get_docs(request: Request) -> Response:
    """Every call of the service."""
    return page("Trainyard", FIRST.format(url=html.escape(str(request.base_url).rstrip("/"))) + _calls(request.app.openapi()))


@router.get("/docs/errors", response_class=HTMLResponse, responses={**HTML, **documented()})
async def get_errors() -> Response:
    """Every error code."""
    intro = "<p>Every error has one shape (RFC 9457): <code>type, title, status, detail, instance, code</code>, and in <code>errors</code> all that "
    intro += "is wrong at once, each with a JSON Pointer into the request, a code of its own and the nearest known name.</p>"
    return page("Errors", f"{intro}<h2>Answers</h2>{_codes(ANSWERS)}<h2>Problems in a request</h2>{_codes(PROBLEMS)}")


def page(title: str, body: str) -> Response:
    text = f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    return Response(f"{text}<style>{STYLE}</style><body><h1>{title}</h1>{body}</body></html>", media_type="text/html", headers=HEADERS)


def _codes(codes: dict[str, str]) -> str:
    return "".join(f'<h3 id="{code}"><code>{code}</code></h3>{_text(about)}' for code, about in codes.items())


def _calls(document: Json) -> str:
    sections: dict[str, list[str]] = {}
    for path, item in document["paths"].items():
        for method, call in item.items():
            sections.setdefault(call.get("tags", ["service"])[0], []).append(_call(method, path, call))
    links = '<p><a href="/openapi.json">OpenAPI</a> · <a href="/docs/errors">Errors</a> · <a href="/v1/catalogue">Catalogue</a> · '
    links += '<a href="/v1/schemas/job.json">Schema of a job</a> · <a href="/v1/limits">Limits</a></p>'
    return links + "".join(f"<h2>{html.escape(name.capitalize())}</h2>{''.join(calls)}" for name, calls in sections.items())


def _call(method: str, path: str, call: Json) -> str:
    rows = "".join(f"<tr><td><code>{html.escape(p['name'])}</code><td>{_type(p.get('schema', {}))}<td>{_inline(p.get('description', ''))}"
                   for p in call.get("parameters", ()) if p["in"] != "path")
    statuses = ", ".join(status for status in call.get("responses", {}) if status != "default")
    table = f"<table>{rows}</table>" if rows else ""
    return (f'<h3 id="{html.escape(call["operationId"])}"><span class="method">{method.upper()}</span><code>{html.escape(path)}</code></h3>'
            f"{_text(call.get('description') or call.get('summary', ''))}{table}<p class=\"note\">{statuses}</p>")


def _type(schema: Json) -> str:
    kinds: list[Any] = [one.get("type") or "/".join(map(str, one.get("enum", ()))) for one in schema.get("anyOf", [schema])]
    return html.escape(" or ".join(str(kind) for kind in kinds if kind and kind != "null"))


def _text(text: str) -> str:
    return f"<p>{_inline(text)}</p>" if text else ""


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
