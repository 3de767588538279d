"""What analysts change, each with its line in the audit and in the outbox, in one transaction."""

import uuid
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson

from microedr_alerts import statements
from microedr_alerts.errors import ProblemError
from microedr_alerts.postgres import Connection


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks."""

    name: str
    tenant_id: str
    peer: str
    """Address the request came from."""


async def ack_alert(
    connection: Connection, principal: Principal, alert_id: uuid.UUID, *, note: str, now_unix_ns: int
) -> None:
    """Somebody looks after it. Acked already: nothing changes.

    Raises:
        ProblemError: There is no such alert, or it is closed.
    """
    state = await _locked_state(connection, alert_id)
    if state == "closed":
        raise ProblemError(HTTPStatus.CONFLICT, "the alert is closed; a closed alert is not acked")
    if state == "open":
        await _set_state(connection, principal, alert_id, "acked", note, "", now_unix_ns)


async def close_alert(  # noqa: PLR0913 - all of it is recorded
    connection: Connection, principal: Principal, alert_id: uuid.UUID, *, note: str, resolution: str, now_unix_ns: int
) -> None:
    """It is done with. Closed already: nothing changes, the first note and resolution stay.

    Raises:
        ProblemError: There is no such alert.
    """
    if await _locked_state(connection, alert_id) != "closed":
        await _set_state(connection, principal, alert_id, "closed", note, resolution, now_unix_ns)


async def record_audit(  # noqa: PLR0913, PLR0917 - all of it is recorded
    connection: Connection, principal: Principal, verb: str, subject_id: str, detail: dict[str, Any], now_unix_ns: int
) -> None:
    """Write who did what to the audit, which nobody can change afterwards."""
    await connection.execute(
        "INSERT INTO audit (tenant_id, at_unix_ns, principal, verb, subject_id, peer, detail) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7)",
        principal.tenant_id,
        now_unix_ns,
        principal.name,
        verb,
        subject_id,
        principal.peer,
        orjson.dumps(detail).decode(),
    )


async def _locked_state(connection: Connection, alert_id: uuid.UUID) -> str:
    # The outbox's lock comes first everywhere, so that no two transactions wait for each other.
    await connection.execute(statements.LOCK_OUTBOX)
    state = await connection.fetchval("SELECT state FROM alerts WHERE alert_id = $1 FOR UPDATE", alert_id)
    if state is None:
        raise ProblemError(HTTPStatus.NOT_FOUND, "there is no such alert")
    return str(state)


async def _set_state(  # noqa: PLR0913, PLR0917 - one row's columns
    connection: Connection,
    principal: Principal,
    alert_id: uuid.UUID,
    state: str,
    note: str,
    resolution: str,
    now_unix_ns: int,
) -> None:
    await connection.execute(
        "UPDATE alerts SET state = $2, state_by = $3, state_unix_ns = $4, state_note = $5, resolution = $6 "
        "WHERE alert_id = $1",
        alert_id,
        state,
        principal.name,
        now_unix_ns,
        note,
        resolution,
    )
    verb = {"acked": "alert.ack", "closed": "alert.close"}[state]
    detail = {"note": note, **({"resolution": resolution} if resolution else {})}
    await record_audit(connection, principal, verb, str(alert_id), detail, now_unix_ns)
    await connection.execute(
        "INSERT INTO outbox (tenant_id, at_unix_ns, kind, subject_id) VALUES ($1, $2, $3, $4)",
        principal.tenant_id,
        now_unix_ns,
        f"alert.{state}",
        str(alert_id),
    )
    await connection.execute(statements.NOTIFY, principal.tenant_id)
