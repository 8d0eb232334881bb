"""Uploads in parts: any order, again and again, through deaths of the server; nothing is left of those that were given up."""

from __future__ import annotations

import hashlib
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from running import Running, pointers, problem

from service import artifacts, unfinished
from service.client import Client, Refused
from service.store import Store

CSV = b"n,group\n" + b"".join(b"%d,%s\n" % (i * 7 % 1000, b"abc"[i % 3:i % 3 + 1]) for i in range(6000))
PARTS = [CSV[at:at + 7000] for at in range(0, len(CSV), 7000)]


def begin(http: httpx.Client, **about: Any) -> str:
    answer = http.post("/v1/uploads", json={"name": "numbers.csv", "media_type": "text/csv", **about})
    assert answer.status_code == 201 and answer.headers["location"] == f"/v1/uploads/{answer.json()['id']}", answer.text
    return answer.headers["location"]


def put(http: httpx.Client, upload: str, number: int, data: bytes, **query: str) -> httpx.Response:
    return http.put(f"{upload}/parts/{number}", content=data, params=query)


def left(home: Path) -> list[str]:
    """Files and folders of uploads that are on the disk."""
    return [str(path.relative_to(home)) for path in [*(home / "uploads").glob("*"), *(home / "datasets").glob(".*")]]


def test_parts_come_in_any_order_at_once_and_twice(server: Running) -> None:
    http = server.http
    upload = begin(http, bytes=len(CSV))
    numbers = [*range(1, len(PARTS) + 1), 1, 2]
    random.Random(0).shuffle(numbers)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda n: put(http, upload, n, PARTS[n - 1], sha256=hashlib.sha256(PARTS[n - 1]).hexdigest().upper()), numbers))
    assert all(answer.status_code == 200 and answer.json()["number"] == n for answer, n in zip(answers, numbers, strict=True))
    shown = http.get(upload).json()
    assert [part["number"] for part in shown["parts"]] == list(range(1, len(PARTS) + 1)) and shown["received_bytes"] == len(CSV)
    assert shown["status"] == "pending" and shown["parts"][0]["sha256"] == hashlib.sha256(PARTS[0]).hexdigest()
    made = http.post(f"{upload}/complete", json={"sha256": hashlib.sha256(CSV).hexdigest()})
    assert made.status_code == 201 and made.json()["rows"] == 6000 and made.json()["name"] == "numbers.csv", made.text
    assert made.headers["location"] == f"/v1/datasets/{made.json()['id']}" and http.get(made.headers["location"]).json() == made.json()
    again = http.post(f"{upload}/complete")
    assert again.status_code == 200 and again.json() == made.json()
    assert http.get(upload).json()["dataset_id"] == made.json()["id"] and http.get(upload).json()["status"] == "completed"
    assert problem(put(http, upload, 1, b"x"), 409, "conflict")["detail"].endswith(made.json()["id"])
    assert not left(server.home)
    assert http.get("/v1/uploads?limit=1").json()["data"][0]["id"] == shown["id"]
    assert http.delete(upload).status_code == 204 and http.get(made.headers["location"]).status_code == 200
    problem(http.get(upload), 404, "not_found")


def test_a_part_that_comes_again_takes_the_place_of_the_first(http: httpx.Client) -> None:
    upload = begin(http)
    for number, data in ((2, b"3,4\n"), (1, b"x,y\nwrong\n"), (1, b"x,y\n1,2\n")):
        assert put(http, upload, number, data).status_code == 200
    assert http.post(f"{upload}/complete").json()["rows"] == 2
    upload = begin(http, header=False)
    for number, data in ((5, b"1,2\n"), (9, b"3,4\n"), (7, b"5,6\n")):
        put(http, upload, number, data)
    body = problem(http.post(f"{upload}/complete"), 422, "invalid_request")
    assert "part 1 has not come" in body["errors"][0]["detail"] and set(pointers(body).values()) == {"part_missing"}
    made = http.post(f"{upload}/complete", json={"parts": [9, 5]}).json()
    assert [row["c0"] for row in http.get(f"/v1/datasets/{made['id']}/rows").json()["data"]] == [3, 1]


def test_data_that_cannot_be_read_can_be_read_otherwise(server: Running, http: httpx.Client) -> None:
    upload = begin(http, delimiter="semicolon")
    put(http, upload, 1, b"a,b\n1;2\n3,4\n")
    assert problem(http.post(f"{upload}/complete"), 422, "ragged_row")["line"] == 2
    assert len(http.get(upload).json()["parts"]) == 1
    assert http.post(f"{upload}/complete", json={"delimiter": "comma", "format": "csv"}).status_code == 422
    assert http.delete(upload).status_code == 204 and not left(server.home)


