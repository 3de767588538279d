"""An analyst's request for an action: which process is meant, and the step that asks for it.

The request is stored and audited first, then published: an order that nobody can trace is never given. When
publishing fails the request stands as requested, and the same request with the same key publishes it again.
"""

import uuid
from dataclasses import dataclass
from http import HTTPStatus

from microedr import headers, ids
from microedr.v1.action_pb2 import ACTION_STATE_REQUESTED, ACTION_TYPE_KILL_PROCESS, ActionUpdate, ProcessTarget
from microedr_alerts import statements, store
from microedr_alerts.changes import Principal, record_audit
from microedr_alerts.errors import ProblemError
from microedr_alerts.models import Action
from microedr_alerts.postgres import Connection
from microedr_alerts.projection import action_change
from microedr_chassis.bus import topics
from microedr_chassis.bus.api import Record
from microedr_chassis.tracing import new_trace_id

MIN_PID = 2
"""pid 1 is never killed; the responder refuses it as well."""

MAX_PID = 4_194_304
"""PID_MAX_LIMIT of 64-bit Linux."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the request says; None: take it from the alert."""

    alert_id: uuid.UUID | None
    host_id: str | None
    process_uid: bytes | None
    pid: int | None
    start_boot_ns: int | None
    exe: str | None
    detail: str


async def request_kill(
    connection: Connection, principal: Principal, wanted: Wanted, *, key: str | None, now_unix_ns: int
) -> Action:
    """Store the request, once per ``key``; returns the action as it stands.

    Raises:
        ProblemError: No process is meant, the alert means another, or the key was used for another.
    """
    update = await _resolved(connection, wanted)
    update.action_id = (
        str(uuid.uuid4())
        if key is None
        else ids.action_id(f"request:{principal.tenant_id}:{principal.name}:{key}", "kill_process", "")
    )
    update.tenant_id = principal.tenant_id
    update.state = ACTION_STATE_REQUESTED
    update.type = ACTION_TYPE_KILL_PROCESS
    update.at_unix_ns = now_unix_ns
    update.actor = f"user:{principal.name}"
    update.detail = wanted.detail
    await connection.execute(statements.LOCK_OUTBOX)
    known = await store.actions_by_id(connection, [update.action_id])
    if update.action_id in known:
        return _same(known[update.action_id], update)
    await connection.execute(statements.STORE_STEP, *action_change(principal.tenant_id, update).row)
    detail = {
        "type": "kill_process",
        "host_id": update.host_id,
        "pid": update.process.pid,
        "process_uid": update.process.process_uid.hex(),
        "alert_id": update.alert_id,
        "detail": update.detail,
    }
    await record_audit(connection, principal, "action.request", update.action_id, detail, now_unix_ns)
    if update.alert_id:
        detail["action_id"] = update.action_id
        await record_audit(connection, principal, "action.request", update.alert_id, detail, now_unix_ns)
    await connection.execute(statements.NOTIFY, principal.tenant_id)
    return (await store.actions_by_id(connection, [update.action_id]))[update.action_id]


def request_record(tenant_id: str, action: Action) -> Record:
    """The record that asks the actioner; the same action gives the same record."""
    step = next(step for step in action.steps if step.state == "requested")
    update = ActionUpdate(
        action_id=action.action_id,
        tenant_id=tenant_id,
        host_id=action.host_id,
        state=ACTION_STATE_REQUESTED,
        at_unix_ns=step.at_unix_ns,
        type=ACTION_TYPE_KILL_PROCESS,
        process=ProcessTarget(
            pid=action.target.pid,
            process_uid=bytes.fromhex(action.target.process_uid),
            start_boot_ns=action.target.start_boot_ns,
            exe=action.target.exe,
        ),
        alert_id=action.alert_id,
        rule_id=action.rule_id,
        actor=step.actor,
        detail=step.detail,
        trace_id=action.trace_id,
    )
    record_headers = {
        headers.TENANT: tenant_id.encode(),
        headers.HOST: action.host_id.encode(),
        headers.TRACE: action.trace_id.encode(),
    }
    return Record(topics.ACTIONS, action.host_id.encode(), update.SerializeToString(), record_headers)


async def _resolved(connection: Connection, wanted: Wanted) -> ActionUpdate:
    update = ActionUpdate(
        host_id=wanted.host_id or "",
        process=ProcessTarget(
            pid=wanted.pid or 0,
            process_uid=wanted.process_uid or b"",
            start_boot_ns=wanted.start_boot_ns or 0,
            exe=wanted.exe or "",
        ),
        trace_id=new_trace_id(),
    )
    if wanted.alert_id is not None:
        await _fill_from_alert(connection, wanted, wanted.alert_id, update)
    given = {
        "host_id": bool(update.host_id),
        "process_uid": bool(update.process.process_uid),
        "pid": bool(update.process.pid),
        "start_boot_ns": bool(update.process.start_boot_ns),
    }
    missing = [name for name, there in given.items() if not there]
    if missing:
        why = "the alert does not tell it" if wanted.alert_id else "needed without an alert_id"
        raise _wrong("no process is named", *((name, why) for name in missing))
    if not MIN_PID <= update.process.pid <= MAX_PID:
        raise _wrong("this process is never killed", ("pid", f"from {MIN_PID} to {MAX_PID}"))
    if await store.find_host(connection, update.host_id) is None:
        raise _wrong("there is no such host", ("host_id", "no agent of that host was ever connected"))
    return update


async def _fill_from_alert(connection: Connection, wanted: Wanted, alert_id: uuid.UUID, update: ActionUpdate) -> None:
    alert = await store.find_alert(connection, alert_id)
    if alert is None:
        raise _wrong("there is no such alert", ("alert_id", "unknown"))
    entities = alert.entities
    told = {
        "host_id": (wanted.host_id, alert.host_id),
        "process_uid": (wanted.process_uid, bytes.fromhex(entities.process_uid)),
        "pid": (wanted.pid, entities.pid),
        "start_boot_ns": (wanted.start_boot_ns, entities.start_boot_ns),
        "exe": (wanted.exe, entities.exe),
    }
    # Another process of the same tree may be meant: then all that names it must be given, nothing is mixed.
    if wanted.process_uid is not None and wanted.process_uid != told["process_uid"][1]:
        if wanted.host_id not in (None, alert.host_id):
            raise _wrong("the alert is about another host", ("host_id", f"the alert's is {alert.host_id}"))
        update.host_id = alert.host_id
    else:
        differing = [name for name, (given, known) in told.items() if given is not None and given != known]
        if differing:
            raise _wrong(
                "the alert is about another process", *((name, "differs from the alert") for name in differing)
            )
        update.host_id = alert.host_id
        update.process.pid = entities.pid
        update.process.process_uid = bytes.fromhex(entities.process_uid)
        update.process.start_boot_ns = entities.start_boot_ns
        update.process.exe = entities.exe
    update.alert_id = alert.alert_id
    update.rule_id = alert.rule_id
    update.trace_id = alert.trace_id or update.trace_id


def _same(known: Action, update: ActionUpdate) -> Action:
    if known.host_id != update.host_id or known.target.process_uid != update.process.process_uid.hex():
        raise _wrong("the key was used for another action", ("Idempotency-Key", "draw a new one for each action"))
    return known


def _wrong(detail: str, *fields: tuple[str, str]) -> ProblemError:
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, detail, fields=fields)
