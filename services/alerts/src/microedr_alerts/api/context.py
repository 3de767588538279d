"""What the routes work with, and who asks."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Protocol

import structlog
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from microedr_alerts.changes import Principal
from microedr_alerts.errors import ProblemError
from microedr_alerts.outbox import Bell
from microedr_alerts.postgres import Database
from microedr_alerts.token import is_same_token
from microedr_chassis.bus.api import Record, TopicPartition
from microedr_chassis.lifecycle import Health

_log = structlog.get_logger()

TOKEN_PRINCIPAL = "token"  # noqa: S105 - the name of whoever holds it


class Publisher(Protocol):
    """Where requested actions go: the bus."""

    async def publish(self, record: Record) -> tuple[TopicPartition, int]:
        """Publish and wait until it is durable."""


@dataclass(slots=True)
class ApiContext:
    """One per application."""

    database: Database
    bell: Bell
    publisher: Publisher
    health: Callable[[], Health]
    token: str
    tenant_id: str
    max_streams: int = 64
    clock_unix_ns: Callable[[], int] = time.time_ns
    streams_open: int = field(default=0, init=False)
    closing: bool = field(default=False, init=False)

    def close_streams(self) -> None:
        """End all streams; their clients resume elsewhere or later."""
        self.closing = True
        self.bell.ring()


_bearer = HTTPBearer(auto_error=False, description="The content of the API token file.")


def context_of(request: Request) -> ApiContext:
    """What ``create_app`` was given."""
    context = request.app.state.context
    if not isinstance(context, ApiContext):
        raise TypeError("the application was not made by create_app")
    return context


def authenticated(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Principal:
    """Who asks; whoever does not say gets 401 and learns nothing else."""
    context = context_of(request)
    peer = request.client.host if request.client else ""
    if credentials is None or not is_same_token(credentials.credentials, context.token):
        if credentials is not None:
            _log.warning("authentication_failed", peer=peer)
        raise ProblemError(
            HTTPStatus.UNAUTHORIZED,
            "send the API token: Authorization: Bearer <token>",
            headers={"WWW-Authenticate": 'Bearer realm="microedr"'},
        )
    return Principal(TOKEN_PRINCIPAL, context.tenant_id, peer)


Context = Annotated[ApiContext, Depends(context_of)]
Caller = Annotated[Principal, Depends(authenticated)]
