"""The Docker image, built and run for real with buildah and podman, and trained through from outside.

The base image is made from Debian packages where no registry is reached: it proves the Dockerfile, not the official base image.
"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.cli.quickstart import JOB
from service.client import Client
from tests.serving import ROOT

TOOLS = ("buildah", "podman", "runc", "debootstrap", "iptables")
BASE, IMAGE, TOKEN = "docker.io/library/python:3.12-slim", "localhost/trainyard:test", "a-token-for-tests"
CONTAINERS = '''[containers]
default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
'''
missing = [tool for tool in TOOLS if shutil.which(tool) is None]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800),
              pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}"),
              pytest.mark.skipif(os.geteuid() != 0, reason="building images here needs root")]


def sh(*command: str | Path, env: dict[str, str] | None = None, **options) -> str:
    """Run a command that must succeed; what it printed."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env={**os.environ, **(env or {})}, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def make_base(folder: Path) -> None:
    """An image under the official name with Debian's Python in it."""
    if subprocess.run(["buildah", "inspect", "--type", "image", BASE], capture_output=True).returncode == 0:
        return
    root = folder / "base"
    sh("debootstrap", "--variant=minbase", "--include=ca-certificates,python3,python3-pip,python3-venv,curl", "bookworm", root)
    for file in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        file.unlink()
    (root / "usr/bin/python").symlink_to("python3")
    shutil.rmtree(root / "var/cache/apt", ignore_errors=True)
    container = sh("buildah", "from", "scratch").strip()
    sh("buildah", "add", container, root, "/")
    sh("buildah", "config", "--cmd", "python3", container)
    sh("buildah", "commit", "--rm", container, BASE)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Built from this tree; or one that is there already, named by TEST_IMAGE."""
    if given := os.environ.get("TEST_IMAGE"):
        return given
    folder = tmp_path_factory.mktemp("image")
    make_base(folder)
    certificates = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt"
    (folder / "pip.conf").write_text(f"[global]\ncert = {certificates}\n")
    mounts = ["-v", f"{certificates}:{certificates}:ro", "-v", f"{folder / 'pip.conf'}:/etc/pip.conf:ro"]
    sh("buildah", "bud", "--isolation", "chroot", "--network", "host", "--pull-never", "--layers", "--format", "docker", *mounts,
       "-f", "docker/Dockerfile", "-t", IMAGE, ".", cwd=ROOT)
    return IMAGE


class Container:
    """A running image on a free port, with a volume."""

    def __init__(self, image: str, volume: str, config: Path):
        self.config, self.volume = config, volume
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        began = time.monotonic()
        port = self.url.rpartition(":")[2]
        self.id = self.podman("run", "--detach", "-p", f"127.0.0.1:{port}:8000", "-e", f"TRAINYARD_TOKEN={TOKEN}", "-v", f"{volume}:/data",
                              "--cap-drop", "all", "--memory", "1g", image).strip()
        self.client = Client(self.url, TOKEN, patience=60)
        self.client.connection.known = True     # it is starting: give it time
        self.client.connection.json("GET", "/readyz")
        self.seconds_to_ready = time.monotonic() - began

    def podman(self, *arguments: str) -> str:
        return sh("podman", *arguments, env={"CONTAINERS_CONF": str(self.config)})

    def inside(self, command: str) -> str:
        return self.podman("exec", self.id, "sh", "-c", command).strip()

    def stop(self) -> float:
        """Seconds that it took."""
        self.client.close()
        began = time.monotonic()
        self.podman("stop", "--time", "45", self.id)
        return time.monotonic() - began

    def remove(self) -> None:
        self.podman("rm", "--force", self.id)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("podman") / "containers.conf"
    path.write_text(CONTAINERS)
    return path


@pytest.fixture
def volume(config: Path) -> Iterator[str]:
    environment = {"CONTAINERS_CONF": str(config)}
    name = sh("podman", "volume", "create", env=environment).strip()
    yield name
    sh("podman", "volume", "rm", "--force", name, env=environment)


def test_a_container_trains_without_compiling_and_keeps_its_jobs(image: str, volume: str, config: Path) -> None:
    first = Container(image, volume, config)
    try:
        job = first.client.wait(first.client.submit(JOB).id)
        assert job.succeeded and job.metrics["valid_accuracy"] > 0.95
        assert first.client.evaluate(job.id, split="validation").rows == 359
        changed = [line for line in first.podman("diff", first.id).splitlines() if line.endswith((".nbi", ".nbc"))]
        first.podman("healthcheck", "run", first.id)
        print(f"ready after {first.seconds_to_ready:.1f} s; {len(changed)} kernels compiled in the container; "
              f"accuracy {job.metrics['valid_accuracy']:.4f}; stopped in {first.stop():.1f} s")
        assert not changed
        assert first.podman("inspect", "--format", "{{.State.ExitCode}}", first.id).strip() == "0"
    finally:
        first.remove()
    second = Container(image, volume, config)
    try:
        assert second.client.job(job.id).succeeded
        assert len(second.client.predict(job.id, dataset="sample:digits").classes) == 1797
    finally:
        second.remove()


def test_the_image_holds_little_and_runs_as_nobody_special(image: str, volume: str, config: Path) -> None:
    container = Container(image, volume, config)
    try:
        assert container.inside("id -u") == "10001"
        assert container.inside("for tool in gcc cc ld make /opt/trainyard/bin/pip; do command -v $tool; done; true") == ""
        assert container.inside("find / -xdev -path '*/.cache/pip*' 2>/dev/null; true") == ""
        assert container.inside("ls -A /opt/kernels") != ""
        print(f"image: {int(container.podman('image', 'inspect', '--format', '{{.Size}}', image)) / 1e6:.0f} MB")
    finally:
        container.remove()


def test_without_the_token_nobody_is_answered(image: str, volume: str, config: Path) -> None:
    container = Container(image, volume, config)
    try:
        status = sh("curl", "-s", "-o", os.devnull, "-w", "%{http_code}", f"{container.url}/v1/jobs")
        assert status == "401"
    finally:
        container.remove()


LONG = {**JOB, "epochs": 150, "callbacks": [{"kind": "checkpoint", "every_epochs": 20}]}


def last_bytes(client: Client, job_id: str) -> str:
    """SHA-256 of the job's last checkpoint."""
    return next(row["sha256"] for row in client.connection.json("GET", f"/v1/jobs/{job_id}/checkpoints")["data"] if row["last"])


