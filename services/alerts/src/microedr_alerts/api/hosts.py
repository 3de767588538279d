"""/v1/hosts: machines and their agents."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from microedr_alerts import store
from microedr_alerts.api.context import Caller, Context
from microedr_alerts.cursor import decode_cursor, encode_cursor
from microedr_alerts.errors import ProblemError
from microedr_alerts.models import Host, Page

MAX_LIMIT = 500

router = APIRouter(prefix="/v1/hosts", tags=["hosts"])


class HostQuery(BaseModel):
    """Which part of the list."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=100, ge=1, le=MAX_LIMIT)
    cursor: str | None = Field(default=None, max_length=256)


@router.get("")
async def list_hosts(context: Context, caller: Caller, query: Annotated[HostQuery, Query()]) -> Page[Host]:
    """Hosts by id."""
    after = decode_cursor(query.cursor)[1] if query.cursor is not None else ""
    async with context.database.transaction(caller.tenant_id) as connection:
        found = await store.list_hosts(connection, after=after, limit=query.limit + 1)
    items = found[: query.limit]
    return Page(items=items, next_cursor=encode_cursor(0, items[-1].host_id) if len(found) > query.limit else None)


@router.get("/{host_id}")
async def show_host(context: Context, caller: Caller, host_id: str) -> Host:
    """One host."""
    async with context.database.transaction(caller.tenant_id) as connection:
        host = await store.find_host(connection, host_id)
    if host is None:
        raise ProblemError(HTTPStatus.NOT_FOUND, "there is no such host")
    return host
