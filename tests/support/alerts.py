"""Valid alerts to break one thing of, and records of them and of sessions and updates."""

from dataclasses import dataclass

from microedr import headers
from microedr.v1.action_pb2 import ActionType, ActionUpdate
from microedr.v1.detection_pb2 import Alert, Entities, RuleAction, RuleRef, Severity
from microedr.v1.transport_pb2 import HostSession, SessionState
from microedr_chassis.bus import topics
from microedr_chassis.bus.api import Record
from support.orders import HOST, NONCE, TENANT

RULE = "remote_fetch_to_shell"


@dataclass(frozen=True, slots=True)
class AlertOf:
    """One alert whose rule asks for a kill; ``replace`` a field and ``build``."""

    event_unix_ns: int
    alert_id: str = "alert-1"
    tenant_id: str = TENANT
    host_id: str = HOST
    rule_id: str = RULE
    confidence: float = 0.95
    threshold: float = 0.90
    builtin: bool = True
    action_type: ActionType.ValueType = ActionType.ACTION_TYPE_KILL_PROCESS
    pid: int = 4242
    process_uid: bytes = b"p" * 16
    start_boot_ns: int = 99_000_000_000
    exe: str = "/tmp/evil"

    def build(self) -> Alert:
        """The alert."""
        return Alert(
            alert_id=self.alert_id,
            revision=1,
            tenant_id=self.tenant_id,
            host_id=self.host_id,
            rule=RuleRef(
                rule_id=self.rule_id,
                severity=Severity.SEVERITY_HIGH,
                confidence=self.confidence,
                builtin=self.builtin,
                actions=[RuleAction(type=self.action_type, auto_if_confidence_gte=self.threshold)],
            ),
            confidence=self.confidence,
            event_unix_ns=self.event_unix_ns,
            entities=Entities(
                pid=self.pid, process_uid=self.process_uid, start_boot_ns=self.start_boot_ns, exe=self.exe
            ),
            trace_id="0" * 32,
        )


def session_of(at_unix_ns: int, *, host_id: str = HOST, nonce: bytes = NONCE, connected: bool = True) -> HostSession:
    """What ingest says of a host."""
    state = SessionState.SESSION_STATE_CONNECTED if connected else SessionState.SESSION_STATE_DISCONNECTED
    return HostSession(tenant_id=TENANT, host_id=host_id, state=state, at_unix_ns=at_unix_ns, session_nonce=nonce)


def record_about(message: Alert | HostSession | ActionUpdate, topic: str = "") -> Record:
    """``message`` on its topic; updates go to topic actions unless told otherwise."""
    if not topic:
        topic = {Alert: topics.ALERTS, HostSession: topics.HOSTS, ActionUpdate: topics.ACTIONS}[type(message)]
    return Record(
        topic=topic,
        key=message.host_id.encode(),
        value=message.SerializeToString(),
        headers={headers.TENANT: message.tenant_id.encode(), headers.HOST: message.host_id.encode()},
    )
