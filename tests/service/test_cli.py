"""The command line as a person types it, against a real service. Where a test is about the process, it starts one."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from engine.kernels import library
from service.settings import describe
from tests.homes import fresh
from tests.service.running import until
from tests.serving import ROOT, TRAINYARD, Server, command, serving, trainyard

JOB: dict[str, Any] = {
    "name": "small", "model": {"kind": "chain", "layers": [{"kind": "dense", "units": 8, "activation": "relu"}, {"kind": "dense", "units": 2}]},
    "loss": "logit_cross_entropy", "optimiser": "adam", "epochs": 3, "data": {"target": "kind"}}
COMMANDS = ["serve", "worker", "submit", "watch", "jobs", "cancel", "pause", "resume", "adjust", "predict", "download", "upload", "get", "show",
            "export", "webhooks", "warm", "settings", "quickstart", "token"]
TABLE = "size,kind\n" + "".join(f"{i},{'large' if i > 20 else 'small'}\n" for i in range(40))


@pytest.fixture
def url(service: Server) -> str:
    return service.url


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with `job.json` and `table.csv`."""
    (tmp_path / "job.json").write_text(json.dumps(JOB))
    (tmp_path / "table.csv").write_text(TABLE)
    return tmp_path


@pytest.fixture
def ask(url: str):
    return lambda *arguments, **variables: command(*arguments, TRAINYARD_URL=url, **variables)


