"""The README tells the truth: its commands stand there exactly, and its blocks run against a real service."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from service.settings import describe
from tests.serving import ROOT, Server

README = (ROOT / "README.md").read_text()
SET_UP = ("    python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/trainyard quickstart",
          "    python3 -m venv .venv && .venv/bin/pip install '.[test]' && .venv/bin/pytest")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def port(service: Server) -> str:
    return service.port


@pytest.mark.parametrize("command", SET_UP)
def test_a_set_up_command_is_a_line_of_its_own(command: str) -> None:
    assert README.splitlines().count(command) == 1


def test_the_curl_session_trains_and_predicts(port: str, tmp_path: Path) -> None:
    session = "set -e\n" + "".join(blocks("sh")).replace("localhost:8000", f"localhost:{port}")
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}       # the python3 that has the packages of the tests
    done = subprocess.run(["bash", "-c", session], cwd=tmp_path, env={**os.environ, **path}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Trained 40 epochs" in done.stdout
    assert '"status":"succeeded"' in done.stdout
    assert '"object":"prediction"' in done.stdout
    assert "epoch,step," in done.stdout
    assert (tmp_path / "passengers.safetensors").stat().st_size > 500
    assert "['sex=female', 'sex=male', 'age', 'age is missing', 'fare']" in done.stdout


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_a_python_block_runs(number: int, port: str, tmp_path: Path) -> None:
    block = blocks("python")[number].replace("localhost:8000", f"localhost:{port}")
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0, done.stderr
    if "Refused" in block:
        assert "/model/kind: no layer is called 'dens' (did you mean dense?)" in done.stdout


def test_the_settings_it_names_exist() -> None:
    known = {row["name"] for row in describe()} | {"TRAINYARD_CACHE"}
    assert set(re.findall(r"TRAINYARD_[A-Z_]+", README)) <= known


def test_the_files_it_names_exist() -> None:
    named = set(re.findall(r"(?:docker|service|tests|engine)/[\w./]+", README))
    assert not [name for name in named if not (ROOT / name.rstrip(".")).exists()]
