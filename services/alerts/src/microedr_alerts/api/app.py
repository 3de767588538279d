"""The application: routes, guards, problems, and the page that describes them."""

from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from fastapi.routing import APIRoute

from microedr_alerts.api import actions, alerts, docs, hosts, problems, stream
from microedr_alerts.api.context import ApiContext, Context
from microedr_alerts.api.guards import Guards
from microedr_alerts.models import HealthAnswer, Problem

VERSION = "1"

_REFUSALS: dict[int | str, dict[str, Any]] = {
    status.value: {
        "description": status.phrase,
        "content": {problems.MEDIA_TYPE: {"schema": Problem.model_json_schema()}},
    }
    for status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.SERVICE_UNAVAILABLE)
}

_health = APIRouter(tags=["health"])


@_health.get("/v1/health")
async def health(context: Context, response: Response) -> HealthAnswer:
    """Whether the service does its work; 503: not all of it. Needs no token."""
    if context.health().ok:
        return HealthAnswer(status="ok")
    response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    return HealthAnswer(status="degraded")


def create_app(context: ApiContext) -> FastAPI:
    """The API over ``context``."""
    app = FastAPI(
        title="microedr alert API",
        version=VERSION,
        description="Alerts, hosts and actions. Every request but health carries `Authorization: Bearer <token>`. "
        'Lists are `{"items": […], "next_cursor": …}`; errors are problem+json (RFC 9457).',
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
    )
    app.state.context = context
    for resource in (alerts, hosts, actions, stream):
        app.include_router(resource.router, responses=_REFUSALS)
    app.include_router(_health)
    app.include_router(docs.router)
    problems.install(app)
    app.add_middleware(Guards)
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name
