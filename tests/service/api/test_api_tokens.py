"""Tokens: what each may do, whose things it sees, what share of the service it has, and what the audit tells."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import pytest
from running import JOB, Running, pointers, problem
from tenants import LIMITS, ROOT, Person, person, root
from typer.testing import CliRunner

from service.cli import app
from service.cli.text import columns
from service.routes.scopes import scope_of
from service.store.asking import Asker
from service.store.tokens import hash_of

MARK = "zwetschge"
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def shared(start_server: Callable[..., Running]) -> Running:
    """A service for several people, with small shares."""
    return start_server(**LIMITS)


@pytest.fixture(scope="module")
def calls(shared: Running) -> dict[tuple[str, str], dict[str, Any]]:
    """Every call of the OpenAPI document that is built."""
    document = shared.http.get("/openapi.json").json()
    return {(method.upper(), path): call for path, item in document["paths"].items() for method, call in item.items()}


class TestTokens:
    def test_a_token_is_shown_once_and_kept_hashed(self, shared: Running) -> None:
        answer = root(shared).post("/v1/tokens", {"name": "ci", "scopes": "read"}, headers={"idempotency-key": "a token"})
        made = answer.json()
        assert made["token"].startswith(made["prefix"]) and len(made["prefix"]) == 8 and made["scopes"] == ["read"] and made["owner"] == made["id"]
        assert answer.headers["location"] == f"/v1/tokens/{made['id']}"
        again = root(shared).post("/v1/tokens", {"name": "ci", "scopes": "read"}, headers={"idempotency-key": "a token"})
        assert again.headers["idempotency-replayed"] == "true" and again.json() == {key: made[key] for key in made if key != "token"}
        listed = root(shared).get("/v1/tokens").text
        assert made["prefix"] in listed and made["token"] not in listed and hash_of(made["token"]) not in listed
        files = b"".join(path.read_bytes() for path in shared.home.glob("trainyard.db*"))
        assert made["token"].encode() not in files and hash_of(made["token"]).encode() in files

    def test_what_a_token_is_not_is_told_at_once(self, shared: Running) -> None:
        body = problem(root(shared).post("/v1/tokens", {"scopes": ["submit", "admn"], "expires_in_seconds": 0, "name": "a\nb", "owner": 5}), 422,
                       "invalid_request")
        assert pointers(body) == {"/scopes/1": "unknown_name", "/expires_in_seconds": "out_of_range", "/name": "invalid_value",
                                  "/owner": "invalid_value"}
        assert body["errors"][-2]["suggestion"] == "admin"
        assert problem(root(shared).post("/v1/tokens", {"scope": "read"}), 422, "invalid_request")["errors"][0]["suggestion"] == "scopes"
        problem(root(shared).ask("DELETE", "/v1/tokens/token_x"), 404, "not_found")

    def test_a_revoked_or_expired_token_is_refused(self, shared: Running) -> None:
        gone, short = person(shared), person(shared, expires_in_seconds=0.5)
        assert short.get("/v1/jobs").status_code == gone.get("/v1/jobs").status_code == 200
        assert root(shared).ask("DELETE", f"/v1/tokens/{gone.id}").status_code == 204
        problem(gone.get("/v1/jobs"), 401, "unauthorised")
        problem(root(shared).ask("DELETE", f"/v1/tokens/{gone.id}"), 404, "not_found")
        time.sleep(0.6)
        problem(short.get("/v1/jobs"), 401, "unauthorised")

    def test_a_revoked_token_ends_its_streams(self, shared: Running) -> None:
        leaving = person(shared)
        path = f"/v1/jobs/{leaving.job()}/events?format=ndjson"
        with shared.http.stream("GET", path, headers={"authorization": f"Bearer {leaving.token}"}) as stream:
            lines = stream.iter_lines()
            assert "job.queued" in next(lines)
            root(shared).ask("DELETE", f"/v1/tokens/{leaving.id}")
            assert list(lines) == []

    def test_the_last_use_is_noted(self, shared: Running) -> None:
        used = person(shared)
        used.get("/v1/jobs")
        end = time.monotonic() + 20
        while "last_used_at" not in next(row for row in root(shared).get("/v1/tokens").json()["data"] if row["id"] == used.id):
            assert time.monotonic() < end
            time.sleep(0.05)

    def test_on_loopback_tokens_are_needed_from_the_first_on(self, start_server: Callable[..., Running]) -> None:
        server = start_server()
        anybody = Person(server, "")
        assert anybody.get("/v1/jobs").status_code == 200 and "ratelimit" not in anybody.get("/v1/jobs").headers
        before = anybody.job()
        problem(anybody.post("/v1/tokens", {"scopes": ["submit"]}), 409, "last_admin")
        made = anybody.post("/v1/tokens", {"scopes": ["admin"]}).json()
        problem(anybody.get("/v1/jobs"), 401, "unauthorised")
        admin = Person(server, made["token"], made["id"])
        other = person_of(admin)
        assert admin.get(f"/v1/jobs/{before}").status_code == 200
        problem(other.get(f"/v1/jobs/{before}"), 404, "not_found")
        problem(admin.ask("DELETE", f"/v1/tokens/{admin.id}"), 409, "last_admin")
        store = server.store()          # the command line on the home folder
        store.revoke_token(other.id)
        _, third = store.add_token("third", "admin")
        store.close()
        end = time.monotonic() + 20
        while other.get("/v1/jobs").status_code != 401 or Person(server, third).get("/v1/tokens").status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.1)


def person_of(admin: Person) -> Person:
    made = admin.post("/v1/tokens", {}).json()
    return Person(admin.server, made["token"], made["id"], made["owner"])


@pytest.fixture(scope="module")
def hers(shared: Running) -> dict[str, str]:
    """What somebody has, by the names of path parameters."""
    ada = person(shared)
    finished = ada.finished(name=MARK)
    ada.publish(f"{MARK}-model", finished)
    upload = ada.post("/v1/uploads", {"name": MARK})
    return {"token": ada.token, "owner": ada.owner, "token_id": ada.id, "dataset_id": ada.dataset(MARK), "job_id": finished,
            "name": f"{MARK}-model", "model": f"{MARK}-model", "upload_id": upload.json()["id"], **TestIsolation.NUMBERS}


class TestScopes:
    def test_every_call_says_what_it_needs_and_a_lesser_token_is_refused(self, shared: Running, calls: dict[tuple[str, str], Any]) -> None:
        people = {"read": person(shared, "read"), "submit": person(shared, "submit")}
        for (method, path), call in calls.items():
            needed = call["x-scope"]
            assert needed == ("none" if call.get("security") == [] else scope_of(method, path))
            for scope in {"none": (), "read": (), "submit": ("read",), "admin": ("read", "submit")}[needed]:
                answer = people[scope].ask(method, re.sub(r"\{\w+\}", "x", path))
                problem(answer, 403, "insufficient_scope")
                assert f'scope="{needed}"' in answer.headers["www-authenticate"]
            if needed != "none":
                assert shared.http.request(method, re.sub(r"\{\w+\}", "x", path)).status_code == 401

    def test_a_reader_of_the_same_owner_sees_and_changes_nothing(self, shared: Running) -> None:
        one = person(shared)
        reader = person(shared, "read", owner=one.owner)
        job_id = one.job()
        assert reader.get(f"/v1/jobs/{job_id}").json()["id"] == job_id
        problem(reader.post("/v1/jobs", JOB), 403, "insufficient_scope")
        problem(reader.ask("DELETE", f"/v1/jobs/{job_id}"), 403, "insufficient_scope")
        problem(reader.post(f"/v1/jobs/{job_id}/predict", {"rows": []}), 409, "no_checkpoint")

    def test_what_is_open_tells_nothing(self, shared: Running) -> None:
        for path in ("/", "/healthz", "/docs", "/docs/errors", "/openapi.json", "/v2/health/live"):
            assert shared.http.get(path).status_code < 400, path
        for path in ("/metrics", "/v1/limits", "/v1/catalogue", "/version", "/nowhere", "//v1/jobs", "/docs/../v1/jobs", "/docsx", "/V1/JOBS"):
            problem(shared.http.get(path), 401, "unauthorised")


def plain(answer: httpx.Response, there: Mapping[str, str] = {}, nowhere: Mapping[str, str] = {}) -> str:
    """What an answer says, with other ids in place of those that were asked for."""
    text = re.sub(r'"(request_id|seconds|created_at)":("[^"]*"|[0-9.]+)', "", answer.text)
    for name in nowhere.keys() & there.keys():
        text = text.replace(there[name], nowhere[name])
    return text.replace(MARK, "nothing")


class TestIsolation:
    """Each call of the document, with the ids of somebody else: it answers as if they were not there."""

    UNOWNED = ("group",)        # parameters that name nothing of anybody
    NUMBERS = {"number": "1", "version": "1"}
    BODIES = {"/predict": {"rows": [{"x": 1}]}, "/infer": {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]},
              "/evaluate": {"split": "train"}, "/fork": {"more_epochs": 1}, "PATCH": {"name": "mine"}}

    def test_each_call_with_a_foreign_id_finds_nothing(self, shared: Running, calls: dict[tuple[str, str], Any], hers: dict[str, str]) -> None:
        ada, ben, asked = Person(shared, hers["token"]), person(shared), 0
        for (method, path), call in calls.items():
            names = [name for name in re.findall(r"\{(\w+)\}", path) if name not in self.UNOWNED]
            if not names or call["x-scope"] == "admin" or (method, path) == ("PUT", "/v1/models/{name}"):      # Ben may give the same name
                continue
            assert set(names) <= set(hers), f"{method} {path}: say here what {names} are, so that this test has somebody else's"
            body = next((body for end, body in self.BODIES.items() if path.endswith(end) or method == end), {})
            request: dict[str, Any] = {} if method in ("GET", "DELETE") else {"json": body}
            there = {name: hers[name] for name in names}
            nowhere = {name: re.sub("[0-9A-Z]{26}", "0" * 26, hers[name]).replace(MARK, "nothing") for name in names}
            theirs = ben.ask(method, path.format(**there), **request)
            none = ben.ask(method, path.format(**nowhere), **request)
            found = problem(theirs, 404, "not_found")
            assert none.status_code == 404 and plain(theirs, there, nowhere) == plain(none), (method, path, found)
            if method == "GET" and path.startswith("/v1/"):     # those of /v2 ask the predictor, which does not run here
                assert ada.ask(method, path.format(**there), timeout=20, params={"wait": 0} if path.endswith("/events") else None).status_code != 404
            asked += 1
        assert asked >= 20
        assert ada.get(f"/v1/jobs/{hers['job_id']}").json()["name"] == MARK and ada.get(f"/v1/datasets/{hers['dataset_id']}").status_code == 200

    def test_no_list_shows_what_is_somebody_elses(self, shared: Running, calls: dict[tuple[str, str], Any], hers: dict[str, str]) -> None:
        ben, everything = person(shared), root(shared)
        secret = (MARK, hers["job_id"], hers["dataset_id"], hers["owner"])
        for (method, path), call in calls.items():
            if method == "GET" and "{" not in path and call["x-scope"] == "read":
                text = ben.get(path).text
                assert not [word for word in secret if word in text], path
        for path in ("/v1/jobs", "/v1/datasets", "/v1/models"):
            assert MARK in everything.get(path).text and MARK in Person(shared, hers["token"]).get(path).text, path

    def test_what_a_body_or_a_query_names_is_not_there_either(self, shared: Running, hers: dict[str, str]) -> None:
        ben = person(shared)
        mine = ben.finished()
        nowhere = {name: re.sub("[0-9A-Z]{26}", "0" * 26, value) for name, value in hers.items()}
        for make in (lambda ids: ben.post("/v1/jobs?validate_only=true", {**JOB, "data": {"dataset": ids["dataset_id"], "target": "y"}}),
                     lambda ids: ben.post("/v1/jobs", {**JOB, "data": {**JOB["data"], "validation": {"dataset": ids["dataset_id"]}}}),
                     lambda ids: ben.post("/v1/jobs", {**JOB, "initial": {"job": ids["job_id"]}}),
                     lambda ids: ben.post(f"/v1/jobs/{mine}/predict", {"dataset": ids["dataset_id"]}),
                     lambda ids: ben.post(f"/v1/jobs/{mine}/evaluate", {"dataset": ids["dataset_id"]}),
                     lambda ids: ben.ask("PUT", "/v1/models/bens", json={"job": ids["job_id"]}),
                     lambda ids: ben.get("/v1/jobs", params={"after": ids["job_id"], "limit": 1})):
            theirs, none = make(hers), make(nowhere)
            assert plain(theirs, hers, nowhere) == plain(none)
            assert theirs.status_code == none.status_code and theirs.status_code != 202

    def test_equal_content_is_shared_and_nobody_learns_of_it(self, shared: Running) -> None:
        ada, ben = person(shared), person(shared)
        first, second = ada.dataset("same"), ben.dataset("same")
        assert first != second
        assert ada.ask("DELETE", f"/v1/datasets/{first}").status_code == 204
        assert ben.get(f"/v1/datasets/{second}/content").status_code == 200 and ben.get(f"/v1/datasets/{second}/rows").json()["rows"] == 3
        problem(ben.get(f"/v1/datasets/{first}/rows"), 404, "not_found")

    def test_names_of_models_belong_to_their_owners(self, shared: Running) -> None:
        ada, ben = person(shared), person(shared)
        ids = {one.owner: one.finished() for one in (ada, ben)}
        for one in (ada, ben):
            answer = one.ask("PUT", "/v1/models/churn", json={"job": ids[one.owner]})
            assert answer.status_code == 200, answer.text
        for one in (ada, ben):
            found = one.get("/v1/models/churn").json()
            assert ids[one.owner] in str(found) and len(found["history"]) == 1
        assert ben.ask("DELETE", "/v1/models/churn").status_code == 204
        assert ada.get("/v1/models/churn").status_code == 200

    def test_keys_of_one_token_are_not_those_of_another(self, shared: Running) -> None:
        ada, ben, headers = person(shared), person(shared), {"idempotency-key": "the same"}
        first, second = ada.post("/v1/jobs", JOB, headers=headers), ben.post("/v1/jobs", {**JOB, "epochs": 3}, headers=headers)
        assert first.status_code == second.status_code == 202 and first.json()["id"] != second.json()["id"]
        assert ada.post("/v1/jobs", JOB, headers=headers).headers["idempotency-replayed"] == "true"


class TestShares:
    def test_queued_jobs(self, shared: Running) -> None:
        ada, ben = person(shared), person(shared)
        for _ in range(5):
            ada.job()
        answer = ada.post("/v1/jobs", JOB)
        assert problem(answer, 429, "quota_exceeded")["violated-policies"] == ["queued"] and int(answer.headers["retry-after"]) > 0
        assert len(ada.get("/v1/jobs").json()["data"]) == 5 and ben.job()
        assert ben.get("/v1/jobs").json()["data"][0]["queue_position"] == 1        # the place among one's own

    def test_stored_bytes(self, shared: Running) -> None:
        ada, data = person(shared), {"columns": {"x": [0.5 + n for n in range(2000)]}}
        answer = ada.post("/v1/datasets", data)
        assert problem(answer, 413, "quota_exceeded")["violated-policies"] == ["storage"] and answer.headers["x-should-retry"] == "false"
        assert ada.get("/v1/datasets").json()["data"] == [] and root(shared).post("/v1/datasets", data).status_code == 201

    def test_uploads_in_parts(self, shared: Running) -> None:
        ada = person(shared)
        ids = [ada.post("/v1/uploads", {}).json()["id"] for _ in range(2)]
        assert problem(ada.post("/v1/uploads", {}), 429, "quota_exceeded")["violated-policies"] == ["uploads"]
        assert ada.ask("PUT", f"/v1/uploads/{ids[0]}/parts/1", content=b"x" * 3000).status_code == 200
        problem(ada.ask("PUT", f"/v1/uploads/{ids[1]}/parts/1", content=b"x" * 3000), 413, "quota_exceeded")
        assert ada.ask("DELETE", f"/v1/uploads/{ids[0]}").status_code == 204 and ada.post("/v1/uploads", {}).status_code == 201

    def test_open_streams(self, shared: Running) -> None:
        ada = person(shared)
        path = f"/v1/jobs/{ada.job()}/events?format=sse"
        with shared.http.stream("GET", path, headers={"authorization": f"Bearer {ada.token}"}) as stream:
            lines = stream.iter_lines()
            assert "retry" in next(lines)
            answer = ada.get(path)
            assert problem(answer, 429, "quota_exceeded")["violated-policies"] == ["streams"] and int(answer.headers["retry-after"]) > 0
        end = time.monotonic() + 20
        while True:
            with shared.http.stream("GET", path, headers={"authorization": f"Bearer {ada.token}"}) as stream:
                if stream.status_code == 200:
                    break
            assert time.monotonic() < end

    def test_requests_in_a_minute(self, shared: Running) -> None:
        ada, left = person(shared), []
        for _ in range(150):
            answer = ada.get("/v1/limits")
            left.append(int(re.fullmatch(r'"requests";r=(\d+);t=(\d+)', answer.headers["ratelimit"])[1]))      # type: ignore[index]
            assert answer.status_code == 200 and answer.headers["ratelimit-policy"] == '"requests";q=150;w=60'
        assert left == list(range(149, -1, -1)) and answer.json()["requests_per_minute"] == 150
        answer = ada.get("/v1/limits")
        assert problem(answer, 429, "quota_exceeded")["violated-policies"] == ["requests"] and 0 < int(answer.headers["retry-after"]) <= 60
        assert person(shared).get("/v1/limits").status_code == 200

    def test_the_services_own_token_has_the_whole(self, shared: Running) -> None:
        for _ in range(200):
            assert root(shared).get("/v1/limits").status_code == 200


class TestOnce:
    """POSTs that create or change, all of the document, may be sent twice."""

    def test_each_takes_an_idempotency_key(self, calls: dict[tuple[str, str], Any]) -> None:
        posts = {path: call for (method, path), call in calls.items() if method == "POST" and call["x-scope"] != "read"}
        lacking = [path for path, call in posts.items() if "Idempotency-Key" not in [found["name"] for found in call.get("parameters", ())]]
        assert posts and lacking == []

    def test_each_does_it_once(self, shared: Running, calls: dict[tuple[str, str], Any]) -> None:
        boss = person(shared, "admin")
        bodies: dict[str, Any] = {"/v1/jobs": JOB, "/v1/tokens": {"name": "once"}, "/v1/datasets": {"columns": {"x": [1, 2]}},
                                  "/v1/webhooks/secret": {}, "/v1/jobs/{job_id}/fork": {"more_epochs": 1}}
        tried = []
        for (method, path), call in calls.items():
            if method != "POST" or call["x-scope"] == "read" or (path not in bodies and not path.endswith(("/cancel", "/pause", "/resume"))):
                continue
            filled = path.replace("{job_id}", boss.job()) if "{job_id}" in path else path
            headers, content = {"idempotency-key": f"of {path}", "content-type": "application/json"}, json.dumps(bodies.get(path, {})).encode()
            first, second = (boss.ask("POST", filled, headers, content=content) for _ in range(2))
            if first.status_code < 300:
                tried.append(path)
                body = {key: value for key, value in first.json().items() if not (path == "/v1/tokens" and key == "token")}
                assert second.status_code == first.status_code and second.json() == body and second.headers["idempotency-replayed"] == "true", path
                problem(boss.ask("POST", filled, headers, content=content + b" "), 422, "idempotency_mismatch")
            else:       # what was refused is tried again
                assert second.status_code == first.status_code and "idempotency-replayed" not in second.headers, path
            if "{job_id}" in path:
                boss.post(filled.rpartition("/")[0] + "/cancel")
        assert {"/v1/jobs", "/v1/tokens", "/v1/datasets", "/v1/jobs/{job_id}/cancel"} <= set(tried)


class TestAudit:
    def test_every_change_is_told_with_who_and_from_where(self, shared: Running) -> None:
        ada = person(shared)
        job_id, dataset = ada.job(metadata={"password": "hunter2"}), ada.dataset()
        ada.post(f"/v1/jobs/{job_id}/cancel")
        ada.ask("DELETE", f"/v1/jobs/{job_id}")
        ada.ask("DELETE", f"/v1/datasets/{dataset}")
        page = root(shared).get("/v1/audit", params={"token": ada.id})
        rows = page.json()["data"]
        assert [(row["action"], row["object_id"], row["outcome"]) for row in reversed(rows)] == [
            ("create_job", job_id, "done"), ("create_dataset", dataset, "done"), ("cancel_job", job_id, "done"), ("delete_job", job_id, "done"),
            ("delete_dataset", dataset, "done")]
        assert all(row["address"] == "127.0.0.1" and row["prefix"] == ada.token[:8] and row["created_at"] for row in rows)
        assert "hunter2" not in page.text and ada.token not in page.text
        assert [row["action"] for row in root(shared).get("/v1/audit", params={"object_id": ada.id}).json()["data"]] == ["create_token"]

    def test_what_was_refused_is_told_too_and_what_changed_nothing_is_not(self, shared: Running) -> None:
        ada, ben = person(shared), person(shared, "read")
        job_id = ada.job()
        ben.get(f"/v1/jobs/{job_id}")
        ben.ask("DELETE", f"/v1/jobs/{job_id}")
        ben.get("/v1/jobs")
        ada.post("/v1/jobs", {"model": 1})
        ada.ask("DELETE", f"/v1/jobs/{job_id}")         # it is queued: 409
        end = time.monotonic() + 20
        while len(rows := root(shared).get("/v1/audit", params={"token": ben.id}).json()["data"]) < 2:
            assert time.monotonic() < end
        assert {(row["action"], row["outcome"]) for row in rows} == {("get_job", "not_found"), ("delete_job", "insufficient_scope")}
        assert [row["action"] for row in root(shared).get("/v1/audit", params={"token": ada.id}).json()["data"]] == ["create_job"]

    def test_a_name_that_a_job_gives_its_model_is_told_too(self, shared: Running) -> None:
        ada, store = person(shared), shared.store()
        job_id = ada.finished()
        store.publish("by-a-worker", job_id)
        store.close()
        row, = root(shared).get("/v1/audit", params={"object_id": "by-a-worker"}).json()["data"]
        assert (row["token"], row["action"], row["address"]) == (ada.id, "publish", "worker")

    def test_the_oldest_go(self, store: Any) -> None:
        for _ in range(5):
            store.refused(Asker(token="t"), "unauthorised")
        kept = store.list_audit()[0][:3]
        assert store.expire_audit(3600, 3) == 2 and store.list_audit()[0] == kept
        time.sleep(0.01)
        assert store.expire_audit(0.001, 3) == 3


class TestCommandLine:
    def run(self, *arguments: str) -> str:
        found = CliRunner().invoke(app, arguments)
        assert found.exit_code == 0, found.output
        return found.stdout

    def test_tokens_and_the_audit_over_http(self, shared: Running) -> None:
        there = ("--url", shared.url, "--token", ROOT)
        made = self.run("token", "create", "from a shell", "--scope", "read", "--days", "1", *there).split()[-1]
        assert Person(shared, made).get("/v1/jobs").status_code == 200
        row = next(line for line in self.run("token", "list", *there).splitlines() if made[:8] in line)
        assert "read" in row and "from a shell" in row and made not in row
        self.run("token", "revoke", row.split()[0], *there)
        problem(Person(shared, made).get("/v1/jobs"), 401, "unauthorised")
        assert re.search(rf"127\.0\.0\.1 +revoke_token +{row.split()[0]} +done", self.run("audit", *there))
        assert json.loads(self.run("audit", "--json", "--limit", "1", *there))[0]["outcome"]

    def test_tokens_of_a_home_folder(self, shared: Running) -> None:
        there = ("--home", str(shared.home))
        made = self.run("token", "create", "offline", "--owner", "team", *there).split()[-1]
        row = next(line for line in self.run("token", "list", *there).splitlines() if made[:8] in line)
        assert "team" in row
        end = time.monotonic() + 20
        while Person(shared, made).get("/v1/jobs").status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.1)
        self.run("token", "revoke", row.split()[0], *there)
        assert "command line" in root(shared).get("/v1/audit", params={"object_id": row.split()[0]}).text
        assert CliRunner().invoke(app, ["token", "revoke", "token_x", *there]).exit_code == 2
        assert CliRunner().invoke(app, ["token", "lend"]).exit_code == 2

    def test_names_of_others_are_no_commands_to_a_terminal(self) -> None:
        assert columns([("a\x1b[31m\u202e", "b")]) == "a\ufffd[31m\ufffd  b"


def test_wrong_tokens_are_tried_slowly(start_server: Callable[..., Running]) -> None:
    server = start_server(TRAINYARD_TOKEN=ROOT, TRAINYARD_MAX_REFUSALS_PER_MINUTE="10")
    right, guess = Person(server, ROOT), Person(server, "guess")
    assert right.get("/v1/jobs").status_code == 200
    assert [guess.get("/v1/jobs").status_code for _ in range(10)] == [401] * 10
    answer = guess.get("/v1/jobs")
    problem(answer, 429, "quota_exceeded")
    assert 0 < int(answer.headers["retry-after"]) <= 60
    assert right.get("/v1/jobs").status_code == 200         # it came from here before
