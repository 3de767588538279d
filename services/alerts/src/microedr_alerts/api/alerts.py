"""/v1/alerts: list, look at, ack, close."""

import datetime as dt
import re
import uuid
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, field_validator

from microedr_alerts import store
from microedr_alerts.api.context import Caller, Context
from microedr_alerts.changes import ack_alert, close_alert
from microedr_alerts.cursor import decode_cursor, encode_cursor
from microedr_alerts.errors import ProblemError
from microedr_alerts.models import AlertDetail, AlertState, AlertSummary, Page, Resolution, Severity
from microedr_alerts.postgres import Connection
from microedr_alerts.words import severity_number

MAX_LIMIT = 500
MAX_NOTE_CHARS = 4096

_LIKE_WORDS = re.compile(r"[\\%_]")
_ESCAPED = r"\\\g<0>"

router = APIRouter(prefix="/v1/alerts", tags=["alerts"])


class AlertQuery(BaseModel):
    """Filters; all given must hold, of one given several times any may."""

    model_config = ConfigDict(extra="forbid")

    severity: list[Severity] = Field(default_factory=list, max_length=5)
    min_severity: Severity | None = None
    state: list[AlertState] = Field(default_factory=list, max_length=3)
    host_id: str | None = Field(default=None, max_length=64)
    rule_id: str | None = Field(default=None, max_length=256)
    since: str | None = Field(default=None, description="Raised at or after: RFC 3339 with zone, or Unix nanoseconds.")
    until: str | None = Field(default=None, description="Raised before: as `since`.")
    q: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="Part of title, summary, host name, exe or command line.",
    )
    limit: int = Field(default=50, ge=1, le=MAX_LIMIT)
    cursor: str | None = Field(default=None, max_length=256)

    @field_validator("since", "until")
    @classmethod
    def _is_instant(cls, text: str | None) -> str | None:
        if text is not None:
            instant_unix_ns(text)
        return text


class Note(BaseModel):
    """What the analyst has to say."""

    model_config = ConfigDict(extra="forbid")

    note: str = Field(default="", max_length=MAX_NOTE_CHARS)


class Closing(Note):
    """Why it is closed."""

    resolution: Resolution | None = None


def instant_unix_ns(text: str) -> int:
    """Unix nanoseconds of an RFC 3339 time with a zone, or of such a number.

    Raises:
        ValueError: It is neither.
    """
    if text.isascii() and text.isdigit():
        number = int(text)
    else:
        try:
            moment = dt.datetime.fromisoformat(text)
        except ValueError:
            raise ValueError("write RFC 3339 with a zone, 2030-01-31T12:00:00Z, or Unix nanoseconds") from None
        if moment.tzinfo is None:
            raise ValueError("the time has no zone; append Z for UTC")
        number = (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1) * 1000
    if not 0 <= number < 2**63:
        raise ValueError("the time is out of range")
    return number


@router.get("")
async def list_alerts(context: Context, caller: Caller, query: Annotated[AlertQuery, Query()]) -> Page[AlertSummary]:
    """Alerts, newest first. New ones never move those on later pages."""
    conditions = _conditions(query)
    async with context.database.transaction(caller.tenant_id) as connection:
        found = await store.list_alerts(connection, conditions, query.limit + 1)
    items = found[: query.limit]
    more = len(found) > query.limit
    return Page(items=items, next_cursor=encode_cursor(items[-1].raised_unix_ns, items[-1].alert_id) if more else None)


@router.get("/{alert_id}")
async def show_alert(context: Context, caller: Caller, alert_id: uuid.UUID) -> AlertDetail:
    """One alert with evidence, process tree, actions and history."""
    async with context.database.transaction(caller.tenant_id) as connection:
        return await _existing(connection, alert_id)


@router.post("/{alert_id}:ack")
async def ack(context: Context, caller: Caller, alert_id: uuid.UUID, body: Note | None = None) -> AlertDetail:
    """Take it on. Doing it again changes nothing; a closed alert answers 409."""
    note = body.note if body else ""
    async with context.database.transaction(caller.tenant_id) as connection:
        await ack_alert(connection, caller, alert_id, note=note, now_unix_ns=context.clock_unix_ns())
        return await _existing(connection, alert_id)


@router.post("/{alert_id}:close")
async def close(context: Context, caller: Caller, alert_id: uuid.UUID, body: Closing | None = None) -> AlertDetail:
    """Be done with it. Doing it again changes nothing."""
    given = body or Closing()
    async with context.database.transaction(caller.tenant_id) as connection:
        await close_alert(
            connection,
            caller,
            alert_id,
            note=given.note,
            resolution=given.resolution or "",
            now_unix_ns=context.clock_unix_ns(),
        )
        return await _existing(connection, alert_id)


async def _existing(connection: Connection, alert_id: uuid.UUID) -> AlertDetail:
    alert = await store.find_alert(connection, alert_id)
    if alert is None:
        raise ProblemError(HTTPStatus.NOT_FOUND, "there is no such alert")
    return alert


def _conditions(query: AlertQuery) -> store.Conditions:
    conditions = store.Conditions()
    filters = (
        ("severity = ANY({})", [severity_number(severity) for severity in query.severity] or None),
        ("severity >= {}", severity_number(query.min_severity) if query.min_severity else None),
        ("state = ANY({})", list(query.state) or None),
        ("host_id = {}", query.host_id),
        ("rule_id = {}", query.rule_id),
        ("raised_unix_ns >= {}", None if query.since is None else instant_unix_ns(query.since)),
        ("raised_unix_ns < {}", None if query.until is None else instant_unix_ns(query.until)),
        ("search_text ILIKE {}", None if query.q is None else f"%{_LIKE_WORDS.sub(_ESCAPED, query.q)}%"),
    )
    for text, value in filters:
        if value is not None:
            conditions.add(text, value)
    if query.cursor is not None:
        raised_unix_ns, alert_id = decode_cursor(query.cursor)
        try:
            conditions.add("(raised_unix_ns, alert_id) < ({}, {})", raised_unix_ns, uuid.UUID(alert_id))
        except ValueError:
            raise ProblemError(
                HTTPStatus.UNPROCESSABLE_ENTITY, "cursor is wrong", fields=[("cursor", "of another list")]
            ) from None
    return conditions
