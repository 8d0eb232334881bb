"""The threats of ../shared/reference/service-anchors.md, section 5, a class for each row, as attacks on a real server. Where an attack is tried in
another file, that file is named; where there is nothing to attack, it is said why."""

from __future__ import annotations

import ast
import gzip
import io
import json
import pickle
import re
import socket
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from running import JOB, ROOT, Running, pointers, problem
from tenants import Person

from service.routes.keys import Keys
from service.routes.results import as_csv
from service.settings import Settings
from service.store import Store

pytestmark = pytest.mark.timeout(180)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
OCTETS = {"content-type": "application/octet-stream"}


@cache
def sources() -> dict[Path, list[ast.AST]]:
    """The nodes of every source file."""
    return {path: list(ast.walk(ast.parse(path.read_text()))) for folder in ("engine", "service") for path in (ROOT / folder).rglob("*.py")}


@pytest.fixture(scope="module")
def target(start_server: Callable[..., Running]) -> Running:
    """A server with short patience and small limits."""
    return start_server(TRAINYARD_HEAD_SECONDS="1", TRAINYARD_BODY_SECONDS="1", TRAINYARD_MAX_UPLOAD_BYTES="2000000",
                        TRAINYARD_MAX_PARAMETERS="1000000", TRAINYARD_MAX_MEMORY_BYTES="100000000")


@pytest.fixture
def http(target: Running) -> Iterator[httpx.Client]:
    """Whatever was done, the server lives and answers."""
    yield target.http
    assert target.process.poll() is None and target.http.get("/healthz").status_code == 200


