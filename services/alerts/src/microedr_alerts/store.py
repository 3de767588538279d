"""Reading for the API: each function is one question, asked inside a transaction of the tenant."""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import orjson

from microedr_alerts.models import Action, AlertDetail, AlertSummary, AuditEntry, Host
from microedr_alerts.postgres import Connection
from microedr_alerts.projection import alert_detail
from microedr_alerts.words import severity_word, state_word, type_word

_ALERT_COLUMNS = """alert_id, revision, host_id, rule_id, severity, event_unix_ns, raised_unix_ns, brief,
    state, state_by, state_unix_ns, state_note, resolution"""

_HOSTS = """
SELECT host_id, at_unix_ns, first_seen_unix_ns, session,
       (SELECT count(*) FROM alerts WHERE alerts.host_id = hosts.host_id AND state = 'open') AS open_alerts
FROM hosts
"""


@dataclass(slots=True)
class Conditions:
    """The WHERE of a query, grown one condition at a time; values travel as parameters only."""

    values: list[Any] = field(default_factory=list)
    _texts: list[str] = field(default_factory=list)

    def add(self, text: str, *values: Any) -> None:
        """``text`` with ``{}`` where each value goes."""
        first = len(self.values) + 1
        self._texts.append(text.format(*(f"${first + i}" for i in range(len(values)))))
        self.values.extend(values)

    @property
    def where(self) -> str:
        """The clause, empty without conditions."""
        return f"WHERE {' AND '.join(self._texts)}" if self._texts else ""


async def list_alerts(connection: Connection, conditions: Conditions, limit: int) -> list[AlertSummary]:
    """The newest ``limit`` alerts for which all conditions hold."""
    rows = await connection.fetch(
        f"SELECT {_ALERT_COLUMNS} FROM alerts {conditions.where} "  # noqa: S608 - only our own words; values are parameters
        f"ORDER BY raised_unix_ns DESC, alert_id DESC LIMIT {int(limit)}",
        *conditions.values,
    )
    actions = await _actions_of(connection, [str(row["alert_id"]) for row in rows])
    return [AlertSummary(**_alert(row, actions)) for row in rows]


async def alerts_by_id(connection: Connection, alert_ids: Iterable[str]) -> dict[str, AlertSummary]:
    """Those of these alerts that there are."""
    conditions = Conditions()
    wanted = [uuid.UUID(alert_id) for alert_id in alert_ids]
    conditions.add("alert_id = ANY({})", wanted)
    return {alert.alert_id: alert for alert in await list_alerts(connection, conditions, len(wanted))}


async def find_alert(connection: Connection, alert_id: uuid.UUID) -> AlertDetail | None:
    """The alert with all its evidence."""
    row = await connection.fetchrow(f"SELECT {_ALERT_COLUMNS}, alert FROM alerts WHERE alert_id = $1", alert_id)  # noqa: S608 - our own words
    if row is None:
        return None
    actions = await _actions_of(connection, [str(alert_id)])
    history = await connection.fetch(
        "SELECT at_unix_ns, principal, verb, detail FROM audit WHERE subject_id = $1 ORDER BY audit_id", str(alert_id)
    )
    entries = [AuditEntry(**{**entry, "detail": orjson.loads(entry["detail"])}) for entry in history]
    return AlertDetail(**_alert(row, actions), **alert_detail(row["alert"]), history=entries)


async def list_actions(connection: Connection, conditions: Conditions, limit: int) -> list[Action]:
    """The newest ``limit`` actions for which all conditions hold."""
    rows = await connection.fetch(
        f"SELECT * FROM actions {conditions.where} "  # noqa: S608 - only our own words; values are parameters
        f"ORDER BY created_unix_ns DESC, action_id DESC LIMIT {int(limit)}",
        *conditions.values,
    )
    return await _with_steps(connection, rows)


async def actions_by_id(connection: Connection, action_ids: Iterable[str]) -> dict[str, Action]:
    """Those of these actions that there are."""
    conditions = Conditions()
    wanted = list(action_ids)
    conditions.add("action_id = ANY({})", wanted)
    return {action.action_id: action for action in await list_actions(connection, conditions, len(wanted))}


