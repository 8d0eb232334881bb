"""Webhooks against a real receiver, another process: signed, tried again, never to where they must not go, never lost."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service import jobs as states
from service.settings import Settings
from service.store import Event, Store
from service.store import outbox as boxes
from service.webhooks import sending
from service.webhooks.addresses import NotAllowed, Target, check_peer, is_public, target_of
from service.webhooks.signing import signature
from tests.homes import fresh
from tests.service.receiver import Receiver, receiving
from tests.service.running import until
from tests.serving import Server, serving
from tests.user import User

JOB: dict[str, Any] = {
    "model": {"kind": "dense", "units": 3}, "loss": "logit_cross_entropy", "optimiser": "adam", "epochs": 2,
    "data": {"dataset": {"columns": {"x": [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.5, 0.0]], "y": [0, 1, 2, 0]}}, "target": "y", "batch_size": 2}}
OVER = ("delivered", "given_up", "disabled")


def telling(url: str, **fields: Any) -> dict[str, Any]:
    return {**JOB, "callbacks": [{"kind": "webhook", "url": url, **fields}]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that waits a second for an answer and tries three times, soon after each other."""
    with serving(fresh(tmp_path_factory.mktemp("webhooks") / "home"), workers=1, webhook_allow="127.0.0.1", webhook_seconds=1,
                 webhook_retries="0.2,0.2") as one:
        yield one


@pytest.fixture
def user(server: Server) -> User:
    return User(server.url)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with receiving(tmp_path / "receiver") as one:
        yield one


def settled(user: User, job_id: str) -> list[dict[str, Any]]:
    """A job's deliveries, oldest first, once all of them are over."""
    def look() -> list[dict[str, Any]]:
        found = user.get(f"/v1/jobs/{job_id}/webhooks")["data"][::-1]
        return found if found and all(one["status"] in OVER for one in found) else []
    return until(look)


def verified(message: dict[str, Any], secret: str) -> bool:
    """As the specification has it, with nothing of ours."""
    headers = message["headers"]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{message['body']}".encode()
    digest = hmac.new(base64.b64decode(secret.removeprefix("whsec_")), signed, hashlib.sha256).digest()
    assert abs(int(headers["webhook-timestamp"]) - message["at"]) < 300
    return f"v1,{base64.b64encode(digest).decode()}" in headers["webhook-signature"].split(" ")


def test_the_end_of_a_job_is_told_signed_and_again_until_it_is_taken(user: User, receiver: Receiver) -> None:
    receiver.answers("500", "503")
    job_id, events = user.train(telling(receiver.url))
    [delivery] = settled(user, job_id)
    assert delivery["status"] == "delivered" and [tried["code"] for tried in delivery["tries"]] == [500, 503, 200]
    secret = user.get("/v1/webhooks/secret")["secret"]
    messages = receiver.received()
    assert len(messages) == 3 and all(verified(message, secret) for message in messages)
    assert not verified({**messages[0], "body": messages[0]["body"].replace("succeeded", "failed")}, secret)
    assert {message["headers"]["webhook-id"] for message in messages} == {delivery["id"]} and len({message["body"] for message in messages}) == 1
    body = json.loads(messages[0]["body"])
    assert body == {"type": "job.succeeded", "timestamp": events[-1]["created_at"],
                    "data": {"id": job_id, "status": "succeeded", "event": events[-1]["id"]}}
    assert messages[0]["path"] == "/hook?who=me" and messages[0]["headers"]["content-type"] == "application/json"
    assert delivery["seq"] == events[-1]["seq"] and user.get("/v1/webhooks")["data"] == []


def test_events_that_were_asked_for_are_told_each_once(user: User, receiver: Receiver) -> None:
    job_id, _ = user.train(telling(receiver.url, events=["job.queued", "job.started", "epoch", "job.succeeded"]))
    assert {one["status"] for one in settled(user, job_id)} == {"delivered"}
    until(lambda: len(receiver.received()) == 5)
    told = [json.loads(message["body"]) for message in receiver.received()]
    assert sorted(one["type"] for one in told) == ["epoch", "epoch", "job.queued", "job.started", "job.succeeded"]
    assert {one["data"]["status"] for one in told if one["type"] == "epoch"} == {"running"}
    assert sorted(one["data"]["epoch"] for one in told if one["type"] == "epoch") == [1, 2]


