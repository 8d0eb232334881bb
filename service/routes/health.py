"""Whether the service lives, may be asked, what it is and what it takes."""

from __future__ import annotations

import platform
import shutil
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response

from service import devices, heartbeat
from service.errors import ServiceError
from service.routes import metering
from service.routes.api import Api, Closed, Here, in_thread
from service.routes.problems import documented
from service.routes.render import Answer, Json, present
from service.store.tables import SCHEMA

STORE_SECONDS = 3.0         # for the store to take a write
FRESH_SECONDS = 0.5         # for which an answer about it is given again
router = APIRouter(route_class=Closed, tags=["service"])
LIMITS = ("max_spec_bytes", "max_inline_bytes", "max_upload_bytes", "max_uploads", "max_upload_parts", "max_images", "max_predict_bytes",
          "max_predict_rows", "max_predict_numbers", "max_gradient_numbers", "max_parameters", "max_memory_bytes", "max_queued", "max_streams",
          "max_metadata_pairs", "max_metadata_key", "max_metadata_value", "max_queued_per_token", "max_running_per_token",
          "max_storage_bytes_per_token", "max_streams_per_token", "max_uploads_per_token", "max_requests_per_minute", "max_audit_rows")


@router.get("/healthz", responses=documented())
async def get_health() -> Response:
    """The process is alive."""
    return Answer({"status": "ok"})


@router.get("/readyz", responses=documented(503))
async def get_readiness(api: Here) -> Response:
    """The store can be written, a worker is awake, here or on another machine, and there is room on the disk."""
    checks = await in_thread(readiness, api)
    failed = [said for said in checks.values() if said != "ok"]
    if failed:
        raise ServiceError(503, "unavailable", "; ".join(failed), headers={"Retry-After": "2"}, checks=checks)
    return Answer({"status": "ok", "checks": checks})


def readiness(api: Api) -> dict[str, str]:
    """What is checked and "ok", or what is wrong."""
    store = _probe.ask(api)
    return {"store": store, "worker": _worker(api, store == "ok"), "disk": _disk(api)}


class Probe:
    """Whether the store takes a durable write: one try at a time, whoever asks, and nobody waits for long."""

    def __init__(self):
        self.thread, self.turn = ThreadPoolExecutor(1, "ready"), threading.Lock()
        self.trying: Future[str] | None = None
        self.found, self.found_at = "", 0.0

    def ask(self, api: Api) -> str:
        with self.turn:
            if self.trying is None or self.trying.done():
                if time.monotonic() - self.found_at < FRESH_SECONDS:
                    return self.found
                self.trying = self.thread.submit(self._try, api)
            trying = self.trying
        try:
            return trying.result(STORE_SECONDS)
        except TimeoutError:
            return f"the store has taken no write for {STORE_SECONDS:g} seconds: another process holds it, or the disk hangs"

    def _try(self, api: Api) -> str:
        try:
            api.store.check_writable()
            found = "ok"
        except ServiceError as error:
            found = error.detail
        except (SQLAlchemyError, OSError) as error:
            found = f"the store cannot be written: {getattr(error, 'orig', None) or error}"
        self.found, self.found_at = found, time.monotonic()
        return found


_probe = Probe()


def _worker(api: Api, asking: bool) -> str:
    """A worker that could take a job up, or does one, and has lately said that it is there: here, or `asking` the store, on any machine."""
    hearts, seconds = heartbeat.hearts(api.wake.folder).values(), api.settings.lease_seconds
    if any(heart.is_awake(seconds) for heart in hearts) or (asking and api.store.workers()):
        return "ok"
    if not hearts:
        return "no worker is ready: none runs, here or on another machine"
    least = min(heart.silence for heart in hearts)
    return "no worker is ready: " + ("they are starting" if least <= seconds else f"none has said that it is there for {least:.0f} seconds")


def _disk(api: Api) -> str:
    try:
        free, least = shutil.disk_usage(api.settings.home).free, api.settings.disk_watermark_bytes
    except OSError as error:
        return f"the home folder cannot be read: {error.strerror}"
    return "ok" if free >= least else f"{free:,} bytes are free on the disk, fewer than {least:,}"


@router.get("/version", responses=documented())
async def get_version(api: Here) -> Response:
    """What runs here."""
    gpus = (await in_thread(_found, api)).gpus
    return Answer({**VERSIONS, "devices": ["cpu", "cuda"] if gpus else ["cpu"]})


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


_version = _installed("trainyard") or "0.1.0"
VERSIONS: Json = present(version=_version, api="v1", schema=SCHEMA, engine=_version, numba=_installed("numba"), numpy=_installed("numpy"),
                         python=platform.python_version())


@router.get("/v1/limits", responses=documented())
async def get_limits(api: Here) -> Response:
    """The most that this service takes."""
    return Answer({"object": "limits", **await in_thread(limits, api)})


def limits(api: Api) -> dict[str, Any]:
    settings = api.settings
    return {**{name.removeprefix("max_"): getattr(settings, name) for name in LIMITS}, "json_depth": 32, "idempotency_seconds": 24 * 3600,
            "audit_seconds": settings.audit_seconds,
            "devices": {"cpu": {"workers": settings.workers, "threads": settings.threads}, "cuda": _gpus(api)}}


def _found(api: Api) -> devices.Devices:
    return devices.anywhere(api.wake.folder, api.store.gpus())


def _gpus(api: Api) -> Json:
    """The GPUs that train, a job each at a time, or why there is none."""
    found = _found(api)
    return {"gpus": list(found.gpus), **({"reason": found.reason} if found.reason else {})}


@router.get("/metrics", responses={200: {"description": "Prometheus text format", "content": {"text/plain": {"schema": {"type": "string"}}}},
                                   **documented()})
async def get_exposition(api: Here) -> Response:
    """Numbers for Prometheus."""
    return Response(await in_thread(metering.exposition, api), media_type=CONTENT_TYPE_LATEST)
