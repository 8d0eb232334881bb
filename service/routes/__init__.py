"""The calls of the service, a file for each kind of thing."""

from fastapi import APIRouter

from service.routes import catalogue, datasets, docs, events, health, jobs, lifecycle, models, predict, results, tokens, unbuilt, webhooks

ROUTERS: tuple[APIRouter, ...] = (datasets.router, jobs.router, lifecycle.router, events.router, results.router, predict.router, models.router, webhooks.router,
                                  tokens.router, catalogue.router, unbuilt.router, health.router, docs.router)
