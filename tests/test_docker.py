"""The files of the images say what they are meant to; `test_image.py` builds and runs the one for the CPU."""

from __future__ import annotations

import re
import tomllib

import pytest
from typer.testing import CliRunner

from engine.devices.cuda import probe
from engine.devices.cuda.build import ARCHITECTURES
from service.cli import app
from tests.serving import ROOT

yaml = pytest.importorskip("yaml")
DOCKER = ROOT / "docker"


def steps(name: str) -> list[str]:
    """The lines of a Dockerfile that do something."""
    return [line for line in (DOCKER / name).read_text().splitlines() if not line.startswith("#")]


def test_the_image_for_gpus_is_the_other_one_with_their_packages_and_kernels() -> None:
    plain, cuda = steps("Dockerfile"), steps("Dockerfile.cuda")
    assert [line for line in cuda if line not in plain] == [
        "    NUMBA_CPU_FEATURES=+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+movbe \\", "    NVIDIA_VISIBLE_DEVICES=all \\",
        "    NVIDIA_DRIVER_CAPABILITIES=compute,utility", "    && pip install --no-cache-dir '.[cuda]' \\", "RUN trainyard warm --cuda"]
    assert [line for line in plain if line not in cuda] == [
        "    NUMBA_CPU_FEATURES=+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+movbe", "    && pip install --no-cache-dir . \\", "RUN trainyard warm"]


def test_the_image_for_gpus_says_which_it_has_kernels_for() -> None:
    text = " ".join((DOCKER / "Dockerfile.cuda").read_text().replace("# ", "").split())
    *first, last = [str(arch / 10) for arch in ARCHITECTURES]
    assert f"compute capability {', '.join(first)} and {last}" in text


def test_the_packages_for_gpus_are_those_that_the_probe_asks_for() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra, told in (("cuda", probe.INSTALL), ("cuda12", probe.INSTALL_12)):
        assert f"[{extra}]" in told
        named = {re.match(r"[\w-]+", requirement).group() for requirement in extras[extra]}       # type: ignore[union-attr]
        assert all(any(name in named for name in names) for names in probe.PACKAGES)
    assert all("==13.0.*" in requirement for requirement in extras["cuda"] if requirement.startswith(("cuda-toolkit", "nvidia-")))


def test_compose_gives_the_gpus_to_a_service_that_is_else_the_same() -> None:
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    gpu, plain = services["gpu"], services["trainyard"]
    assert {name for name in gpu if gpu[name] != plain.get(name)} == {"profiles", "build", "image", "deploy"}
    assert gpu["deploy"]["resources"]["reservations"]["devices"] == [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
    assert gpu["profiles"] == ["gpu"] and gpu["build"]["dockerfile"] == "docker/Dockerfile.cuda" and (ROOT / gpu["build"]["dockerfile"]).exists()


def test_warm_compiles_for_gpus_where_it_is_asked_to() -> None:
    assert "--cuda" in CliRunner().invoke(app, ["warm", "--help"], env={"COLUMNS": "150"}).output