def test_help_names_every_command_and_loads_nothing_heavy() -> None:
    program = ("import atexit, sys\nfrom service.cli import app\nheavy = {'numba', 'numpy', 'httpx', 'pydantic', 'fastapi', 'rich'}\n"
               "atexit.register(lambda: print('LOADED', *heavy & sys.modules.keys()))\napp(['--help'])")
    done = subprocess.run([TRAINYARD[0], "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert not [command for command in COMMANDS if f"\n  {command} " not in done.stdout]
    assert done.stdout.splitlines()[-1] == "LOADED"


def test_submit_uploads_follows_and_succeeds(url: str, files: Path) -> None:
    done = trainyard("submit", files / "job.json", "--data", files / "table.csv", TRAINYARD_URL=url)
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("epoch")] == ["1/3", "2/3", "3/3"]
    assert "Trained 3 epochs" in done.stderr


def test_a_job_may_be_saved_by_an_editor_that_marks_its_files(ask, files: Path) -> None:
    (files / "job.json").write_text(json.dumps(JOB), "utf-8-sig")
    assert ask("submit", files / "job.json", "--data", files / "table.csv", "--no-wait").returncode == 0
    (files / "job.json").write_text(json.dumps(JOB), "utf-16")
    done = ask("submit", files / "job.json", "--data", files / "table.csv")
    assert done.returncode == 2 and "job.json is not JSON: no text in UTF-8" in done.stderr


def test_submit_as_json_prints_the_job_and_nothing_else(ask, files: Path) -> None:
    done = ask("submit", files / "job.json", "--data", files / "table.csv", "--json")
    assert json.loads(done.stdout)["status"] == "succeeded"
    queued = ask("submit", files / "job.json", "--data", files / "table.csv", "--json", "--no-wait")
    assert json.loads(queued.stdout)["status"] == "queued"


def test_a_job_that_fails_exits_with_one(ask, files: Path) -> None:
    (files / "job.json").write_text(json.dumps({**JOB, "limits": {"max_steps": 1}}))
    done = ask("submit", files / "job.json", "--data", files / "table.csv")
    assert done.returncode == 1 and "step" in done.stderr


def test_every_problem_of_a_job_is_a_line(ask, files: Path) -> None:
    (files / "job.json").write_text(json.dumps({**JOB, "optimiser": "adamm", "data": {"dataset": "sample:digits", "target": "lable"}, "lr": 1}))
    done = ask("submit", files / "job.json")
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert lines[0] == "The job cannot be run as written:"
    assert "/optimiser: no optimiser is called 'adamm' (did you mean adam?)" in lines
    assert any(line.startswith("/lr: ") for line in lines)


@pytest.mark.parametrize(("arguments", "code", "told"), [
    (["submit", "missing.json"], 2, "missing.json: No such file"),
    (["watch", "job_nowhere"], 2, "there is no job job_nowhere"),
    (["jobs", "--url", "http://127.0.0.1:1"], 3, "start one with `trainyard serve`"),
    (["jobs", "--url", "127.0.0.1:1"], 3, "no service answers at http://127.0.0.1:1"),
    (["submitt"], 2, "Did you mean submit?"),
    (["xyzzy"], 2, "No such command 'xyzzy'."),
    (["jobs", "--status", "runing"], 2, "did you mean running?"),
])
def test_what_is_wrong_is_told_with_its_exit_code(ask, arguments: list[str], code: int, told: str) -> None:
    done = ask(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert told in done.stderr and "Traceback" not in done.stderr


def test_a_model_is_used_and_saved(ask, files: Path) -> None:
    dataset = json.loads(ask("upload", files / "table.csv", "--json").stdout)
    (files / "job.json").write_text(json.dumps({**JOB, "epochs": 200, "data": {"dataset": dataset["id"], "target": "kind"}}))
    job = json.loads(ask("submit", files / "job.json", "--json").stdout)["id"]
    (files / "new.csv").write_text("size\n1\n39\n")
    (files / "new.json").write_text('[{"size": 1}, {"size": 39}]')
    for form in ("new.csv", "new.json"):
        lines = ask("predict", job, files / form).stdout.splitlines()
        assert lines[0] == "class,probability" and [line.split(",")[0] for line in lines[1:]] == ["small", "large"]
    assert len(json.loads(ask("predict", job, dataset["id"], "--json").stdout)["classes"]) == 40
    saved = Path(ask("download", job, files).stdout.strip())
    assert saved.parent == files and saved.stat().st_size > 500
    listed = ask("jobs").stdout.splitlines()
    assert listed[0].startswith("ID") and any(line.startswith(job) and "succeeded  200/200" in line for line in listed)


def test_an_upload_shows_its_columns(ask, files: Path) -> None:
    done = ask("upload", files / "table.csv", "--types", "size:category")
    assert "40 rows" in done.stdout and "size    category" in done.stdout


def test_a_job_is_paused_changed_and_resumed(ask, files: Path) -> None:
    (files / "job.json").write_text(json.dumps({**JOB, "epochs": 1_000_000}))
    job = ask("submit", files / "job.json", "--data", files / "table.csv", "--no-wait").stdout.strip()
    until(lambda: " is paused, " in ask("pause", job).stdout)
    changed = ask("adjust", job, "learning_rate=0.01", "freeze=layers.0.bias", "freeze=layers.1.bias", "name=12", 'metadata={"by": "hand"}', "--json")
    assert changed.returncode == 0, changed.stderr
    found = json.loads(changed.stdout)
    assert found["adjustments"][0]["changes"] == {"learning_rate": 0.01, "freeze": ["layers.0.bias", "layers.1.bias"]}
    assert (found["name"], found["metadata"]) == ("12", {"by": "hand"})
    wrong = ask("adjust", job, "lerning_rate=1", "epochs=0")
    assert wrong.returncode == 2 and all(told in wrong.stderr for told in ("/lerning_rate: ", "(did you mean learning_rate?)", "/epochs: "))
    assert "write NAME=VALUE" in ask("adjust", job, "epochs").stderr
    until(lambda: ask("resume", job).returncode == 0)
    assert ask("cancel", job).stdout.startswith(f"{job} is cancel")


def test_ctrl_c_detaches_and_the_job_goes_on(ask, url: str, files: Path) -> None:
    (files / "job.json").write_text(json.dumps({**JOB, "epochs": 1_000_000}))
    command = [*TRAINYARD, "submit", str(files / "job.json"), "--data", str(files / "table.csv")]
    environment = {**os.environ, "TRAINYARD_URL": url}
    following = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert following.stdout is not None
    next(line for line in following.stdout if line.startswith("epoch"))
    following.send_signal(signal.SIGINT)
    _, told = following.communicate(timeout=60)
    assert following.returncode == 130
    job = told[told.index("trainyard watch ") + 16:].split()[0]
    assert json.loads(ask("jobs", "--status", "running", "--json").stdout)[0]["id"] == job
    assert ask("cancel", job).returncode == 0
    watched = ask("watch", job, "--json")
    assert watched.returncode == 1
    assert json.loads(watched.stdout.splitlines()[-1])["type"] == "job.cancelled"


def test_a_bar_moves_on_a_terminal(url: str, files: Path) -> None:
    command = " ".join([*TRAINYARD, "submit", str(files / "job.json"), "--data", str(files / "table.csv")])
    done = subprocess.run(["script", "-qec", command, "/dev/null"], cwd=ROOT, env={**os.environ, "TRAINYARD_URL": url, "COLUMNS": "150"},
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "100%" in done.stdout and "train_loss" in done.stdout and "samples/s" in done.stdout


def test_get_answers_without_a_server(tmp_path: Path) -> None:
    done = command("get", "/v1/jobs?status=queued", "--home", tmp_path)
    assert json.loads(done.stdout) == {"object": "list", "data": [], "has_more": False}
    missing = command("get", "/v1/jobs/job_x", "--home", tmp_path)
    assert missing.returncode == 2 and json.loads(missing.stdout)["code"] == "not_found"


def test_get_needs_no_token_even_where_one_is_set(tmp_path: Path) -> None:
    assert trainyard("get", "/v1/limits", "--home", tmp_path, TRAINYARD_TOKEN="secret", TRAINYARD_HOST="0.0.0.0").returncode == 0


@pytest.mark.parametrize(("view", "told"), [("graph", "gradient of layers.0.weight -> %"), ("plan", "rule_adam"), ("source", "@cfunc(SIGNATURE")])
def test_show_tells_what_a_job_becomes(files: Path, view: str, told: str) -> None:
    (files / "job.json").write_text(json.dumps({**JOB, "data": {"dataset": {"columns": {"x": [[1.0], [2.0]], "kind": [0, 1]}}, "target": "kind"}}))
    done = command("show", files / "job.json", "--as", view)
    assert done.returncode == 0 and told in done.stdout


def test_show_names_what_is_wrong_with_a_job(files: Path) -> None:
    (files / "job.json").write_text(json.dumps({**JOB, "optimiser": "adamm", "data": {"dataset": "sample:digits", "target": "label"}}))
    done = command("show", files / "job.json")
    assert (done.returncode, done.stderr) == (2, "/optimiser: no optimiser is called 'adamm' (did you mean adam?)\n")


def test_show_says_how_to_name_data_that_a_job_leaves_open() -> None:
    done = command("show", "sample:adult")
    assert done.returncode == 2 and "$train, $test" in done.stderr and "trainyard upload" in done.stderr


def test_settings_lists_every_setting_and_no_secret() -> None:
    done = command("settings", TRAINYARD_PORT="8123", TRAINYARD_TOKEN="secret")
    rows = {line.split()[0]: line for line in done.stdout.splitlines()[1:]}
    assert rows.keys() == {row["name"] for row in describe()}
    assert "8123" in rows["TRAINYARD_PORT"] and "secret" not in done.stdout
    assert rows["TRAINYARD_MAX_QUEUED_PER_TOKEN"].split()[1] == "1000"
    wrong = command("settings", TRAINYARD_PORT="eight")
    assert wrong.returncode == 2 and "TRAINYARD_PORT" in wrong.stderr


def test_a_new_token_opens_the_service(tmp_path: Path) -> None:
    token = command("token", "new", "--home", tmp_path / "home").stdout.strip()
    with serving(fresh(tmp_path / "home"), host="0.0.0.0", workers=0) as server:
        url = f"http://127.0.0.1:{server.port}"
        assert command("token", "check", "--url", url, "--token", token).returncode == 0
        refused = command("jobs", "--url", url, "--token", "wrong")
    assert refused.returncode == 2 and "Authorization: Bearer TOKEN" in refused.stderr


def test_quickstart_trains_digits_and_says_how_to_go_on(tmp_path: Path) -> None:
    done = trainyard("quickstart", "--home", tmp_path / "home")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("epoch")] == [f"{i}/20" for i in range(1, 21)]
    assert any("curl" in line and "/predict" in line for line in lines)
    name, _, value = lines[-1].rpartition(" ")
    assert name == "validation accuracy" and float(value) >= 0.97


def test_warm_compiles_into_the_cache_folder(tmp_path: Path) -> None:
    """One kernel only: the whole library takes a minute."""
    program = ("from service.cli import warm\nfrom engine.kernels import library\n"
               "if __name__ == '__main__':\n    print(*warm.compiled([('relu', 'float32')]), warm.build('relu', 'float32'), library.folder())")
    (tmp_path / "one.py").write_text(program)
    done = subprocess.run([TRAINYARD[0], str(tmp_path / "one.py")], cwd=ROOT, capture_output=True, text=True, timeout=120,
                          env={**os.environ, "TRAINYARD_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "cache").glob("kernels-*/__pycache__/relu_float32*.nbc"))
    assert done.stdout.startswith("('relu', True) ('relu', False) ")


@pytest.mark.parametrize("terminal", [True, False])
def test_warm_shows_how_far_it_is_on_a_terminal_and_else_says_one_line_in_the_end(terminal: bool, tmp_path: Path) -> None:
    """Of two kernels, in one process; they are compiled already where any test has run before."""
    program = ("from service.cli import warm\nfrom engine.kernels import library\n"
               "if __name__ == '__main__':\n    warm.kernels = lambda names, types: [('relu', 'float32'), ('tanh', 'float32')]\n"
               "    warm.compiled = lambda wanted: (warm.build(*one) for one in wanted)\n"
               "    warm.warm(warm.Type.float32, False, False)")
    (tmp_path / "two.py").write_text(program)
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "150"}
    line = rf"2 kernels are ready in {re.escape(str(library.folder()))}; (none|1|2) of them had to be compiled\r?\n"
    with subprocess.Popen([TRAINYARD[0], tmp_path / "two.py"], cwd=ROOT, env=environment, stdout=theirs if terminal else subprocess.PIPE,
                          stderr=theirs) as process:
        os.close(theirs)
        shown = b"".join(iter(partial(_piece, ours), b"")).decode()
        os.close(ours)
        if terminal:
            assert re.search(f"{line}$", shown) and "compiling the loop that runs them" in shown
            assert all(re.search(rf"compiling kernels.*{n}/2", shown) for n in (0, 2))
        else:
            assert process.stdout is not None and re.fullmatch(line, process.stdout.read().decode()) and shown == ""
    assert process.returncode == 0


def _piece(file: int) -> bytes:
    """Some of what was written to a terminal; nothing after its end."""
    with suppress(OSError):
        return os.read(file, 65536)
    return b""