def test_wrong_requests_are_refused(server: Running, http: httpx.Client) -> None:
    for body, pointer, code in (({"nam": "x"}, "/nam", "unknown_field"), ({"bytes": 0}, "/bytes", "out_of_range"),
                                ({"bytes": 1.5}, "/bytes", "invalid_value"),
                                ({"bytes": True}, "/bytes", "invalid_value"), ({"header": "yes"}, "/header", "invalid_value"),
                                ({"name": "x" * 300}, "/name", "out_of_range"), ({"retain_seconds": -1}, "/retain_seconds", "out_of_range")):
        assert pointers(problem(http.post("/v1/uploads", json=body), 422, "invalid_request")) == {pointer: code}
    problem(http.post("/v1/uploads", json={"format": "cvs"}), 422, "unknown_format")
    problem(http.post("/v1/uploads", json={"bytes": 10**12}), 413, "too_large")
    upload = begin(http, bytes=10)
    assert "part_missing" in pointers(problem(http.post(f"{upload}/complete"), 422, "invalid_request")).values()
    for number in (0, -1, 10_001, 2**40, "x"):
        problem(http.put(f"{upload}/parts/{number}", content=b"x"), 422, "invalid_request")
    problem(put(http, upload, 1, b""), 422, "empty")
    problem(put(http, upload, 1, b"abc", sha256="0" * 64), 422, "checksum_mismatch")
    problem(put(http, upload, 1, b"abc", sha256="0"), 422, "invalid_request")
    problem(put(http, upload, 1, b"x" * 11), 413, "too_large")
    problem(put(http, upload, 1, b"abc", part="1"), 422, "invalid_request")
    assert put(http, upload, 1, b"12345").status_code == 200
    problem(put(http, upload, 2, b"123456"), 413, "too_large")
    assert "were to have 10" in problem(http.post(f"{upload}/complete"), 422, "invalid_request")["detail"]
    for body in ({"parts": "1"}, {"parts": [2]}, {"parts": [1, 1]}, {"parts": []}, {"parts": [True]}, {"sha256": "x"}, {"what": 1}, {"name": "x"}):
        problem(http.post(f"{upload}/complete", json=body), 422, "invalid_request")
    assert put(http, upload, 2, b"67890").status_code == 200
    problem(http.post(f"{upload}/complete", json={"sha256": "0" * 64}), 422, "checksum_mismatch")
    for call in (http.get, http.delete):
        problem(call("/v1/uploads/upload_none"), 404, "not_found")
    problem(put(http, "/v1/uploads/..%2f..%2fx", 1, b"x"), 404, "not_found")
    problem(http.post("/v1/uploads/upload_none/complete"), 404, "not_found")
    http.delete(upload)
    assert not left(server.home)


def test_the_limits_hold(start_server: Callable[..., Running]) -> None:
    server = start_server(TRAINYARD_MAX_UPLOAD_BYTES="2000", TRAINYARD_MAX_UPLOADS="2")
    limits = server.http.get("/v1/limits").json()
    assert (limits["uploads"], limits["upload_parts"], limits["images"]) == (2, 10_000, 100_000)
    one, _ = begin(server.http), begin(server.http)
    refused = server.http.post("/v1/uploads", json={})
    problem(refused, 429, "overloaded")
    assert refused.headers["retry-after"]
    assert put(server.http, one, 1, b"a\n" + b"1\n" * 500).status_code == 200
    problem(put(server.http, one, 2, b"1\n" * 501), 413, "too_large")
    with ThreadPoolExecutor(4) as pool:         # each alone would do, all together are too many
        codes = sorted(answer.status_code for answer in pool.map(lambda n: put(server.http, one, n, b"1\n" * 200), range(2, 8)))
    assert codes == [200, 200, 413, 413, 413, 413]
    assert len(list((server.home / "uploads").glob("*/*"))) == 3 and server.http.get(one).json()["received_bytes"] <= 2000


