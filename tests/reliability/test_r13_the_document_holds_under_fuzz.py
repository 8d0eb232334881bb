"""R13. The service's own OpenAPI document is fuzzed with schemathesis, all checks, stateful, 50,000 cases: no 5xx, no answer that the document does
not know."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.homes import fresh
from tests.reliability.sizes import short_or_full
from tests.serving import serving
from tests.user import User

TOKEN = "the-token-of-the-service"     # its own: with it, tokens that are made on the way shut nobody out, and nothing is rationed
MOST = 4        # alternatives of one place that are tried in a round: the generator is lost among the thirty-nine kinds of layers in each other
# What a schema cannot say (a name that must exist, shapes that fit, a file that is a file) is refused in words.
# How fast an answer is, is asked elsewhere: here other work shares the processors.
# Of events less is asked for than may be (see ENDLESS): what is beyond that is no violation.
CONFIG = """
[checks]
max_response_time = 60.0
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", "400", "401", "403", "404", "409", "412", "413", "415", "422", "429"]
[checks.negative_data_rejection]
expected-statuses = ["400", "401", "403", "404", "405", "406", "409", "412", "413", "415", "422", "428", "429"]
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx"]
[[operations]]
include-path = "/v1/jobs/{job_id}/events"
checks.negative_data_rejection.expected-statuses = ["200", "4xx"]
"""
ENDLESS: dict[str, Any] = {"format": {"enum": ["json"]}, "wait": {"type": "number", "minimum": 0, "maximum": 0.1}}     # streams are for R7
ROW = {"x": [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.5, 0.0]], "y": [0, 1, 2, 0]}


@dataclass(frozen=True)
class Size:
    cases: int
    each: int           # of an operation in a round
    phases: str


def small(epochs: int = 2) -> dict[str, Any]:
    return {"model": {"kind": "chain", "layers": [{"kind": "dense", "units": 4}, {"kind": "dense", "units": "target"}]},
            "loss": "logit_cross_entropy", "optimiser": "adam", "epochs": epochs, "data": {"dataset": {"columns": ROW}, "target": "y"}}


def thinned(document: dict[str, Any], chance: random.Random, known: dict[str, list[str]]) -> dict[str, Any]:
    """The document with a few alternatives of each place, other ones each time, and with things that exist among what it asks for."""
    made = json.loads(json.dumps(document))

    def thin(part: Any) -> None:
        if isinstance(part, dict):
            for word in ("oneOf", "anyOf"):
                if len(part.get(word, ())) > MOST:
                    part[word] = chance.sample(part[word], MOST)
            part.pop("discriminator", None)
        for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            thin(inner)

    thin(made["components"]["schemas"])
    for path, item in made["paths"].items():
        for call in item.values():
            for parameter in call.get("parameters", ()):
                if parameter["name"] == "metadata":         # in a query everything is text, also `null`
                    parameter["schema"] = {"type": "object"}
                if path.endswith("/events") and parameter["name"] in ENDLESS:
                    parameter["schema"] = ENDLESS[parameter["name"]]
                if parameter["in"] == "path" and parameter["name"] in known:
                    parameter["schema"] = {"anyOf": [{"enum": known[parameter["name"]]}, {"type": "string", "minLength": 1}]}
    body = made["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]
    body["schema"] = {"anyOf": [body["schema"], {"enum": [small(), small(1000)]}]}
    return made


def things(user: User) -> dict[str, list[str]]:
    """Some of everything that a path names. Jobs of the round before are cancelled: one forked to millions of epochs would keep the one worker."""
    while left := user.get("/v1/jobs", status="queued,running,pausing,paused", limit=100)["data"]:
        for one in left:
            user.http.post(f"/v1/jobs/{one['id']}/cancel")
    done, _ = user.train(small())
    jobs = [done, user.submit(small(20_000)), *(user.submit(small(3)) for _ in range(3))]
    datasets = [user.post("/v1/datasets", {"name": name, "columns": {**ROW, "z": [place] * 4}})["id"] for place, name in enumerate("abc")]
    user.http.put("/v1/models/m", json={"job": done})
    return {"job_id": jobs, "dataset_id": datasets, "name": ["m", done], "model": ["m", done], "group": ["layers", "losses"]}


def fuzzed(folder: Path, url: str, document: dict[str, Any], size: Size, seed: int) -> tuple[int, list[str]]:
    """One round; how many cases, and what was found."""
    (folder / "config.toml").write_text(CONFIG)
    (folder / "openapi.json").write_text(json.dumps(document))
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", "config.toml", "run", "openapi.json", "--url", url, "--checks", "all",
               "--header", f"Authorization: Bearer {TOKEN}",
               "--phases", size.phases, "--max-examples", str(size.each), "--seed", str(seed), "--request-timeout", "60", "--continue-on-failure",
               "--suppress-health-check", "all", "--no-shrink", "--report", "json", "--report-json-path", str(report)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=3600)
    assert report.exists(), done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads(report.read_text())
    bad = [f"{one['title']}: {', '.join(one['operations'])}" for one in found["failures"]] + [str(one) for one in found["errors"]]
    return found["test_cases"]["generated"], bad and [*bad, done.stdout.partition("= FAILURES =")[2][:20_000]]


@short_or_full("size", Size(50, 1, "fuzzing,stateful"), Size(50_000, 60, "coverage,fuzzing,stateful"))
def test_no_answer_is_a_fault_or_unknown_to_the_document(tmp_path: Path, size: Size, shown: Callable[[str], None]) -> None:
    began, cases, rounds = time.monotonic(), 0, 0
    with serving(fresh(tmp_path / "home"), workers=1, threads=1, max_upload_bytes=100_000, max_memory_bytes=100_000_000, token=TOKEN,
                 max_refusals_per_minute=10**9) as server:
        user = User(server.url)
        user.http.headers["authorization"] = f"Bearer {TOKEN}"
        document = user.get("/openapi.json")
        while cases < size.cases:
            rounds += 1
            more, bad = fuzzed(tmp_path, server.url, thinned(document, random.Random(rounds), things(user)), size, rounds)
            assert not bad, "\n".join(bad)
            cases += more
        lines = user.http.get("/metrics").text.splitlines()
        assert not [line for line in lines if line.startswith("trainyard_http_requests_total") and 'status="5' in line]
    shown(f"{cases:,} cases of {sum(map(len, document['paths'].values()))} calls in {rounds} rounds, all checks of schemathesis, "
          f"{time.monotonic() - began:.0f} s: no 5xx, no answer that the document does not know")
