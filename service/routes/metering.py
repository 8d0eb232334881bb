"""Numbers for Prometheus: requests as they are answered; jobs, streams and disk when somebody asks."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from starlette.types import Scope

from service import heartbeat
from service.jobs import seconds_now, seconds_of
from service.routes.api import Api

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
requests = Counter("trainyard_http_requests", "Requests answered.", ["method", "route", "status"], registry=None)
seconds = Histogram("trainyard_http_request_duration_seconds", "Time to the end of the answer; streams left out.", ["route"], registry=None,
                    buckets=BUCKETS)


def request(scope: Scope, status: int, taken: float) -> None:
    """Count a request under its route's template, never under an id."""
    route = getattr(scope.get("route"), "path", None) or "none"
    requests.labels(scope["method"] if scope["method"].isalpha() and len(scope["method"]) < 8 else "other", route, str(status)).inc()
    if not route.endswith("/events"):
        seconds.labels(route).observe(taken)


class State(Collector):
    """What the store and the disk say now."""

    def __init__(self, api: Api):
        self.api = api

    def collect(self) -> Iterator[Metric]:
        counts = self.api.store.counts()
        jobs = GaugeMetricFamily("trainyard_jobs", "Jobs by state.", labels=["status"])
        for state, count in counts["jobs"].items():
            jobs.add_metric([state], count)
        yield jobs
        oldest = counts["oldest_queued_at"]
        for name, about, value in (
            ("trainyard_queue_oldest_seconds", "How long the oldest queued job has waited.", seconds_now() - seconds_of(oldest) if oldest else 0.0),
            ("trainyard_datasets", "Datasets in the store.", counts["datasets"]),
            ("trainyard_workers", "Worker processes that are alive.", len(heartbeat.workers(self.api.wake.folder))),
            ("trainyard_event_streams", "Open event streams.", self.api.streams),
            ("trainyard_disk_free_bytes", "Free space on the disk of the home folder.", shutil.disk_usage(self.api.settings.home).free),
            ("trainyard_uptime_seconds", "Age of the API process.", time.time() - self.api.started_at),
        ):
            yield GaugeMetricFamily(name, about, value)


def exposition(api: Api) -> bytes:
    """All numbers in Prometheus's text format."""
    registry = CollectorRegistry()
    for collector in (requests, seconds, State(api)):
        registry.register(collector)
    ProcessCollector(registry=registry)
    return generate_latest(registry)