def test_a_new_secret_signs_beside_the_old_one(user: User, receiver: Receiver) -> None:
    old = user.get("/v1/webhooks/secret")["secret"]
    shown = user.http.post("/v1/webhooks/secret", headers={"idempotency-key": "rotate"})
    again = user.http.post("/v1/webhooks/secret", headers={"idempotency-key": "rotate"})
    new = shown.json()["secret"]
    assert shown.status_code == 201 and again.json() == shown.json() and shown.json()["secrets"] == [new, old] and old != new
    assert len(base64.b64decode(new.removeprefix("whsec_"))) == 32
    job_id, _ = user.train(telling(receiver.url))
    settled(user, job_id)
    [message] = receiver.received()
    assert len(message["headers"]["webhook-signature"].split(" ")) == 2 and verified(message, old) and verified(message, new)
    assert user.post("/v1/webhooks/secret", {"overlap_seconds": 0})["secrets"] != [new, old]
    assert len(user.get("/v1/webhooks/secret")["secrets"]) == 1
    assert user.http.post("/v1/webhooks/secret", json={"overlap": 1}).json()["errors"][0]["suggestion"] == "overlap_seconds"


def test_one_that_does_not_answer_or_sends_elsewhere_holds_up_nobody(user: User, receiver: Receiver, tmp_path: Path) -> None:
    with receiving(tmp_path / "other") as other:
        receiver.answers("slow 5", "drip", f"redirect {other.url}")
        slow, _ = user.train(telling(receiver.url))
        quick, _ = user.train(telling(other.url))
        [delivery] = settled(user, slow)
        assert settled(user, quick)[0]["status"] == "delivered"
        assert delivery["status"] == "given_up" and [tried.get("code") for tried in delivery["tries"]] == [None, None, 307]
        assert [tried["error"] for tried in delivery["tries"]] == ["no answer within 1 seconds"] * 2 + ["redirects are not followed"]
        assert all(tried["seconds"] < 10 for tried in delivery["tries"]) and len(other.received()) == 1
        assert [one["status"] for one in user.get("/v1/webhooks")["data"] if one["url"] == receiver.url] == ["failing"]


def test_a_receiver_that_wants_no_more_is_left_alone_until_it_is_enabled(user: User, receiver: Receiver) -> None:
    receiver.answers("410")
    first, _ = user.train(telling(receiver.url))
    assert settled(user, first)[0]["status"] == "disabled"
    second, _ = user.train(telling(receiver.url))
    assert settled(user, second)[0]["status"] == "disabled" and len(receiver.received()) == 1
    [target] = [one for one in user.get("/v1/webhooks")["data"] if one["url"] == receiver.url]
    assert target["status"] == "disabled" and "410" in target["reason"]
    user.post("/v1/webhooks/enable", {"url": receiver.url})
    third, _ = user.train(telling(receiver.url))
    assert settled(user, third)[0]["status"] == "delivered"
    assert user.http.post("/v1/webhooks/enable", json={"url": receiver.url}).status_code == 404
    assert user.http.post("/v1/webhooks/enable", json={"ur": receiver.url}).json()["errors"][0]["suggestion"] == "url"


def test_a_name_that_means_this_machine_is_never_reached(user: User, receiver: Receiver) -> None:
    name, port = socket.gethostname().lower(), receiver.place.rpartition(":")[2]
    try:
        if is_public(socket.gethostbyname(name)):
            pytest.skip("this machine's name is a public address")
    except OSError:
        pytest.skip("this machine's name is no address")
    job_id, _ = user.train(telling(f"https://{name}:{port}/"))
    [delivery] = settled(user, job_id)
    assert delivery["status"] == "given_up" and {tried["error"] for tried in delivery["tries"]} == {f"{name} is at an address that is not public"}
    assert receiver.received() == []


@pytest.mark.parametrize("url", [
    "http://example.org/", "ftp://example.org/", "example.org", "https://", "https://10.0.0.1/", "https://192.168.1.1:8443/", "https://172.16.0.9/",
    "https://169.254.169.254/latest/meta-data", "https://100.64.3.2/", "https://0.0.0.0/", "https://[::1]/", "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/", "https://[fc00::1]/", "https://[fe80::1]/", "https://[64:ff9b::7f00:1]/", "https://[2002:7f00:1::]/", "https://224.0.0.1/",
    "https://0177.0.0.1/", "https://127.1/", "https://2130706433/", "https://0x7f000001/", "https://localhost/", "https://a.localhost/",
    "https://db.internal/", "https://me:secret@example.org/", "https://example.org#part", "https://example.org:0/", "https://exa mple.org/",
    "https://example.org\\@127.0.0.1/", "https://example.org\r\nHost: x/", "https://例え.jp/", "https://example.org:70000/", "https://-a.org/",
    "http://127.0.0.2:1/x"])
def test_a_url_that_must_not_be_told_is_refused_with_its_place(user: User, url: str) -> None:
    [problem] = user.refused(telling(url))
    assert problem["pointer"] == "/callbacks/0/url" and problem["code"] == "url_not_allowed" and problem["detail"]


