"""What a record of the bus becomes in the database: pure, and the place where bad records are told from good ones."""

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from google.protobuf.message import DecodeError, Message

from microedr import headers
from microedr.ids import is_valid_name
from microedr.v1.action_pb2 import ActionUpdate
from microedr.v1.detection_pb2 import Alert
from microedr.v1.transport_pb2 import HostSession
from microedr_alerts.readable import complete, event_id_text, readable
from microedr_alerts.words import STATE_RANKS, connection_word
from microedr_chassis.errors import DeadLetterError

MAX_SEARCH_CHARS = 4096
"""Of title, summary, command line and names together; what is searched by ``q``."""

_MAX_BIGINT = 2**63 - 1

MessageT = TypeVar("MessageT", bound=Message)
Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """One row to store, with the statement of its kind in ``statements``."""

    kind: str
    tenant_id: str
    row: Row
    order: tuple[str, int] = ("", 0)
    """Of an alert: its id and revision."""


def tenant_of(record_headers: Mapping[str, bytes]) -> str:
    """The tenant a record belongs to: its header says so, never its content.

    Raises:
        DeadLetterError: There is none, or it is no name.
    """
    tenant_id = record_headers.get(headers.TENANT, b"").decode("ascii", "replace")
    if not is_valid_name(tenant_id):
        raise DeadLetterError("bad_headers", f"header {headers.TENANT} names no tenant")
    return tenant_id


def parse(kind: type[MessageT], value: bytes) -> MessageT:
    """The message in ``value``.

    Raises:
        DeadLetterError: There is none.
    """
    try:
        return kind.FromString(value)
    except DecodeError as error:
        raise DeadLetterError("undecodable", f"not a {kind.DESCRIPTOR.name}: {error}") from error


def alert_change(tenant_id: str, alert: Alert, now_unix_ns: int) -> Change:
    """The alert as a row of ``statements.STORE_ALERT``.

    Raises:
        DeadLetterError: A field cannot be.
    """
    _require(is_valid_name(alert.host_id), "host_id is no name")
    _require(bool(alert.rule.rule_id), "rule_id is empty")
    _require(math.isfinite(alert.confidence), "confidence is not a number")
    _require(max(alert.event_unix_ns, alert.raised_unix_ns, alert.revision) <= _MAX_BIGINT, "a number is too large")
    alert_id = _uuid("alert_id", alert.alert_id)
    row = (
        tenant_id,
        alert_id,
        alert.revision,
        alert.host_id,
        _text(alert.rule.rule_id),
        int(alert.severity),
        alert.event_unix_ns,
        alert.raised_unix_ns or now_unix_ns,
        now_unix_ns,
        _json(_brief(alert)),
        alert.SerializeToString(),
        _text(_search_text(alert)),
    )
    return Change("alert", tenant_id, row, (str(alert_id), alert.revision))


def host_change(tenant_id: str, session: HostSession) -> Change:
    """The session as a row of ``statements.STORE_HOST``.

    Raises:
        DeadLetterError: A field cannot be.
    """
    _require(is_valid_name(session.host_id), "host_id is no name")
    _require(session.at_unix_ns <= _MAX_BIGINT, "a number is too large")
    shown = {
        "hostname": session.hostname,
        "os": session.os,
        "os_version": session.os_version,
        "kernel_version": session.kernel_version,
        "agent_version": session.agent_version,
        "collector": session.collector,
        "boot_id": session.boot_id,
        "connection": connection_word(session.state),
        "can_respond": bool(session.session_nonce),
        "spool_pending_events": session.spool_pending_events,
        "ring_dropped_total": session.ring_dropped_total,
        "attach_failures": list(session.attach_failures),
        "blind_spots": list(session.blind_spots),
    }
    return Change("host", tenant_id, (tenant_id, session.host_id, session.at_unix_ns, _json(shown)))


def action_change(tenant_id: str, update: ActionUpdate) -> Change:
    """The step as a row of ``statements.STORE_STEP``.

    Raises:
        DeadLetterError: A field cannot be.
    """
    rank = STATE_RANKS.get(update.state)
    if rank is None:
        raise DeadLetterError("undecodable", f"state {update.state} is not known")
    action_id = str(_uuid("action_id", update.action_id))
    _require(max(update.at_unix_ns, update.process.start_boot_ns) <= _MAX_BIGINT, "a number is too large")
    row = (
        tenant_id,
        action_id,
        _text(update.host_id),
        _text(update.alert_id),
        _text(update.rule_id),
        int(update.type),
        update.process.pid,
        update.process.process_uid,
        update.process.start_boot_ns,
        _text(update.process.exe),
        _text(update.trace_id),
        int(update.state),
        rank,
        update.at_unix_ns,
        _text(update.actor),
        _text(update.reason),
        _text(update.detail),
        [_uuid("evidence_event_ids", event_id_text(raw)) for raw in update.evidence_event_ids],
    )
    return Change("action", tenant_id, row)


def _brief(alert: Alert) -> dict[str, Any]:
    entities = alert.entities
    return {
        "hostname": alert.hostname,
        "rule_title": alert.rule.title,
        "tags": list(alert.rule.tags),
        "confidence": alert.confidence,
        "title": alert.title or alert.rule.title,
        "summary": alert.summary,
        "matched_unix_ns": alert.matched_unix_ns,
        "last_event_unix_ns": alert.last_event_unix_ns or alert.event_unix_ns,
        "entities": {
            "pid": entities.pid,
            "process_uid": entities.process_uid.hex(),
            "start_boot_ns": entities.start_boot_ns,
            "exe": entities.exe,
            "cmdline": entities.cmdline,
            "user": entities.user,
            "ppid": entities.ppid,
            "parent_exe": entities.parent_exe,
            "dst_ip": entities.dst_ip,
            "dst_port": entities.dst_port,
            "container_id": entities.container_id,
        },
        "matched_fields": dict(alert.matched_fields),
        "evidence_event_ids": [event_id_text(item.event.event_id) for item in alert.evidence],
        "evidence_complete": alert.evidence_complete,
        "evidence_gaps": alert.evidence_gaps,
        "match_count": alert.match_count,
        "folded_count": alert.folded_count,
        "trace_id": alert.trace_id,
    }


def alert_detail(raw: bytes) -> dict[str, Any]:
    """What the whole alert tells beyond its brief."""
    alert = Alert.FromString(raw)
    return {
        "rule": complete(alert.rule),
        "evidence": [{"role": item.role, "event": readable(item.event)} for item in alert.evidence],
        "process_tree": [complete(node) for node in alert.ancestry],
        "destinations": [complete(destination) for destination in alert.destinations],
    }


def _search_text(alert: Alert) -> str:
    parts = (alert.title, alert.summary, alert.hostname, alert.rule.title, alert.entities.exe, alert.entities.cmdline)
    return "\n".join(part for part in parts if part)[:MAX_SEARCH_CHARS]


def _require(holds: bool, what: str) -> None:  # noqa: FBT001 - reads as a sentence
    if not holds:
        raise DeadLetterError("undecodable", what)


def _uuid(name: str, text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise DeadLetterError("undecodable", f"{name} is no UUID") from None


def _text(text: str) -> str:
    # The one character PostgreSQL's text cannot hold; argv of an attacker can.
    return text.replace("\0", "\ufffd")


def _json(value: Any) -> str:
    return orjson.dumps(_clean(value)).decode()


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        return {_text(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return value