def post(http: httpx.Client, body: bytes | Any, path: str = "/v1/jobs", **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return http.post(path, content=content, headers={"content-type": "application/json", **headers})


def refused(answer: httpx.Response, *statuses: int) -> dict[str, Any]:
    """The problem of an answer that is a 4xx, one of these."""
    assert answer.status_code in (statuses or range(400, 500)), (answer.status_code, answer.text[:300])
    return problem(answer, answer.status_code, answer.json()["code"])


def told(target: Running, request: bytes, seconds: float = 20) -> bytes:
    """What comes back for bytes sent as they are, until the server ends the connection or nothing comes."""
    with dialled(target) as line:
        line.sendall(request)
        line.settimeout(seconds)
        return heard(line)


@contextmanager
def dialled(target: Running) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", int(target.url.rpartition(":")[2]))) as line:
        yield line


def head(call: str, *headers: bytes) -> bytes:
    """The head of a request, as it goes over the wire."""
    return b"\r\n".join((f"{call} HTTP/1.1".encode(), b"Host: localhost", b"Connection: close", *headers, b"", b""))


def heard(line: socket.socket) -> bytes:
    found = b""
    try:
        while piece := line.recv(65536):
            found += piece
            if b"}\n" in found:
                break
    except (TimeoutError, ConnectionError):
        pass
    return found


def npy(header: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


class Test01Unauthenticated:
    def test_beyond_loopback_nobody_is_answered_without_a_token(self, store: Store) -> None:
        for host in ("0.0.0.0", "::", "192.168.1.7", "trainyard.example"):
            assert Keys(Settings(host=host), store, "0" * 64).needed, host        # made and printed: test_api_service

    def test_no_call_is_open_but_those_that_tell_nothing(self, start_server: Callable[..., Running]) -> None:
        server = start_server(TRAINYARD_TOKEN="t", TRAINYARD_MAX_REFUSALS_PER_MINUTE="10000")
        document = server.http.get("/openapi.json").json()
        for path, item in document["paths"].items():
            for method, call in item.items():
                if call.get("security") != []:
                    refused(server.http.request(method, re.sub(r"\{\w+\}", "x", path)), 401)
        for wrong in ("Bearer T", "Bearer tt", "Basic dDp0", "Bearer", "t", "Bearer t t", "bearer\tt"):
            refused(server.http.get("/v1/jobs", headers={"authorization": wrong}), 401)
        assert {path for path, item in document["paths"].items() for call in item.values() if call.get("security") == []} <= {
            "/", "/healthz", "/readyz", "/docs", "/docs/errors", "/openapi.json", "/v2/health/live", "/v2/health/ready", "/favicon.ico"}


class Test02Browsers:
    @pytest.mark.parametrize("method", METHODS)
    def test_a_rebound_name_or_a_page_of_others_is_refused(self, http: httpx.Client, target: Running, method: str) -> None:
        port = target.url.rpartition(":")[2]
        for host in ("evil.example", f"evil.example:{port}", "localhost.evil.example", "127.0.0.1.nip.io", "0.0.0.0", "[::2]", "[::ffff:10.0.0.1]",
                     "127.1", "2130706433", "localhost:x", "a@localhost", "localhost\\.evil.example", "[::1", ""):
            assert http.request(method, "/v1/jobs/x", headers={"host": host}).status_code == 403, host
        for origin in ("http://evil.example", "null", f"http://localhost:{int(port) + 1}", f"https://localhost.evil.example:{port}", "file://", ""):
            assert http.request(method, "/v1/jobs/x", headers={"origin": origin}).status_code == 403, origin
        for site in ("cross-site", "same-site"):
            assert http.request(method, "/v1/jobs/x", headers={"sec-fetch-site": site, "sec-fetch-mode": "no-cors"}).status_code == 403

    def test_this_machine_is_known_by_all_its_names(self, http: httpx.Client, target: Running) -> None:
        port = target.url.rpartition(":")[2]
        for host in ("localhost", "LOCALHOST", "localhost.", "LocalHost.:80", f"127.0.0.1:{port}", "127.0.0.53", "[::1]", f"[::1]:{port}",
                     "a.localhost"):
            for origin in (None, f"http://{host}"):
                headers = {"host": host, **({"origin": origin} if origin else {})}
                assert http.get("/v1/jobs", headers=headers).status_code == 200, headers

    def test_two_hosts_are_none(self, target: Running) -> None:
        answer = told(target, b"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        assert answer.startswith((b"HTTP/1.1 403", b"HTTP/1.1 400")) and b"application/problem+json" in answer
        answer = told(target, b"GET http://evil.example/v1/jobs HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        assert answer.startswith((b"HTTP/1.1 403", b"HTTP/1.1 400", b"HTTP/1.1 404"))

    def test_nothing_is_allowed_to_other_origins_and_no_cookie_is_set(self, http: httpx.Client, target: Running) -> None:
        for answer in (http.get("/v1/jobs"), http.options("/v1/jobs", headers={"access-control-request-method": "DELETE"}), http.get("/docs")):
            assert not [name for name in answer.headers if name.startswith("access-control") or name == "set-cookie"]
            assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["cross-origin-resource-policy"] == "same-origin"
            assert answer.headers["x-frame-options"] == "DENY" and "default-src 'none'" in answer.headers["content-security-policy"]


class Test03Pickle:
    def test_a_pickle_is_never_read(self, http: httpx.Client, tmp_path: Path) -> None:
        class Bomb:
            def __reduce__(self) -> Any:
                return open, (str(tmp_path / "owned"), "w")

        def zipped(data: bytes) -> bytes:
            with zipfile.ZipFile(found := io.BytesIO(), "w") as file:
                file.writestr("x.npy", data)
            return found.getvalue()

        arrays = io.BytesIO()
        np.save(arrays, np.array([Bomb()], object), allow_pickle=True)
        for body in (pickle.dumps(Bomb()), pickle.dumps(Bomb(), 0), arrays.getvalue(), zipped(arrays.getvalue()), zipped(pickle.dumps(Bomb()))):
            for kind in ("application/x-npy", "application/octet-stream", "text/csv"):
                answer = http.post("/v1/datasets", content=body, headers={"content-type": kind})
                assert answer.status_code in range(400, 500) or answer.json()["format"] in ("csv", "text"), answer.text
        assert not (tmp_path / "owned").exists()

    def test_no_source_can_unpickle_or_evaluate(self) -> None:
        for path, nodes in sources().items():
            if "kernels" in path.parts:     # where plain functions are compiled, from our own sources alone
                continue
            for node in nodes:
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names = {alias.name.split(".")[0] for alias in node.names} | {(getattr(node, "module", "") or "").split(".")[0]}
                    assert not names & {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}, path
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    assert node.func.id not in ("eval", "__import__"), (path, node.lineno)
                if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                    assert isinstance(node.value, ast.Constant) and node.value.value is False, path


class Test04Bombs:
    """Bombs inside files: tests/service/test_datasets_lies.py, test_datasets_images.py, test_datasets_parquet.py."""

    def test_what_is_small_only_while_it_is_packed(self, http: httpx.Client) -> None:
        bomb = gzip.compress(b"a,b\n" + b"1,2\n" * 5_000_000)
        for headers in ({"content-type": "text/csv"}, OCTETS, {"content-type": "text/csv", "content-encoding": "gzip"}):
            refused(http.post("/v1/datasets", content=bomb, headers=headers), 413, 422)
        refused(http.post("/v1/datasets", files={"file": ("x.csv.gz", bomb, "text/csv")}), 413, 422)

    def test_packed_bodies_are_not_unpacked(self, http: httpx.Client) -> None:
        packed = gzip.compress(json.dumps(JOB).encode())
        for path in ("/v1/jobs", "/v1/jobs/x/predict", "/v1/jobs/x/cancel", "/v1/gradients", "/v1/tokens", "/v1/models/x"):
            for coding in ("gzip", "GZIP", "deflate", "br", "gzip, gzip"):
                for kind in ("application/json", "text/csv"):
                    method = "PUT" if path.endswith("models/x") else "POST"
                    answer = http.request(method, path, content=packed, headers={"content-type": kind, "content-encoding": coding})
                    assert refused(answer, 415)["code"] == "unsupported_media_type" and answer.headers["accept-encoding"] == "identity"


class Test05HugeShapes:
    @pytest.mark.parametrize("shape", ["(4611686018427387904,)", "(0, 9999999999999)", "(99999999999, 99999999999)", "(-1, 6)", "(1,) * 9",
                                       "(2147483648, 1)",
                                       "(" + "1," * 40 + ")", "(9" * 500 + ",)" * 500])
    def test_arrays_that_are_not_there(self, http: httpx.Client, shape: str) -> None:
        body = npy(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}"[:60000], bytes(48))
        refused(http.post("/v1/datasets", content=body, headers={"content-type": "application/x-npy"}), 413, 422)

    @pytest.mark.parametrize("layer", [
        {"kind": "dense", "units": 10**9}, {"kind": "dense", "units": 2**62}, {"kind": "dense", "units": 10**30},
        {"kind": "embedding", "vocabulary": 10**12, "units": 10**6}, {"kind": "reshape", "shape": [10**10, 10**10]},
        {"kind": "reshape", "shape": [1] * 100}, {"kind": "pad", "amount": 10**9}, {"kind": "upsample", "scale": 10**9},
        {"kind": "conv", "filters": 10**9, "kernel_size": 10**6}, {"kind": "maxout", "layers": [{"kind": "dense", "units": 10**6}] * 3},
        {"kind": "multi_head_attention", "heads": 10**9, "units": 10**9}, {"kind": "positional_encoding", "length": 10**12},
        {"kind": "lstm", "units": 10**8}, {"kind": "bilinear", "units": 10**8}], ids=lambda layer: f"{layer['kind']}")
    def test_models_that_fit_nowhere(self, http: httpx.Client, target: Running, layer: dict[str, Any]) -> None:
        began, memory = time.monotonic(), resident(target)
        refused(post(http, {**JOB, "model": {"kind": "chain", "layers": [layer, {"kind": "dense", "units": 3}]}}), 422)
        assert time.monotonic() - began < 30 and resident(target) - memory < 200_000_000

    @pytest.mark.parametrize(("place", "value"), [
        ("batch_size", 10**18), ("repeat", 10**18), ("steps_per_epoch", 10**18), ("windows", {"length": 10**15}),
        ("windows", {"length": 2, "stride": 10**18})])
    def test_data_that_is_not_there(self, http: httpx.Client, place: str, value: Any) -> None:
        answer = post(http, {**JOB, "data": {**JOB["data"], place: value}}, "/v1/jobs?validate_only=true")
        assert answer.status_code in (200, 422), answer.text

    def test_a_deep_model_and_a_wide_one(self, http: httpx.Client) -> None:
        deep: Any = {"kind": "dense", "units": 2}
        for _ in range(2000):
            deep = {"kind": "chain", "layers": [deep]}
        text = json.dumps({**JOB, "model": 0}).replace('"model": 0', '"model": ' + _flat(deep))
        refused(post(http, text.encode()), 422)
        refused(post(http, {**JOB, "model": {"kind": "chain", "layers": [{"kind": "dense", "units": 100}] * 3000}}), 422)


def _flat(deep: Any) -> str:
    """JSON of something deeper than Python's own writer goes."""
    depth = 0
    while "layers" in deep:
        deep, depth = deep["layers"][0], depth + 1
    return '{"kind": "chain", "layers": [' * depth + json.dumps(deep) + "]}" * depth


def resident(target: Running) -> int:
    text = Path(f"/proc/{target.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) * 1024     # type: ignore[index]


class Test06NonFinite:
    @pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", '"nan"', '"inf"', "1" + "0" * 400, "true", "null"])
    def test_no_number_of_a_spec_is_none(self, http: httpx.Client, number: str) -> None:
        text = json.dumps({**JOB, "optimiser": {"kind": "adam", "learning_rate": 0}}).replace('"learning_rate": 0', f'"learning_rate": {number}')
        refused(post(http, text.encode()), 400, 422)
        text = json.dumps({"columns": {"x": [0]}}).replace("[0]", f"[{number}, 1.5]")
        answer = post(http, text.encode(), "/v1/datasets")
        assert answer.status_code in range(400, 500) or "NaN" not in http.get(f"/v1/datasets/{answer.json()['id']}/rows").text


class Test07Json:
    def test_bombs(self, http: httpx.Client, target: Running) -> None:
        memory = resident(target)
        for body in (b"[" * 100_000, b'{"a":' * 100_000, b"[" * 400_000 + b"]" * 400_000, b'{"epochs": ' + b"9" * 5000 + b"}",
                     b'{"epochs": 1, "epochs": 2}',
                     b'{"model": {"kind": "dense", "kind": "conv"}}', b'"\\ud800"', b'{"\\ud800": 1}', b"\xff\xfe{}", b"{} {}", b"", b"nul",
                     b'{"name": "' + b"\\u0000" * 100_000 + b'"}', b"[" + b"1," * 400_000 + b"1]", b'{"a": 1e' + b"9" * 10_000 + b"}"):
            began = time.monotonic()
            for path in ("/v1/jobs", "/v1/datasets", "/v1/tokens", "/v1/jobs/x/cancel", "/v1/webhooks/enable"):
                if (path, body) != ("/v1/jobs/x/cancel", b""):
                    refused(post(http, body, path), 400, 404, 413, 422)
            assert time.monotonic() - began < 30
        assert resident(target) - memory < 300_000_000

    def test_bytes_are_counted_and_not_believed(self, http: httpx.Client, target: Running) -> None:
        def endless() -> Iterator[bytes]:
            for _ in range(2000):
                yield b" " * 65536

        for method, path in (("POST", "/v1/jobs"), ("POST", "/v1/datasets"), ("POST", "/v1/jobs/x/predict"), ("PATCH", "/v1/jobs/x"),
                             ("PUT", "/v1/models/x")):
            try:
                answer = http.request(method, path, content=endless(), headers={"content-type": "application/json"})
            except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):        # cut off while it sent
                continue
            refused(answer, 404, 409, 413)
        for length in (b"99999999999999999999999", b"-1", b"0x10", b"1, 2", b"+5"):
            answer = told(target, head("POST /v1/jobs", b"Content-Type: application/json", b"Content-Length: " + length) + b"{}", 5)
            assert answer == b"" or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413", b"HTTP/1.1 408")), answer
        both = head("POST /v1/jobs", b"Content-Length: 4", b"Transfer-Encoding: chunked") + b"0\r\n\r\nGET /v1/tokens HTTP/1.1\r\n\r\n"
        assert told(target, both).startswith(b"HTTP/1.1 400")

    def test_heads_have_an_end(self, target: Running) -> None:
        for head in (b"GET /" + b"a" * 200_000, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000,
                     b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 40_000):
            answer = told(target, head + b"\r\n\r\n")
            assert answer == b"" or answer.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400")), answer[:100]
        for junk in (b"\x16\x03\x01\x02\x00\x01\x00", b"\0" * 100, b"GET / HTTP/9.9\r\n\r\n", b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
                     b"\r\n" * 50):
            answer = told(target, junk + b"\r\n\r\n", 3)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer[:100]


class Test08Expressions:
    @pytest.mark.parametrize("formula", [
        "__import__('os').system('id')", "(1).__class__.__bases__[0].__subclasses__()", "y_hat.__class__", "y.price.__dict__",
        "mean(y_hat); import os",
        "[x for x in (1,)]", "(lambda: 1)()", "exec('1')", "open('/etc/passwd')", "f'{y_hat}'", "mean(*y_hat)", "mean(**y_hat)",
        "y_hat if y else y_hat",
        "y_hat := 1", "10**10**10**10", "mean(y_hat ** 99999999999999999999)", "mean(y_hat)" + " + 1" * 300, "(" * 300 + "y" + ")" * 300,
        "-" * 900 + "y",
        "mean(y_hat, axis=10**18)", "mean(y_hat, axis=[[1]])", "'a' * 10**9", "1 << 10**9", "y_hat[0]", "y_hat @ y", "print(1)", "globals()", "\0",
        "é", "",
        "mean" * 200, "yield", "await y", "mean(y_hat)\n\n", "mean(y_hat) # " + "x" * 2000, "sum_squares('" + "*" * 500 + "')"])
    def test_a_formula_is_no_program(self, http: httpx.Client, formula: str) -> None:
        began = time.monotonic()
        answer = post(http, {**JOB, "loss": {"kind": "expression", "formula": formula}}, "/v1/jobs?validate_only=true")
        assert answer.status_code == 422 or (answer.status_code == 200 and formula.strip().startswith(("mean(y_hat", "sum_squares"))), answer.text
        answer = post(http, {**JOB, "model": {"kind": "chain", "layers": [{"kind": "lambda", "formula": formula}, {"kind": "dense", "units": 3}]}},
                      "/v1/jobs?validate_only=true")
        assert answer.status_code in (200, 422) and time.monotonic() - began < 30, answer.text


class Test09Paths:
    NAMES = ("../../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "..%252f..%252fetc%252fpasswd", "/etc/passwd",
             "%2fetc%2fpasswd",
             "....//....//etc/passwd", "..\\..\\etc\\passwd", "file:///etc/passwd", "%00", "x%00.csv", "~root", "C:\\windows\\win.ini",
             "trainyard.db", ".", "..")

    def test_names_in_a_path_are_not_paths(self, http: httpx.Client, target: Running) -> None:
        for name in self.NAMES:
            for path in ("/v1/jobs/{}", "/v1/jobs/{}/model", "/v1/jobs/{}/checkpoints", "/v1/datasets/{}", "/v1/datasets/{}/content",
                         "/v1/datasets/{}/rows",
                         "/v1/models/{}", "/v1/uploads/{}", "/docs/{}", "/v1/catalogue/{}", "/{}"):
                answer = told(target, head(f"GET {path.format(name)}"))
                assert b"root:x:" not in answer and b"SQLite" not in answer and b"[fonts]" not in answer
                assert re.match(rb"HTTP/1.1 (4\d\d|200|307)", answer), (name, path, answer[:80])
        assert http.get("/v1/jobs/..%2f..%2fetc").status_code == 404

    def test_no_name_has_a_nul(self, http: httpx.Client) -> None:
        """No store is asked for one: PostgreSQL would refuse it."""
        for path in ("/v1/jobs/%00", "/v1/jobs/a%00b/model", "/v1/datasets/%00/rows", "/v2/models/%00", "/v1/jobs?after=%00", "/v1/audit?after=a%00"):
            refused(http.get(path), 400)
        refused(http.patch("/v1/jobs/x", json={"name": "a\0b"}), 422)
        refused(http.patch("/v1/jobs/x", json={"metadata": {"a\0b": "c"}}), 422)
        assert http.get("/v1/jobs?after=%2500").status_code != 400

    def test_names_in_a_body_or_a_query_are_not_paths(self, http: httpx.Client, target: Running) -> None:
        for name in self.NAMES:
            for data in (name, f"sample:{name}", f"sample:../{name}"):
                assert "root:x:" not in json.dumps(refused(post(http, {**JOB, "data": {"dataset": data, "target": "y"}}), 422))
            refused(post(http, {**JOB, "initial": {"job": name}}), 422)
            for field in ("checkpoint", "format"):
                refused(http.get("/v1/jobs/x/model", params={field: name}), 404, 422)
            kept = http.post("/v1/datasets", params={"name": name}, content=b"a,b\n1,2\n", headers={"content-type": "text/csv"})
            assert kept.status_code in (201, 422)
            if kept.status_code == 201:
                assert http.get(f"/v1/datasets/{kept.json()['id']}/content").headers["content-disposition"].endswith(f'"{kept.json()["id"]}"')
            files = {"file": (name, b"a,b\n1,2\n", "text/csv")}
            assert http.post("/v1/datasets", files=files).status_code in (201, 400, 422)
        outside = {path.name for path in target.home.parent.iterdir()}
        assert "passwd" not in str(outside) and {path.name for path in target.home.iterdir()} <= {
            "trainyard.db", "trainyard.db-wal", "trainyard.db-shm", "trainyard.db.lock", "datasets", "jobs", "run", "trash", "uploads", "logs",
            "backups"}


class Test10Formulas:
    def test_a_table_for_a_spreadsheet_has_no_formula(self) -> None:
        text = as_csv({"step": [1], "=HYPERLINK(1)": [-1.5], "+a": [1], "-b": [2], "@c": [3], "\td": [4], "train_loss": [0.5]})
        assert text == "step,'=HYPERLINK(1),'+a,'-b,'@c,'\td,train_loss\n1,-1.5,1,2,3,4,0.5\n"

    def test_names_of_series_cannot_begin_a_formula(self, http: httpx.Client) -> None:
        for name in ("=cmd|x", "+1", "@sum"):
            refused(post(http, {**JOB, "data": {**JOB["data"], "validation": {"fraction": 0.5, "also": {name: "sample:digits"}}}}), 422)


class Test11Csv:
    @pytest.mark.parametrize("text", [
        b"x" * 1_900_000, b",".join(b"c" * 3 for _ in range(200_000)), b'a,b\n1,"' + b"y\n" * 500_000, b'"' * 1_900_001, b"a,b\n" + b"1\n" * 500_000,
        b"a\n" + b"\0" * 1_000_000, b"\n" * 1_900_000, b"a;b,c\td|e\n" * 100_000 + b'"', b"\xff" * 100_000, b"a" + b",a" * 3000], ids=range(10))
    def test_tables_that_are_meant_to_hurt(self, http: httpx.Client, text: bytes) -> None:
        began = time.monotonic()
        refused(http.post("/v1/datasets?format=csv", content=text, headers={"content-type": "text/csv"}), 413, 422)
        assert time.monotonic() - began < 60


class Test12DatasetUrls:
    def test_there_is_no_way_in_for_a_url(self, http: httpx.Client) -> None:
        """No data is fetched from anywhere, so there is nothing to forge; webhooks are row 13."""
        for url in ("http://169.254.169.254/latest/meta-data/", "https://example.org/x.csv", "file:///etc/passwd", "s3://bucket/x"):
            refused(post(http, {**JOB, "data": {"dataset": url, "target": "y"}}), 422)
            refused(post(http, {**JOB, "data": {"dataset": {"url": url}, "target": "y"}}), 422)
            refused(post(http, {"url": url}, "/v1/datasets"), 422)

    def test_only_the_client_and_the_webhooks_speak_to_others(self) -> None:
        speaking = {"httpx", "requests", "urllib3", "aiohttp", "urllib.request", "http.client", "ftplib", "smtplib", "boto3", "fsspec"}
        for path, nodes in sources().items():
            imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
            allowed = {"client", "cli", "webhooks"} & set(path.relative_to(ROOT).parts) or path.stem == "supervisor"      # which asks its own child
            assert allowed or not imported & speaking, path


class Test13Webhooks:
    """The guard of connections itself: tests/service/test_webhooks.py."""

    @pytest.mark.parametrize("url", ["http://example.org/x", "https://127.0.0.1/x", "https://localhost/", "https://169.254.169.254/",
                                     "https://[::1]/", "ftp://a/",
                                     "https://0177.0.0.1/", "https://127.1/", "https://user:pass@example.org/", "https://[::ffff:10.0.0.1]/",
                                     "javascript:1"])
    def test_a_job_may_not_tell_whom_it_likes(self, http: httpx.Client, url: str) -> None:
        refused(post(http, {**JOB, "callbacks": [{"kind": "webhook", "url": url}]}), 422)


class Test14Exhaustion:
    """Shares of tokens: test_api_tokens.py; memory, time and stalls of running jobs: test_processes.py, test_recovery.py and tests/reliability."""

    def test_what_is_larger_than_allowed_is_refused_before_it_is_made(self, http: httpx.Client, target: Running) -> None:
        memory = resident(target)
        wide = {**JOB, "model": {"kind": "chain", "layers": [{"kind": "dense", "units": 5000}, {"kind": "dense", "units": 5000},
                                                             {"kind": "dense", "units": 3}]}}
        assert "model_too_large" in pointers(refused(post(http, wide), 422)).values()
        assert resident(target) - memory < 100_000_000
        refused(post(http, {**JOB, "metadata": {str(n): "x" for n in range(17)}}), 413)
        refused(post(http, {**JOB, "metadata": {"x": "y" * 513}}), 413)
        refused(post(http, {**JOB, "name": "n" * 257}), 422)

    def test_limits_are_told(self, http: httpx.Client) -> None:
        limits = http.get("/v1/limits").json()
        assert {"queued_per_token", "running_per_token", "storage_bytes_per_token", "streams_per_token", "requests_per_minute",
                "audit_rows"} <= set(limits)


class Test15SlowReaders:
    """Hundreds of them: tests/reliability."""

    def test_one_that_never_reads_holds_up_nobody(self, http: httpx.Client, target: Running) -> None:
        job_id = post(http, JOB).json()["id"]
        with dialled(target) as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            deaf.sendall(f"GET /v1/jobs/{job_id}/events?format=sse HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            store = target.store()
            for number in range(200):
                store.update_job(job_id, name=f"{number}")
            store.close()
            began = time.monotonic()
            assert http.get(f"/v1/jobs/{job_id}").json()["name"] == "199" and time.monotonic() - began < 20

    def test_early_resets_leave_no_stream_open(self, http: httpx.Client, target: Running) -> None:
        job_id = post(http, JOB).json()["id"]
        for number in range(200):
            with dialled(target) as line:
                line.sendall(f"GET /v1/jobs/{job_id}/events?format=sse HTTP/1.1\r\nHost: localhost\r\n\r\n"[:None if number % 4 else 40].encode())
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end = time.monotonic() + 30
        while (streams := re.search(r"trainyard_sse_clients (\d+)", http.get("/metrics").text)) is None or streams[1] != "0":
            assert time.monotonic() < end
            time.sleep(0.1)


class Test16Slowloris:
    @pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: "], ids=range(3))
    def test_a_head_that_does_not_come_ends_the_connection(self, target: Running, sent: bytes) -> None:
        with dialled(target) as line:
            line.sendall(sent)
            line.settimeout(30)
            assert line.recv(65536) == b""

    def test_a_head_that_trickles_ends_too(self, target: Running) -> None:
        with dialled(target) as line:
            line.settimeout(30)
            line.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
            with pytest.raises(ConnectionError):
                for _ in range(200):
                    line.sendall(b"X: y\r\n")
                    time.sleep(0.1)

    @pytest.mark.parametrize("path", ["/v1/jobs", "/v1/datasets", "/v1/jobs/x/cancel"])
    def test_a_body_that_trickles_is_refused(self, target: Running, path: str) -> None:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
        with dialled(target) as line:
            line.settimeout(0.1)
            line.sendall(head.encode())
            found, end = b"", time.monotonic() + 30
            while b"}" not in found and time.monotonic() < end:
                try:
                    line.sendall(b" ")
                    found += line.recv(65536)
                except TimeoutError:
                    continue
            assert found.startswith(b"HTTP/1.1 408") and b"request_timeout" in found


class Test17Guessing:
    def test_ids_cannot_be_counted_on(self, http: httpx.Client) -> None:
        ids = [post(http, JOB).json()["id"] for _ in range(8)]
        assert ids == sorted(ids) and len({job_id[-16:-8] for job_id in ids}) > 6

    def test_hashes_are_compared_in_constant_time(self) -> None:
        text = (ROOT / "service/routes/keys.py").read_text()
        assert text.count("hmac.compare_digest") == 2 and "== self.own" not in text

    def test_what_is_not_there_and_what_is_not_allowed_look_the_same(self, start_server: Callable[..., Running]) -> None:
        """For each call: test_api_tokens.py."""
        server = start_server(TRAINYARD_TOKEN="t", TRAINYARD_MAX_REFUSALS_PER_MINUTE="5")
        known = Person(server, "t")
        job_id = known.job()
        for path in (f"/v1/jobs/{job_id}", "/v1/jobs/job_nothing"):
            refused(server.http.get(path), 401)
        for _ in range(5):
            server.http.get("/v1/jobs", headers={"authorization": "Bearer x"})
        refused(server.http.get("/v1/jobs", headers={"authorization": "Bearer y"}), 429)


class Test18Tenants:
    def test_see_test_api_tokens(self) -> None:
        """Each call with each foreign id, lists, bodies, names, keys, shares. Jobs run as the service's own user: people who do not trust each other
        with the machine itself run one service each, in containers."""
        assert (Path(__file__).parents[1] / "test_api_tokens.py").read_text().count("def test_") > 20


class Test19Predictions:
    """The predictor is a process of its own, with limits of its own: tests/service/test_answers.py."""

    def test_what_is_no_question_is_not_handed_on(self, http: httpx.Client, target: Running) -> None:
        job_id = Person(target, "").finished(priority=100)
        for kind in ("application/json", "text/csv", "application/octet-stream"):
            refused(http.post(f"/v1/jobs/{job_id}/predict", content=b"a" * 17_000_000, headers={"content-type": kind}), 413, 415)
        for body in ({"prompt": 1}, {"length": "x"}, {"seed": 1.5}, {"checkpoint": "../x"}, {"x": 1}, [], 5):
            refused(post(http, body, f"/v1/jobs/{job_id}/generate"), 422)
        for body in ({"split": "all"}, {"checkpoint": "../x", "split": "train"}, {"dataset": 1}, {"dataset": "../x"},
                     {"split": "train", "dataset": "x"}, []):
            refused(post(http, body, f"/v1/jobs/{job_id}/evaluate"), 422)
        for which in ("../x", "9" * 30, "-1", "best;"):
            refused(http.post(f"/v1/jobs/{job_id}/predict", params={"checkpoint": which}, json={"rows": []}), 422)


class Test20Supply:
    def test_see_test_image(self) -> None:
        """Image without root and compiler, kernels baked in: tests/test_image.py. Nothing is installed or loaded by name at run time."""
        assert (ROOT / "tests" / "test_image.py").exists()


class Test21Injection:
    NAME = "a\r\nid: 99\nevent: job.succeeded\ndata: {}\n\n\x1b[31m\u202e\u2028"

    def test_a_text_cannot_end_its_line(self, http: httpx.Client) -> None:
        answer = post(http, {**JOB, "name": self.NAME, "metadata": {"a\nb": self.NAME}})
        if answer.status_code == 422:
            return
        job_id = answer.json()["id"]
        http.post(f"/v1/jobs/{job_id}/cancel")
        for form in ("sse", "ndjson", "text"):
            lines = [line for line in http.get(f"/v1/jobs/{job_id}/events", params={"format": form}).content.split(b"\n") if line]
            for line in lines:
                assert form != "sse" or re.match(rb"(id: \d+$|event: [a-z_.]+$|data: \{.*\}$|retry: \d+$|: )", line), line
                assert form != "ndjson" or json.loads(line)["seq"] in (1, 2)
                assert b"\r" not in line and b"\x1b" not in line and b"\0" not in line
            assert b"id: 99" not in lines

    def test_headers_and_paths_cannot_either(self, http: httpx.Client, target: Running, capfd: pytest.CaptureFixture[str]) -> None:
        for path in ("/v1/jobs/x%0d%0aSet-Cookie:%20a=b", "/v1/jobs/x%0aERROR%20forged", "/v1/jobs?after=%00", "/v1/jobs?status=%0d%0a",
                     "/docs/%0d%0aX:%20y"):
            answer = told(target, head(f"GET {path}"))
            assert b"\nSet-Cookie" not in answer.partition(b"\r\n\r\n")[0] and b"HTTP/1.1 5" not in answer
        for last in ("\0", "1\x0b2", "9" * 5000, "-1", "event_x_1", "1;drop"):
            answer = told(target, head("GET /v1/jobs/x/events", b"Last-Event-ID: " + last.encode()))
            assert re.match(rb"HTTP/1.1 4\d\d", answer), answer[:60]
        for key in ("\0", "x" * 300, "é"):
            answer = told(target, head("POST /v1/jobs/x/cancel", b"Idempotency-Key: " + key.encode()))
            assert re.match(rb"HTTP/1.1 4\d\d", answer), answer[:60]
        out, err = capfd.readouterr()
        assert not re.search(r"^(ERROR forged|Set-Cookie)", out + err, re.MULTILINE)


class Test22Secrets:
    @pytest.mark.parametrize("part", [
        {"metadata": {"db_password": "hunter2"}}, {"metadata": {"API-Key": "k"}}, {"metadata": {"note": "AKIAIOSFODNN7EXAMPLE"}},
        {"metadata": {"x": "ghp_" + "a" * 36}}, {"name": "sk-" + "A1" * 16}, {"metadata": {"u": "postgres://me:hunter2@db/x"}},
        {"metadata": {"pem": "-----BEGIN RSA PRIVATE KEY-----"}}], ids=lambda part: str(part)[:30])
    def test_what_looks_like_one_is_warned_of_and_not_repeated(self, http: httpx.Client, part: dict[str, Any]) -> None:
        found = post(http, {**JOB, **part}, "/v1/jobs?validate_only=true").json()["warnings"]
        mine = [warning for warning in found if warning["code"] == "looks_secret"]
        assert len(mine) == 1 and mine[0]["pointer"].startswith(("/metadata/", "/name")) and not re.search("hunter2|AKIA|ghp_|sk-|BEGIN", str(mine))

    def test_what_does_not_is_not(self, http: httpx.Client) -> None:
        harmless = {"metadata": {"owner": "token ring team", "keyword": "monkey", "run": "0123456789abcdef" * 4}}
        assert "looks_secret" not in post(http, {**JOB, **harmless}, "/v1/jobs?validate_only=true").text


class Test23Scripts:
    def test_no_page_shows_what_others_wrote_and_no_answer_is_a_page(self, http: httpx.Client) -> None:
        script = "<script>alert(1)</script><img src=x onerror=alert(1)>"
        job_id = post(http, {**JOB, "name": script, "metadata": {"k": script}}).json()["id"]
        http.post(f"/v1/jobs/{job_id}/cancel")
        text = b"<html><script>alert(1)</script>,b\n1,2\n"
        data = http.post("/v1/datasets", params={"name": script}, content=text, headers={"content-type": "text/csv"}).json()
        for path in (f"/v1/jobs/{job_id}", "/v1/jobs", f"/v1/jobs/{job_id}/events?format=text", f"/v1/datasets/{data['id']}",
                     f"/v1/datasets/{data['id']}/content",
                     f"/v1/jobs/{script}", f"/v1/datasets/{data['id']}/rows", f"/{script}", f"/v1/jobs?{script}=1", f"/docs/{script}"):
            answer = http.get(path)
            assert "html" not in answer.headers["content-type"] and answer.headers["x-content-type-options"] == "nosniff", path
            assert "sandbox" in answer.headers["content-security-policy"] or "script-src" in answer.headers["content-security-policy"], path
        assert http.get(f"/v1/datasets/{data['id']}/content").headers["content-disposition"].startswith("attachment")
        for path in ("/docs", "/docs/errors"):
            assert "<script>alert" not in http.get(path, params={}).text


class Test24Imports:
    """ONNX is only written. What else safetensors files may say: tests/service/lineage."""

    @pytest.mark.parametrize("file", [
        struct.pack("<Q", 2**63) + b"{}", struct.pack("<Q", 100_000_000) + b"{}", struct.pack("<Q", 2) + b"[]", b"\0" * 7,
        struct.pack("<Q", 60) + b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,99999999]}}'[:60],
        *(struct.pack("<Q", len(text)) + text + bytes(16) for text in (
            b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,8]}}',
            b'{"a":{"dtype":"F32","shape":[99999999999,99999999999],"data_offsets":[0,16]}}',
            b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}',
            b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}', b'{"a":{"dtype":"OBJ","shape":[2],"data_offsets":[0,16]}}',
            b'{"a":{"dtype":"F32","shape":[-4],"data_offsets":[16,0]}}'))], ids=range(11))
    def test_files_of_parameters_that_lie(self, http: httpx.Client, file: bytes) -> None:
        refused(http.post("/v1/datasets?format=safetensors", content=file, headers=OCTETS), 413, 422)