async def list_hosts(connection: Connection, *, after: str, limit: int) -> list[Host]:
    """``limit`` hosts in the order of their ids, from the one after ``after``."""
    rows = await connection.fetch(f"{_HOSTS} WHERE host_id > $1 ORDER BY host_id LIMIT $2", after, limit)
    return [_host(row) for row in rows]


async def find_host(connection: Connection, host_id: str) -> Host | None:
    """One host."""
    row = await connection.fetchrow(f"{_HOSTS} WHERE host_id = $1", host_id)
    return None if row is None else _host(row)


async def _actions_of(connection: Connection, alert_ids: Sequence[str]) -> dict[str, list[Action]]:
    if not alert_ids:
        return {}
    rows = await connection.fetch(
        "SELECT * FROM actions WHERE alert_id = ANY($1) ORDER BY created_unix_ns, action_id", list(alert_ids)
    )
    grouped: dict[str, list[Action]] = {}
    for action in await _with_steps(connection, rows):
        grouped.setdefault(action.alert_id, []).append(action)
    return grouped


async def _with_steps(connection: Connection, rows: Sequence[asyncpg.Record]) -> list[Action]:
    if not rows:
        return []
    steps = await connection.fetch(
        "SELECT * FROM action_steps WHERE action_id = ANY($1) ORDER BY state_rank, at_unix_ns",
        [row["action_id"] for row in rows],
    )
    grouped: dict[str, list[asyncpg.Record]] = {}
    for step in steps:
        grouped.setdefault(step["action_id"], []).append(step)
    return [_action(row, grouped.get(row["action_id"], [])) for row in rows]


def _alert(row: asyncpg.Record, actions: dict[str, list[Action]]) -> dict[str, Any]:
    alert_id = str(row["alert_id"])
    return {
        **orjson.loads(row["brief"]),
        "alert_id": alert_id,
        "revision": row["revision"],
        "host_id": row["host_id"],
        "rule_id": row["rule_id"],
        "severity": severity_word(row["severity"]),
        "event_unix_ns": row["event_unix_ns"],
        "raised_unix_ns": row["raised_unix_ns"],
        "state": row["state"],
        "state_by": row["state_by"],
        "state_unix_ns": row["state_unix_ns"],
        "state_note": row["state_note"],
        "resolution": row["resolution"],
        "actions": actions.get(alert_id, []),
    }


def _action(row: asyncpg.Record, steps: Sequence[asyncpg.Record]) -> Action:
    shown = [
        {
            "state": state_word(step["state"]),
            "at_unix_ns": step["at_unix_ns"],
            "actor": step["actor"],
            "reason": step["reason"],
            "detail": step["detail"],
            "evidence_event_ids": [str(event_id) for event_id in step["evidence_event_ids"]],
        }
        for step in steps
    ]
    return Action.model_validate(
        {
            "action_id": row["action_id"],
            "type": type_word(row["type"]),
            "host_id": row["host_id"],
            "alert_id": row["alert_id"],
            "rule_id": row["rule_id"],
            "target": {
                "pid": row["pid"],
                "process_uid": row["process_uid"].hex(),
                "start_boot_ns": row["start_boot_ns"],
                "exe": row["exe"],
            },
            "state": state_word(row["state"]),
            "reason": row["reason"],
            "detail": row["detail"],
            "created_unix_ns": row["created_unix_ns"],
            "state_unix_ns": row["state_unix_ns"],
            "proof_event_ids": [e for step in shown if step["state"] == "observed" for e in step["evidence_event_ids"]],
            "trace_id": row["trace_id"],
            "steps": shown,
        }
    )


def _host(row: asyncpg.Record) -> Host:
    return Host(
        **orjson.loads(row["session"]),
        host_id=row["host_id"],
        first_seen_unix_ns=row["first_seen_unix_ns"],
        last_seen_unix_ns=row["at_unix_ns"],
        open_alerts=row["open_alerts"],
    )
