"""The calls of the service, a file for each kind of thing."""

from fastapi import APIRouter

from service.routes import (
    catalogue,
    datasets,
    docs,
    download,
    events,
    forks,
    health,
    jobs,
    lifecycle,
    models,
    predict,
    results,
    tokens,
    uploads,
    v2,
    webhooks,
)

ROUTERS: tuple[APIRouter, ...] = (
    datasets.router, uploads.router, jobs.router, forks.router, lifecycle.router, events.router, results.router, download.router, predict.router,
    models.router, webhooks.router, tokens.router, v2.router, catalogue.router, health.router, docs.router)
