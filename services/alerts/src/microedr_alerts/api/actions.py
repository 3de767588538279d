"""/v1/actions: list, look at, ask for one."""

import asyncio
import uuid
from http import HTTPStatus
from typing import Annotated, Literal

import structlog
from fastapi import APIRouter, Header, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from microedr_alerts import store
from microedr_alerts.api.context import Caller, Context
from microedr_alerts.cursor import decode_cursor, encode_cursor
from microedr_alerts.errors import ProblemError
from microedr_alerts.models import Action, ActionState, Page
from microedr_alerts.requests import Wanted, request_kill, request_record
from microedr_alerts.words import state_number
from microedr_chassis.errors import BusError

_log = structlog.get_logger()

MAX_LIMIT = 500
PUBLISH_TIMEOUT_S = 5.0

router = APIRouter(prefix="/v1/actions", tags=["actions"])


class ActionQuery(BaseModel):
    """Filters; all given must hold, of one given several times any may."""

    model_config = ConfigDict(extra="forbid")

    state: list[ActionState] = Field(default_factory=list, max_length=11)
    host_id: str | None = Field(default=None, max_length=64)
    alert_id: str | None = Field(default=None, max_length=64)
    limit: int = Field(default=50, ge=1, le=MAX_LIMIT)
    cursor: str | None = Field(default=None, max_length=256)


class ActionRequest(BaseModel):
    """Which process to kill: an alert's (alert_id alone), or that of host_id, process_uid, pid and start_boot_ns."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["kill_process"]
    alert_id: uuid.UUID | None = None
    host_id: str | None = Field(default=None, min_length=1, max_length=64)
    process_uid: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{32}$")
    pid: int | None = Field(default=None, ge=0, lt=2**32)
    start_boot_ns: int | None = Field(default=None, ge=1, lt=2**63)
    exe: str | None = Field(default=None, max_length=4096)
    reason: str = Field(default="", max_length=500, description="For those who read it later.")


@router.get("")
async def list_actions(context: Context, caller: Caller, query: Annotated[ActionQuery, Query()]) -> Page[Action]:
    """Actions, newest first."""
    conditions = store.Conditions()
    if query.state:
        conditions.add("state = ANY({})", [state_number(state) for state in query.state])
    if query.host_id is not None:
        conditions.add("host_id = {}", query.host_id)
    if query.alert_id is not None:
        conditions.add("alert_id = {}", query.alert_id)
    if query.cursor is not None:
        conditions.add("(created_unix_ns, action_id) < ({}, {})", *decode_cursor(query.cursor))
    async with context.database.transaction(caller.tenant_id) as connection:
        found = await store.list_actions(connection, conditions, query.limit + 1)
    items = found[: query.limit]
    more = len(found) > query.limit
    return Page(
        items=items, next_cursor=encode_cursor(items[-1].created_unix_ns, items[-1].action_id) if more else None
    )


@router.get("/{action_id}")
async def show_action(context: Context, caller: Caller, action_id: uuid.UUID) -> Action:
    """One action with all its steps."""
    async with context.database.transaction(caller.tenant_id) as connection:
        known = await store.actions_by_id(connection, [str(action_id)])
    if str(action_id) not in known:
        raise ProblemError(HTTPStatus.NOT_FOUND, "there is no such action")
    return known[str(action_id)]


@router.post("", status_code=HTTPStatus.ACCEPTED)
async def request_action(
    context: Context,
    caller: Caller,
    body: ActionRequest,
    response: Response,
    idempotency_key: Annotated[
        str | None,
        Header(min_length=8, max_length=128, description="The same key asks for the same action: safe to send again."),
    ] = None,
) -> Action:
    """Ask for an action. 202: it is on its way; its state tells how far it came."""
    wanted = Wanted(
        alert_id=body.alert_id,
        host_id=body.host_id,
        process_uid=None if body.process_uid is None else bytes.fromhex(body.process_uid),
        pid=body.pid,
        start_boot_ns=body.start_boot_ns,
        exe=body.exe,
        detail=body.reason.replace("\0", ""),
    )
    async with context.database.transaction(caller.tenant_id) as connection:
        action = await request_kill(
            connection, caller, wanted, key=idempotency_key, now_unix_ns=context.clock_unix_ns()
        )
    if action.state == "requested":
        await _publish(context, caller.tenant_id, action)
    response.headers["Location"] = f"/v1/actions/{action.action_id}"
    return action


async def _publish(context: Context, tenant_id: str, action: Action) -> None:
    try:
        async with asyncio.timeout(PUBLISH_TIMEOUT_S):
            await context.publisher.publish(request_record(tenant_id, action))
    except (BusError, TimeoutError) as error:
        _log.warning("action_request_not_published", action_id=action.action_id, error=str(error))
        raise ProblemError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"the bus is away: action {action.action_id} may not be carried out; send it again with the same "
            "Idempotency-Key",
            headers={"Retry-After": "5"},
        ) from error
    _log.info("action_requested", action_id=action.action_id, host_id=action.host_id, alert_id=action.alert_id)
