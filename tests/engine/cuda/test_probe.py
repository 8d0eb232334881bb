"""Why no GPU can be used: in words that say what to do, before anything of CUDA's packages is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.devices import choose
from engine.devices.cuda import probe
from engine.devices.cuda.runtime import open_gpu
from engine.errors import DeviceError
from tests import driver

PACKAGES = {"numba-cuda": "0.30.4", "cuda-core": "1.2.2", "cuda-bindings": "13.0.1", "nvidia-nvjitlink": "13.0.88", "nvidia-nvvm": "13.0.88",
            "nvidia-cuda-nvrtc": "13.0.88"}


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The probe asks anew, finds all packages and no toolkit of the system."""
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    installed(monkeypatch, PACKAGES)
    forget()
    yield
    forget()


def forget() -> None:
    for asked in (probe.reason, probe.devices, probe._driver_version):
        asked.cache_clear()


def installed(monkeypatch: pytest.MonkeyPatch, packages: dict[str, str]) -> None:
    monkeypatch.setattr(probe, "_version", lambda name: packages.get(name, ""))


@pytest.fixture
def null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "DRIVER", str(driver.built(tmp_path, "libnull.so")))


def test_without_a_driver_that_is_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "DRIVER", "libcuda-of-nobody.so.1")
    assert probe.reason() == "no NVIDIA driver: libcuda-of-nobody.so.1 is not there" and probe.devices() == []
    assert choose("auto") == choose("cpu") == "cpu"
    for ask in (lambda: choose("cuda"), open_gpu):
        with pytest.raises(DeviceError, match="there is no GPU to train on: no NVIDIA driver"):
            ask()


def test_a_gpu_that_can_be_used_is_chosen(null: None) -> None:
    assert probe.reason() is None
    assert probe.devices() == [probe.Gpu(0, "null", 90, 1 << 30)] and probe.chosen().index == 0
    assert choose("auto") == choose("cuda") == "cuda" and choose("cpu") == "cpu"


@pytest.mark.parametrize(("name", "value", "said"), [
    ("CUDA_VISIBLE_DEVICES", "", "no NVIDIA GPU: the driver finds none (CUDA_VISIBLE_DEVICES may hide them)"),
    ("NULL_DRIVER_CAPABILITY", "70", "null has compute capability 7.0, and 7.5 (Turing) is the least"),
    ("NULL_DRIVER_VERSION", "11040", "the NVIDIA driver is too old: it is for CUDA 11.4, and CUDA 12.0 (driver 525) is the least"),
    ("NULL_DRIVER_VERSION", "12080", "the installed packages are for CUDA 13, which needs driver 580 or later, and this driver is for CUDA 12.8: "
                             'pip install "trainyard[cuda12]"')])
def test_what_the_driver_lacks_is_told(null: None, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    monkeypatch.setenv(name, value)
    assert probe.reason() == said


@pytest.mark.parametrize(("lacking", "driver_version", "said"), [
    (list(PACKAGES), "13000", "numba-cuda and cuda-core and nvidia-nvjitlink and nvidia-nvvm and nvidia-cuda-nvrtc are not installed: "
                              'pip install "trainyard[cuda]"'),
    (list(PACKAGES), "12080", "numba-cuda and cuda-core and nvidia-nvjitlink and nvidia-nvvm and nvidia-cuda-nvrtc are not installed: "
                              'pip install "trainyard[cuda12]"'),
    (["nvidia-nvvm"], "13000", 'nvidia-nvvm is not installed: pip install "trainyard[cuda]"')])
def test_what_is_not_installed_is_told(null: None, monkeypatch: pytest.MonkeyPatch, lacking: list[str], driver_version: str, said: str) -> None:
    installed(monkeypatch, {name: version for name, version in PACKAGES.items() if name not in lacking})
    monkeypatch.setenv("NULL_DRIVER_VERSION", driver_version)
    assert probe.reason() == said


def test_a_toolkit_of_the_system_will_do(null: None, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, {name: version for name, version in PACKAGES.items() if name not in ("nvidia-nvvm", "nvidia-cuda-nvrtc")})
    monkeypatch.setenv("CUDA_HOME", "/usr/local/cuda")
    assert probe.reason() is None


def test_packages_of_cuda_12_will_do_for_any_driver(null: None, monkeypatch: pytest.MonkeyPatch) -> None:
    twelve = {"nvidia-nvjitlink-cu12": "12.9.86", "nvidia-cuda-nvcc-cu12": "12.9.86", "nvidia-cuda-nvrtc-cu12": "12.9.86"}
    installed(monkeypatch, {"numba-cuda": "0.30.4", "cuda-core": "1.2.2", "cuda-bindings": "12.9.4", **twelve})
    for version in ("12080", "13000"):
        monkeypatch.setenv("NULL_DRIVER_VERSION", version)
        forget()
        assert probe.reason() is None


def test_an_old_cuda_core_is_told(null: None, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, {**PACKAGES, "cuda-core": "0.5.1"})
    assert probe.reason() == 'cuda-core 0.5.1 is too old, and 1.0 is the least: pip install "trainyard[cuda]"'


def test_nothing_of_cuda_is_imported_to_find_out(tmp_path: Path) -> None:
    code = ("import sys, engine.train; from engine.devices import choose; choose('auto'); "
            "print([name for name in sys.modules if name.startswith(('cuda', 'numba.cuda', 'numba_cuda', 'engine.kernels.gpu'))])")
    environment = {**os.environ, **driver.environment(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
