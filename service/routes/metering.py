"""Numbers for Prometheus: requests as they are answered; jobs, streams and disk when somebody asks, and what the other processes have counted.

Labels have few values: states, routes as templates, results; never an id.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from starlette.types import Scope

from service import heartbeat, tally
from service.jobs import seconds_now, seconds_of
from service.routes.api import Api
from service.routes.observing import answered

disable_created_metrics()
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
requests = Counter("trainyard_http_requests", "Requests answered.", ["method", "route", "status"], registry=None)
seconds = Histogram("trainyard_http_request_duration_seconds", "Time to the end of the answer; streams left out.", ["route"], registry=None,
                    buckets=BUCKETS)
predictions = Counter("trainyard_predictions", "Predictions asked for, by the status of the answer.", ["status"], registry=None)
PREDICTING = ("/predict", "/infer")


def request(scope: Scope, status: int, taken: float) -> None:
    """Count a request under its route's template, never under an id."""
    route = getattr(scope.get("route"), "path", None) or "none"
    requests.labels(scope["method"] if scope["method"].isalpha() and len(scope["method"]) < 8 else "other", route, str(status)).inc()
    if not route.endswith("/events"):
        seconds.labels(route).observe(taken)
    if route.endswith(PREDICTING):
        predictions.labels(str(status)).inc()
    answered(scope, route, status, taken)


class State(Collector):
    """What the store, the workers and the disk say now."""

    def __init__(self, api: Api):
        self.api = api

    def collect(self) -> Iterator[Metric]:
        counts = self.api.store.counts()
        jobs = GaugeMetricFamily("trainyard_jobs", "Jobs by state.", labels=["status"])
        for state, count in counts["jobs"].items():
            jobs.add_metric([state], count)
        yield jobs
        hearts = heartbeat.hearts(self.api.wake.folder)
        oldest = counts["oldest_queued_at"]
        for name, about, value in (
            ("queue_oldest_seconds", "How long the oldest queued job has waited.", seconds_now() - seconds_of(oldest) if oldest else 0.0),
            ("datasets", "Datasets in the store.", counts["datasets"]),
            ("workers", "Worker processes that are alive.", len(hearts)),
            ("workers_busy", "Worker processes that train a job.", sum(heart.phase == heartbeat.BUSY for heart in hearts.values())),
            ("workers_silence_seconds", "The longest that a worker has not said that it is there.",
             max((heart.silence for heart in hearts.values()), default=0.0)),
            ("workers_resident_bytes", "Memory of the workers' own.", sum(heartbeat.resident(pid) for pid in hearts)),
            ("webhooks_waiting", "Deliveries of webhooks that are still to be made.", self.api.store.deliveries_waiting()),
            ("sse_clients", "Open event streams.", self.api.streams),
            ("disk_free_bytes", "Free space on the disk of the home folder.", shutil.disk_usage(self.api.settings.home).free),
            ("uptime_seconds", "Age of the API process.", time.time() - self.api.started_at),
        ):
            yield GaugeMetricFamily(f"trainyard_{name}", about, value)
        yield from self._tallies()

    def _tallies(self) -> Iterator[Metric]:
        """What workers, the courier and the supervisor have counted."""
        found = tally.totals(self.api.wake.folder)
        for name, kind in tally.KINDS.items():
            labels = [kind.label] if kind.label else []
            made = (HistogramMetricFamily if kind.buckets else CounterMetricFamily)(f"trainyard_{name}", kind.about, labels=labels)
            for value in kind.values:
                numbers, named = found[name, value], [value] if kind.label else []
                if isinstance(made, HistogramMetricFamily):
                    bounds = [*map(floatToGoString, kind.buckets), "+Inf"]
                    made.add_metric(named, list(zip(bounds, accumulate(numbers[:-1]), strict=True)), numbers[-1])
                else:
                    made.add_metric(named, numbers[0])
            yield made


def exposition(api: Api) -> bytes:
    """All numbers in Prometheus's text format."""
    registry = CollectorRegistry()
    for collector in (requests, seconds, predictions, State(api)):
        registry.register(collector)
    ProcessCollector(registry=registry)
    return generate_latest(registry)