def test_all_that_is_wrong_with_a_webhook_is_told_at_once(user: User) -> None:
    wrong = {**telling("https://127.0.0.1.nip.io.:443/", events=["job.succeded", "epoch"]), "loss": "mse"}
    wrong["callbacks"].append({"kind": "webhook", "url": "https://10.0.0.1/"})
    found = {problem["pointer"]: problem for problem in user.refused(wrong)}
    assert found["/callbacks/0/events/0"]["suggestion"] == "job.succeeded" and found["/callbacks/1/url"]["code"] == "url_not_allowed"
    assert any(pointer.startswith(("/loss", "/model", "/data")) for pointer in found)
    fields = {problem["pointer"]: problem for problem in user.refused(telling("https://example.org/", min_second=3, events=[]))}
    many = {**JOB, "callbacks": [{"kind": "webhook", "url": "https://example.org/"}] * 18}
    assert [problem["pointer"] for problem in user.refused(many)] == ["/callbacks/16", "/callbacks/17"]
    assert fields["/callbacks/0/min_second"]["suggestion"] == "min_seconds" and "/callbacks/0/events" in fields


def test_what_was_under_way_when_everything_was_killed_is_told_again_under_its_id(server: Server, user: User, receiver: Receiver) -> None:
    receiver.answers("slow 60")
    ids = [user.train(telling(receiver.url))[0]]
    until(receiver.received)
    ids.append(user.train(telling(receiver.url))[0])
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    server.start()
    deliveries = [settled(user, job_id)[0] for job_id in ids]
    assert [one["status"] for one in deliveries] == ["delivered"] * 2
    told = [message["headers"]["webhook-id"] for message in receiver.received()]
    assert set(told) == {one["id"] for one in deliveries} and told.count(deliveries[0]["id"]) >= 2


# ---------------------------------------------------------------- the parts

def test_the_pauses_are_those_of_the_specification() -> None:
    minute, hour = 60, 3600
    pauses = [5, 5 * minute, 30 * minute, 2 * hour, 5 * hour, 10 * hour, 14 * hour, 20 * hour, 24 * hour]
    assert [float(word) for word in Settings().webhook_retries.split(",")] == pauses
    with pytest.raises(ValueError, match="seconds"):
        Settings(webhook_retries="5,soon")


def test_signatures_are_those_of_the_specification() -> None:
    made = signature("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(("url", "allow", "private"), [
    ("https://example.org/", "", False), ("https://example.org/", "127.0.0.1:9", False), ("http://127.0.0.1:9/", "127.0.0.1:9", True),
    ("https://10.1.2.3:8443/", "10.1.2.3:8443", True), ("https://hooks.corp/", "hooks.corp:443", True), ("https://hooks.corp/", "hooks.corp", False),
    ("https://a.example.org/", "*.example.org", False), ("http://relay.corp:80/", "http://relay.corp:80", True), ("https://x.org/", "*", False)])
def test_the_setting_says_who_may_be_told(url: str, allow: str, private: bool) -> None:
    assert target_of(url, allow).private is private


@pytest.mark.parametrize(("url", "allow"), [
    ("https://example.com/", "example.org"), ("https://example.com/", "*.example.org"), ("https://evil-example.org/", "*.example.org"),
    ("http://example.org/", "example.org"), ("http://127.0.0.1:10/", "127.0.0.1:9"), ("http://10.1.2.3:80/", "10.1.2.3:80"),
    ("https://example.org/", "none"), ("https://10.1.2.3/", "*")])
def test_whom_the_setting_does_not_name_is_not_told(url: str, allow: str) -> None:
    with pytest.raises(NotAllowed):
        target_of(url, allow)


