"""/v1/stream: what happens, as server-sent events.

The id of an event is its place in the outbox: a client that comes back with ``Last-Event-ID`` misses nothing and
sees nothing twice. Each stream reads the database at the pace of its client.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Header
from sse_starlette import EventSourceResponse, ServerSentEvent

from microedr_alerts.api.context import ApiContext, Caller, Context
from microedr_alerts.changes import Principal
from microedr_alerts.errors import PostgresUnavailableError, ProblemError
from microedr_alerts.outbox import is_pruned, newest_id, read_news
from microedr_chassis.backoff import Backoff

PING_S = 15
LOOK_ANYWAY_S = 30.0
"""Without a bell: its connection may be dead and nobody knows yet."""

SEND_TIMEOUT_S = 30.0
"""A client that takes nothing for so long is gone."""

RETRY_MS = 2000

router = APIRouter(prefix="/v1/stream", tags=["stream"])


@router.get("", response_model=None, responses={200: {"content": {"text/event-stream": {}}}})
async def stream(
    context: Context,
    caller: Caller,
    last_event_id: Annotated[int | None, Header(ge=0, lt=2**63, description="Resume after this event.")] = None,
) -> EventSourceResponse:
    """Events `alert.raised`, `alert.updated`, `alert.acked`, `alert.closed` (data: the alert as in lists) and
    `action.updated` (data: the action), from now on or after `Last-Event-ID`. `stream.reset`: that id is too old, read
    the lists.
    """
    if context.streams_open >= context.max_streams or context.closing:
        raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, "too many streams are open", headers={"Retry-After": "10"})
    async with context.database.transaction(caller.tenant_id) as connection:
        start = await newest_id(connection) if last_event_id is None else last_event_id
        reset = last_event_id is not None and await is_pruned(connection, last_event_id)
        if reset:
            start = await newest_id(connection)
    return EventSourceResponse(
        _events(context, caller, start, reset=reset), ping=PING_S, send_timeout=SEND_TIMEOUT_S, sep="\n"
    )


async def _events(context: ApiContext, caller: Principal, start: int, *, reset: bool) -> AsyncIterator[ServerSentEvent]:
    context.streams_open += 1
    try:
        # At once, so that the client knows it is connected and where it stands.
        yield ServerSentEvent(
            event="stream.reset" if reset else "stream.open", data="{}", id=str(start), retry=RETRY_MS
        )
        backoff = Backoff(first_s=0.5, most_s=5.0)
        last_id = start
        with context.bell.waiting(caller.tenant_id) as bell:
            while not context.closing:
                bell.clear()
                try:
                    async with context.database.transaction(caller.tenant_id) as connection:
                        last_id, news = await read_news(connection, last_id)
                except PostgresUnavailableError:
                    await asyncio.sleep(backoff.next_s())
                    continue
                backoff.reset()
                for item in news:
                    yield ServerSentEvent(event=item.kind, id=str(item.outbox_id), data=item.subject.model_dump_json())
                if not news:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_ANYWAY_S):
                            await bell.wait()
    finally:
        context.streams_open -= 1
