"""Every setting of the service: an environment variable `TRAINYARD_<NAME>` each, listed by `trainyard settings`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

GB, MB = 10**9, 10**6


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="TRAINYARD_", frozen=True, extra="ignore")

    home: Path = Field(default=Path("~/.trainyard"), description="folder of the store, datasets and checkpoints")
    store: str = Field(default="", description="database URL; empty: SQLite in the home folder")
    host: str = Field(default="127.0.0.1", description="address to listen on; beyond loopback a token is required")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    url: str = Field(default="http://127.0.0.1:8000", description="the service that the command line talks to")
    token: str = Field(default="", repr=False, description="bearer token; empty: none on loopback, generated and printed once elsewhere")
    workers: int = Field(default=1, ge=0, description="jobs trained at the same time, a process each")
    gpus: str = Field(default="all", pattern=r"^(all|none|\d+( *, *\d+)*)$", description="GPUs that train, each a job at a time beside those of "
                      "the workers: all, none, or their numbers, such as 0,2")
    threads: int = Field(default_factory=lambda: len(os.sched_getaffinity(0)), ge=1, description="threads of all workers together")

    lease_seconds: float = Field(default=15, gt=0, description="a worker unheard of for so long loses its job")
    renew_seconds: float = Field(default=5, gt=0, description="how often the supervisor renews leases")
    stalled_seconds: float = Field(default=300, gt=0, description="a trainer without a finished step for so long is replaced")
    drain_seconds: float = Field(default=30, gt=0, description="time for running jobs to write a checkpoint at shutdown")
    stop_seconds: float = Field(default=10, gt=0, description="time for the API to finish its answers at shutdown")
    tidy_seconds: float = Field(default=60, gt=0, description="how often what is not to be kept any longer is removed")
    cancel_seconds: float = Field(default=30, gt=0, description="a trainer that ignores a cancel for so long is killed")

    max_spec_bytes: int = Field(default=1 * MB, gt=0, description="largest job spec without inline data")
    max_inline_bytes: int = Field(default=16 * MB, gt=0, description="largest inline data of a job or dataset")
    max_upload_bytes: int = Field(default=10 * GB, gt=0, description="largest upload, also after decompression")
    max_uploads: int = Field(default=256, gt=0, description="most uploads in parts on their way at once")
    max_upload_parts: int = Field(default=10_000, gt=0, description="most parts of an upload")
    upload_seconds: float = Field(default=24 * 3600, gt=0, description="an upload in parts that nothing comes for in so long is given up")
    max_images: int = Field(default=100_000, gt=0, description="most images in an archive")
    max_predict_bytes: int = Field(default=16 * MB, gt=0, description="largest body of a prediction")
    max_predict_rows: int = Field(default=10_000, gt=0, description="most rows of one prediction")
    max_predict_numbers: int = Field(default=5_000_000, gt=0, description="most numbers in the JSON of a dataset's predictions; CSV has no end")
    max_gradient_numbers: int = Field(default=100_000, gt=0, description="most numbers in one gradients request")
    max_parameters: int = Field(default=1_000_000_000, gt=0, description="most parameters of a model")
    max_memory_bytes: int = Field(default=16 * GB, gt=0, description="most memory of one training run, estimated before it starts")
    max_queued: int = Field(default=10_000, gt=0, description="most jobs waiting at once")
    max_streams: int = Field(default=1_000, gt=0, description="most open event streams")
    max_queued_per_token: int = Field(default=1_000, gt=0, description="most jobs of one token waiting at once")
    max_running_per_token: int = Field(default=64, gt=0, description="most jobs of one token trained at once")
    max_storage_bytes_per_token: int = Field(default=100 * GB, gt=0, description="most bytes of datasets and checkpoints of one token")
    max_uploads_per_token: int = Field(default=32, gt=0, description="most uploads in parts of one token on their way at once")
    max_streams_per_token: int = Field(default=100, gt=0, description="most open event streams of one token")
    max_requests_per_minute: int = Field(default=6_000, gt=0, description="most requests of one token in a minute")
    max_refusals_per_minute: int = Field(default=60, gt=0, description="most requests with a wrong token, or none, from one address in a minute")
    max_metadata_pairs: int = Field(default=16, gt=0, description="most metadata pairs of a job")
    max_metadata_key: int = Field(default=64, gt=0, description="longest metadata key, in characters")
    max_metadata_value: int = Field(default=512, gt=0, description="longest metadata value, in characters")
    head_seconds: float = Field(default=20, gt=0, description="time for the head of a request to come")
    body_seconds: float = Field(default=30, gt=0, description="waiting for a body, after which it has to come at 10 kB a second")
    audit_seconds: float = Field(default=90 * 86_400, gt=0, description="how long the audit keeps who changed what")
    max_audit_rows: int = Field(default=100_000, gt=0, description="most rows of the audit; older ones are dropped")
    log_format: Literal["plain", "json"] = Field(default="plain", description="lines of the log on stderr: plain, or json for machines")
    log_level: Literal["", "debug", "info", "warning", "error"] = Field(default="", description="empty: warning, for json info, with each request")
    webhook_allow: str = Field(default="", description="hosts that webhooks may go to, over https, separated by commas; empty: every public one. "
                               "127.0.0.1:9000 adds a place on this machine, http too; HOST:PORT may also be private")
    webhook_seconds: float = Field(default=15, gt=0, description="time for a receiver of a webhook to answer")
    webhook_retries: str = Field(default="5,300,1800,7200,18000,36000,50400,72000,86400",
                                 description="seconds before each further try of a webhook, about")
    disk_watermark_bytes: int = Field(default=1 * GB, ge=0, description="below so much free disk the service is not ready")

    @field_validator("webhook_retries")
    @classmethod
    def _pauses(cls, retries: str) -> str:
        if any(not word.strip().replace(".", "", 1).isdigit() for word in retries.split(",") if word.strip()):
            raise ValueError("write seconds, separated by commas")
        return retries

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @property
    def store_url(self) -> str:
        """The database URL."""
        return self.store or f"sqlite:///{self.home / 'trainyard.db'}"


def describe() -> list[dict[str, str]]:
    """Every setting: its variable, its default as text, and what it is for."""
    fields = Settings.model_fields.items()
    return [{"name": f"TRAINYARD_{name.upper()}", "default": str(field.get_default(call_default_factory=True)), "description": str(field.description)}
            for name, field in fields]