def test_a_name_is_judged_by_the_address_that_it_has_when_it_is_asked(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the name was public when it was posted, and means this machine now."""
    port = int(receiver.place.rpartition(":")[2])
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))])
    with pytest.raises(NotAllowed, match="not public"):
        sending.post(Target("https", "rebound.example", 443, "/", False), {}, b"{}", 2)
    assert receiver.received() == []
    check_peer("93.184.216.34", Target("https", "example.org", 443, "/", False))


def test_certificates_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key,
                           "-out", certificate, "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
                          capture_output=True)
    if made.returncode:
        pytest.skip("no openssl here to make a certificate with")
    with receiving(tmp_path / "secure", certificate, key) as receiver:
        target = target_of(f"https://localhost:{receiver.place.rpartition(':')[2]}/x", "localhost")
        with pytest.raises(sending.NoAnswer, match="TLS failed"):
            sending.post(target, {}, b"{}", 5)
        trusting = ssl.create_default_context(cafile=str(certificate))
        monkeypatch.setattr(sending, "_tls", lambda: trusting)
        assert sending.post(target, {}, b"{}", 5) == 200
        with pytest.raises(sending.NoAnswer, match="TLS failed"):       # another name than the certificate's
            sending.post(target_of(f"https://{receiver.place}/x", "127.0.0.1"), {}, b"{}", 5)
        assert len(receiver.received()) == 1


def hooked(store: Store, **fields: Any) -> Any:
    hook = {"kind": "webhook", "url": "https://a.example/x", "events": ["epoch", "job.succeeded"], "min_seconds": 0.0, **fields}
    store.add_job({"epochs": 2, "callbacks": [hook]}, {}, epochs=2)
    found = store.claim("here", 60)
    assert found is not None
    return found[0]


def test_a_delivery_is_there_exactly_when_its_event_is(store: Store) -> None:
    claim = hooked(store)
    with pytest.raises(RuntimeError), store.write("both"):
        store.record(claim, events=[Event("epoch", "Epoch 1", {"epoch": 1}, key="epoch:1")])
        raise RuntimeError
    assert store.deliveries(claim.job_id) == ([], False) and len(store.events(claim.job_id)) == 1
    for _ in range(2):      # told again after a crash: the event has its key already
        store.record(claim, events=[Event("epoch", "Epoch 1", {"epoch": 1}, key="epoch:1")])
    assert len(store.deliveries(claim.job_id)[0]) == 1
    store.finish(claim, "succeeded", reason="completed", message="Done.")
    types = [row["type"] for row in store.deliveries(claim.job_id)[0]]
    assert types == ["job.succeeded", "epoch"] and store.deliveries_waiting() == 2
    store.delete_job(claim.job_id)      # what waits is told all the same
    while delivery := store.take_delivery("c"):
        assert store.settle_delivery(delivery, {"at": states.now(), "code": 200}, delivered=True) == "delivered"
    assert store.deliveries(claim.job_id) == ([], False) and store.deliveries_waiting() == 0


def test_of_one_type_one_is_told_in_so_many_seconds_and_the_end_always(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    claim, now = hooked(store, min_seconds=10.0), states.seconds_now()
    for epoch in range(40):
        monkeypatch.setattr(states, "seconds_now", lambda epoch=epoch: now + epoch)
        store.record(claim, events=[Event("epoch", data={"epoch": epoch})])
    store.finish(claim, "succeeded", reason="completed", message="Done.")
    found = [json.loads(row["body"])["data"].get("epoch") for row in store.deliveries(claim.job_id, limit=100)[0]][::-1]
    assert found == [0, 10, 20, 30, None]


def test_what_waits_is_bounded_and_the_job_says_so_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boxes, "MOST_WAITING", 5)
    claim = hooked(store)
    for _ in range(3):
        store.record(claim, events=[Event("epoch", data={"epoch": epoch}) for epoch in range(4)])
    store.finish(claim, "succeeded", reason="completed", message="Done.")
    assert store.deliveries_waiting() == 6
    assert [event["data"]["code"] for event in store.events(claim.job_id, types=["warning"]) if event["type"] == "warning"] == ["webhooks_left_out"]


def test_a_receiver_that_takes_nothing_for_five_days_is_told_nothing_more(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    claim, now = hooked(store), states.seconds_now()
    store.record(claim, events=[Event("epoch", data={"epoch": epoch}) for epoch in range(3)])
    for day in range(5):
        monkeypatch.setattr(states, "seconds_now", lambda day=day: now + 60 + day * 86400.0)
        delivery = store.take_delivery("c")
        assert delivery is not None
        assert store.settle_delivery(delivery, {"at": states.now(), "code": 500}, again_in=43200.0) == "pending"
    monkeypatch.setattr(states, "seconds_now", lambda: now + 61 + 5 * 86400.0)
    delivery = store.take_delivery("c")
    assert delivery is not None and store.settle_delivery(delivery, {"at": states.now(), "code": 500}, again_in=1.0) == "disabled"
    assert {row["status"] for row in store.deliveries(claim.job_id)[0]} == {"disabled"} and store.next_delivery() is None
    [target] = store.webhook_targets()
    assert "5 days" in target["reason"]
    assert store.events(claim.job_id)[-1]["data"]["code"] == "webhook_disabled"


def test_what_a_dead_courier_had_is_another_s(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = hooked(store)
    store.record(claim, events=[Event("epoch", data={"epoch": 1})])
    first = store.take_delivery("dead")
    assert first is not None and store.take_delivery("living") is None and store.couriers() == ["dead"]
    store.release_deliveries(["dead"])
    second = store.take_delivery("living")
    assert second is not None and second["id"] == first["id"]
    assert store.settle_delivery(first, {"at": states.now(), "code": 500}) == "pending"         # it has no say any more
    now = time.time()
    monkeypatch.setattr(states, "seconds_now", lambda: now + 61)                                # nor has one that was not heard of for a minute
    third = store.take_delivery("third", busy=["b.example"])
    assert third is not None and third["id"] == first["id"] and store.take_delivery("fourth", busy=["a.example"]) is None
