"""OpenTelemetry, where `OTEL_EXPORTER_OTLP_ENDPOINT` says where traces go; else nothing of it is loaded, and these functions do nothing.

A request is a span, and so is each attempt at a job, below the request that made the job: its `traceparent` waits in the store with it. Who does not
take the spans is not waited for. Needs `pip install 'trainyard[otel]'`; the variables are OpenTelemetry's own.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from service import logs

WANTED = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
EXPORT_SECONDS = 5          # for one export
LAST_SECONDS = 2.0          # for what is left when the process ends
log = logs.of("traces")
_tracer: Any = None


def begin(role: str, version: str = "") -> None:
    """From here on this process makes spans, where it is told to."""
    global _tracer
    if not any(os.environ.get(name) for name in WANTED) or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    os.environ.setdefault("OTEL_BSP_SCHEDULE_DELAY", "1000")
    try:
        sdk, resources = import_module("opentelemetry.sdk.trace"), import_module("opentelemetry.sdk.resources")
        exports, otlp = import_module("opentelemetry.sdk.trace.export"), import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    except ImportError as error:
        log.warning("traces are asked for, but OpenTelemetry is not installed (%s): pip install 'trainyard[otel]'", error)
        return
    about = {"service.name": os.environ.get("OTEL_SERVICE_NAME", "trainyard"), "service.version": version, "process.pid": os.getpid(),
             "trainyard.role": role}
    provider = sdk.TracerProvider(resource=resources.Resource.create(about), shutdown_on_exit=False)
    provider.add_span_processor(exports.BatchSpanProcessor(otlp.OTLPSpanExporter(timeout=EXPORT_SECONDS)))
    _tracer = provider.get_tracer("trainyard")
    atexit.register(_end, provider)


def wanted() -> bool:
    """Whether spans go anywhere."""
    return _tracer is not None


def _end(provider: Any) -> None:
    ending = threading.Thread(target=provider.shutdown, daemon=True)
    ending.start()
    ending.join(LAST_SECONDS)


@contextmanager
def span(name: str, kind: str = "INTERNAL", parent: str | None = None, **about: Any) -> Iterator[Any]:
    """A span around the block, below `parent` (a traceparent). Yields it, or None where nothing is traced. An exception is noted and goes on."""
    if _tracer is None:
        yield None
        return
    trace, propagate = import_module("opentelemetry.trace"), import_module("opentelemetry.trace.propagation.tracecontext")
    context = propagate.TraceContextTextMapPropagator().extract({"traceparent": parent}) if parent else None
    known = {key: value for key, value in about.items() if value not in (None, "")}
    with _tracer.start_as_current_span(name, context=context, kind=getattr(trace.SpanKind, kind), attributes=known) as made:
        yield made


def note(made: Any, name: str = "", failed: str = "", **about: Any) -> None:
    """Attributes of a span that `span` gave, known only now; another name; and why it went wrong."""
    if made is None:
        return
    made.set_attributes({key.replace("__", "."): value for key, value in about.items() if value not in (None, "")})
    if name:
        made.update_name(name)
    if failed:
        status = import_module("opentelemetry.trace.status")
        made.set_status(status.Status(status.StatusCode.ERROR, failed))


def traceparent() -> str | None:
    """The span that this is done in, as a header has it; None where nothing is traced."""
    if _tracer is None:
        return None
    carrier: dict[str, str] = {}
    import_module("opentelemetry.trace.propagation.tracecontext").TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


def attributes(**about: Any) -> Mapping[str, Any]:
    """Names with dots, as OpenTelemetry has them, for `span`: `http__route` is `http.route`."""
    return {key.replace("__", "."): value for key, value in about.items()}