def raw_put(server: Running, path: str, said: int, data: bytes) -> socket.socket:
    """A PUT that says it has so many bytes, of which these have come."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    connection.sendall(f"PUT {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {said}\r\n\r\n".encode() + data)
    return connection


def test_kill_9_in_the_middle_loses_no_part_that_was_answered(start_server: Callable[..., Running]) -> None:
    server = start_server()
    upload = begin(server.http, bytes=len(CSV))
    for number in (1, 3):
        put(server.http, upload, number, PARTS[number - 1])
    hanging = raw_put(server, f"{upload}/parts/2", len(PARTS[1]), PARTS[1][:3000])
    whole = raw_put(server, "/v1/datasets", 10**6, b"a,b\n1,2\n")
    whole.close()
    end = time.monotonic() + 20
    while not any(path.name.startswith(unfinished.MARK) for path in (server.home / "uploads").glob("*/*")):
        assert time.monotonic() < end
        time.sleep(0.01)
    server.process.kill()
    server.process.wait()
    hanging.close()
    assert any(path.name.startswith(unfinished.MARK) for path in (server.home / "uploads").glob("*/*"))
    again = start_server(server.home)
    store = again.store()
    artifacts.tidy_uploads(store)
    shown = again.http.get(upload).json()
    assert [part["number"] for part in shown["parts"]] == [1, 3] and not list((again.home / "uploads").glob("*/.*"))
    for number in range(1, len(PARTS) + 1):
        if number not in (1, 3):
            assert put(again.http, upload, number, PARTS[number - 1]).status_code == 200
    assert again.http.post(f"{upload}/complete", json={"sha256": hashlib.sha256(CSV).hexdigest()}).status_code == 201
    assert not left(again.home)
    store.close()


@pytest.mark.parametrize("place", ["dataset.after_rename", *(pytest.param(place, marks=pytest.mark.slow) for place in (
    "part.before_rename", "part.after_rename", "dataset.before_rename", "end_upload.before_commit", "end_upload.after_commit"))])
def test_wherever_the_server_dies_the_upload_goes_on(start_server: Callable[..., Running], place: str) -> None:
    server = start_server(TRAINYARD_CRASH_POINT=place)
    upload = begin(server.http)
    try:
        for number, data in ((1, CSV[:9000]), (2, CSV[9000:])):
            put(server.http, upload, number, data)
        server.http.post(f"{upload}/complete")
    except httpx.TransportError:
        pass
    assert server.process.wait(20) == 86
    again = start_server(server.home)
    if again.http.get(upload).json()["status"] == "pending":
        for number, data in ((1, CSV[:9000]), (2, CSV[9000:])):
            assert put(again.http, upload, number, data).status_code == 200
    made = again.http.post(f"{upload}/complete")
    assert made.status_code in (200, 201) and made.json()["rows"] == 6000 and made.json()["sha256"] == hashlib.sha256(CSV).hexdigest()
    assert again.http.get("/v1/datasets").json()["data"] == [made.json()]
    again.process.kill()
    again.process.wait()
    store = Store.at(server.home)
    artifacts.sweep(store)
    assert not left(server.home) and [path.name for path in (server.home / "datasets").iterdir()] == [made.json()["sha256"]]
    store.close()


def test_what_nobody_goes_on_with_expires(start_server: Callable[..., Running]) -> None:
    server = start_server(TRAINYARD_UPLOAD_SECONDS="1.5")
    kept, dropped = begin(server.http), begin(server.http)
    for upload in (kept, dropped):
        put(server.http, upload, 1, b"a,b\n1,2\n")
    store = server.store()
    artifacts.tidy_uploads(store)
    assert len(left(server.home)) == 2
    time.sleep(1.0)
    put(server.http, kept, 2, b"3,4\n")
    time.sleep(0.8)
    artifacts.tidy_uploads(store)
    problem(server.http.get(dropped), 404, "not_found")
    assert len(server.http.get(kept).json()["parts"]) == 2 and len(left(server.home)) == 1
    store.close()


class Cutter:
    """Stands between a client and a server, and cuts each connection after so many bytes towards the server, until it has cut often enough."""

    def __init__(self, url: str, after: int, cuts: int):
        host, port = url.removeprefix("http://").split(":")
        self.target, self.after, self.cuts = (host, int(port)), after, cuts
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                client, _ = self.listening.accept()
            except OSError:
                return
            server = socket.create_connection(self.target)
            threading.Thread(target=self.copy, args=(server, client, False), daemon=True).start()
            threading.Thread(target=self.copy, args=(client, server, True), daemon=True).start()

    def copy(self, source: socket.socket, target: socket.socket, counts: bool) -> None:
        count = 0
        try:
            while data := source.recv(65536):
                count += len(data)
                if counts and self.cuts > 0 and count > self.after:
                    self.cuts -= 1
                    break
                target.sendall(data)
        except OSError:
            pass
        for one in (source, target):
            one.close()


@pytest.fixture
def cutter(server: Running) -> Iterator[Cutter]:
    made = Cutter(server.url, 6_000, 4)
    yield made
    made.listening.close()


def test_the_client_goes_on_after_connections_break(server: Running, cutter: Cutter, tmp_path: Path) -> None:
    (tmp_path / "numbers.csv").write_bytes(CSV)
    told: list[tuple[int, int]] = []
    with Client(cutter.url, patience=60) as client:
        found = client.upload(tmp_path / "numbers.csv", part_bytes=9000, progress=lambda *sent: told.append(sent), types="group:category")
    assert cutter.cuts == 0 and found.rows == 6000 and found.sha256.startswith(hashlib.sha256(CSV).hexdigest())
    assert told[-1] == (len(CSV), len(CSV)) and len(told) == -(-len(CSV) // 9000) and not left(server.home)


def test_the_client_removes_what_is_refused(server: Running, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_bytes(CSV + b"1,2,3\n")
    before = json.dumps(server.http.get("/v1/uploads").json())
    with Client(server.url) as client, pytest.raises(Refused) as caught:
        client.upload(tmp_path / "bad.csv", part_bytes=9000)
    assert caught.value.code == "ragged_row" and json.dumps(server.http.get("/v1/uploads").json()) == before and not left(server.home)
