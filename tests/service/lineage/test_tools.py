"""Forks and names from Python and from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jobs import SMALL

from service.client import Client, Refused
from tests.serving import Server, command
from tests.user import User


@pytest.fixture(scope="module")
def trained(user: User) -> str:
    return user.train(SMALL)[0]


def test_from_python(service: Server, trained: str, tmp_path: Path) -> None:
    with Client(service.url) as client:
        file = client.upload(client.download(trained, tmp_path / "mine.safetensors"))
        assert (file.format, file.rows, file.columns[0].name) == ("safetensors", 0, "layers.0.bias")
        assert client.wait(client.submit({**SMALL, "initial": {"dataset": file.id}}).id).succeeded
        job = client.wait(client.fork(trained, more_epochs=1, changes={"optimiser": {"learning_rate": 0.001}}).id)
        assert job.epoch == 3 and job.spec["optimiser"]["learning_rate"] == 0.001
        model = client.publish("from-python", trained, checkpoint="best")
        assert (model.job, model.checkpoint) == (trained, "best")
        named, own = client.download("from-python", tmp_path), client.download(trained, tmp_path / "best", checkpoint="best")
        assert named == tmp_path / "from-python.safetensors" and named.read_bytes() == own.read_bytes()
        last = [client.download(model, tmp_path / "last", checkpoint="last").read_bytes() for model in ("from-python", trained)]
        assert last[0] == last[1] != own.read_bytes()
        client.publish("from-python", job.id)
        assert [one["job"] for one in client.model("from-python").history] == [job.id, trained]
        assert "from-python" in [model.name for model in client.models()]
        assert client.predict("from-python", dataset="sample:digits").job_id == job.id
        assert client.evaluate("from-python", split="validation").loss == client.evaluate(job.id, split="validation").loss
        client.unpublish("from-python")
        for ask in (client.model, client.download):
            with pytest.raises(Refused, match="no model from-python"):
                ask("from-python")


def test_from_the_command_line(service: Server, trained: str, tmp_path: Path) -> None:
    def ask(*arguments: str | Path) -> str:
        done = command(*arguments, TRAINYARD_URL=service.url)
        assert done.returncode == 0, done.stderr
        return done.stdout

    (changes := tmp_path / "changes.json").write_text('{"name": "longer"}')
    job_id = ask("fork", trained, "--more-epochs", "1", "--changes", changes, "optimiser.learning_rate=0.002", "callbacks=null", "--no-wait").strip()
    job = User(service.url).get(f"/v1/jobs/{job_id}")
    assert job["name"] == "longer" and job["spec"]["optimiser"]["learning_rate"] == 0.002 and job["parent"] == trained
    assert ask("publish", "by-hand", trained) == f"by-hand answers with {trained}, checkpoint last\n"
    assert trained in ask("models") and trained in ask("models", "by-hand")
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([{"pixels": [0.0] * 64}]))
    assert ask("predict", "by-hand", rows) == ask("predict", trained, rows)
    saved = ask("download", "by-hand", tmp_path, "--format", "npz")
    assert saved == f"{tmp_path}/by-hand.npz\n" and Path(saved.strip()).read_bytes() == Path(
        ask("download", trained, tmp_path, "--format", "npz").strip()).read_bytes()
    ask("unpublish", "by-hand")
    done = command("download", "by-hand", TRAINYARD_URL=service.url)
    assert done.returncode == 2 and "no model by-hand" in done.stderr
    done = command("fork", trained, "more", TRAINYARD_URL=service.url)
    assert done.returncode == 2 and "PART=VALUE" in done.stderr