def in_training(client: Client, job_id: str, epoch: int) -> None:
    while (client.job(job_id).epoch or 0) < epoch:
        time.sleep(0.05)


def test_a_stopped_container_loses_nothing(image: str, volume: str, config: Path) -> None:
    first = Container(image, volume, config)
    try:
        whole = first.client.wait(first.client.submit(LONG).id)
        assert whole.succeeded
        wanted = last_bytes(first.client, whole.id)
        cut = first.client.submit(LONG).id
        in_training(first.client, cut, 30)
        waiting = first.client.submit(JOB).id
        seconds = first.stop()
        assert first.podman("inspect", "--format", "{{.State.ExitCode}}", first.id).strip() == "0"
    finally:
        first.remove()
    second = Container(image, volume, config)
    try:
        job = second.client.wait(cut)
        reasons = [event.data["reason"] for event in second.client.watch(cut) if event.type == "job.requeued"]
        print(f"stopped while it trained in {seconds:.1f} s, resumed to the same bytes; requeued for {reasons}")
        assert job.succeeded and last_bytes(second.client, cut) == wanted and reasons == ["draining"]
        assert second.client.wait(waiting).succeeded
    finally:
        second.remove()


@pytest.mark.skipif(shutil.which("podman-compose") is None, reason="not installed: podman-compose")
def test_compose_keeps_everything_in_its_one_volume(image: str, config: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 8000)) == 0:
            pytest.skip("port 8000 is taken")
    environment = {"CONTAINERS_CONF": str(config), "TRAINYARD_TOKEN": TOKEN}
    compose = ("podman-compose", "-p", "trainyard-test", "-f", ROOT / "docker" / "compose.yaml")
    sh("podman", "tag", image, "localhost/trainyard:latest", env=environment)

    def up() -> Client:
        sh(*compose, "up", "--detach", "--no-build", env=environment)
        client = Client("http://127.0.0.1:8000", TOKEN, patience=60)
        client.connection.known = True
        client.connection.json("GET", "/readyz")
        return client

    try:
        client = up()
        cut = client.submit(LONG).id
        in_training(client, cut, 20)
        client.close()
        sh(*compose, "down", env=environment)
        volumes = sh("podman", "volume", "ls", "--quiet", env=environment).split()
        assert [name for name in volumes if name.startswith("trainyard-test")] == ["trainyard-test_data"]
        client = up()
        assert client.wait(cut).succeeded
        client.close()
    finally:
        sh(*compose, "down", "--volumes", env=environment)
