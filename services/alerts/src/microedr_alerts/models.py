"""What the API answers. Times are Unix nanoseconds, ids text, process_uid hex; nothing is ever left out."""

from typing import Any, Generic, Literal, TypeVar, get_args

from pydantic import BaseModel, Field

Severity = Literal["informational", "low", "medium", "high", "critical"]
AlertState = Literal["open", "acked", "closed"]
Resolution = Literal["true_positive", "false_positive", "benign", "duplicate"]
ActionState = Literal[
    "requested",
    "approved",
    "signed",
    "relayed",
    "refused",
    "expired",
    "executed",
    "failed",
    "observed",
    "reverted",
    "unknown",
]

ItemT = TypeVar("ItemT")


class Page(BaseModel, Generic[ItemT]):
    """A part of a list, newest first."""

    items: list[ItemT]
    next_cursor: str | None = Field(description="Pass it as `cursor` for what follows; null: this is the end.")


class ProcessTarget(BaseModel):
    """Which process an action is about; all of it must hold when it is carried out."""

    pid: int
    process_uid: str = Field(description="Names one process on one host for ever; 32 hex digits.")
    start_boot_ns: int = Field(description="Start of the process, nanoseconds since boot.")
    exe: str = Field(description="Executable; empty: not compared.")


class ActionStep(BaseModel):
    """One step in the life of an action."""

    state: str
    at_unix_ns: int
    actor: str = Field(description="Who took it: `rule:<id>`, `user:<name>`, `service:<name>` or `agent`.")
    reason: str
    detail: str
    evidence_event_ids: list[str] = Field(description="Events that prove it, when the state is `observed`.")


class Action(BaseModel):
    """A containment order and what came of it."""

    action_id: str
    type: str = Field(description="`kill_process`")
    host_id: str
    alert_id: str = Field(description="Empty: asked for without an alert.")
    rule_id: str
    target: ProcessTarget
    state: str = Field(description=f"The furthest step: {', '.join(get_args(ActionState))}.")
    reason: str
    detail: str
    created_unix_ns: int
    state_unix_ns: int
    proof_event_ids: list[str] = Field(description="Events by which telemetry proves the effect. Empty: no proof yet.")
    trace_id: str
    steps: list[ActionStep] = Field(description="All steps, earliest first.")


class Entities(BaseModel):
    """Who did it and what it touched. 0 and empty: not part of it."""

    pid: int
    process_uid: str
    start_boot_ns: int
    exe: str
    cmdline: str
    user: str
    ppid: int
    parent_exe: str
    dst_ip: str
    dst_port: int
    container_id: str


class AlertSummary(BaseModel):
    """An alert as lists and the stream show it."""

    alert_id: str
    revision: int = Field(description="Grows when matches are folded in.")
    event_unix_ns: int = Field(description="When the first matching event happened.")
    last_event_unix_ns: int
    matched_unix_ns: int = Field(description="When the first match was made.")
    raised_unix_ns: int = Field(description="When the alert was raised; lists are sorted by it.")
    host_id: str
    hostname: str
    rule_id: str
    rule_title: str
    severity: str
    confidence: float
    title: str
    summary: str
    tags: list[str]
    entities: Entities
    matched_fields: dict[str, str]
    evidence_event_ids: list[str]
    evidence_complete: bool = Field(description="False: something is missing, `evidence_gaps` says what.")
    evidence_gaps: str
    match_count: int = Field(description="Matches this alert stands for.")
    folded_count: int = Field(description="Of those, how many the rate limit folded in.")
    trace_id: str
    state: AlertState
    state_by: str
    state_unix_ns: int
    state_note: str
    resolution: str
    actions: list[Action]


class Evidence(BaseModel):
    """One event and why it is shown."""

    role: str = Field(description="`match`, `ancestor` or `destination`.")
    event: dict[str, Any] = Field(description="The event, with the names of the wire contract.")


class RuleAction(BaseModel):
    """What a rule would have done."""

    type: str
    auto_if_confidence_gte: float = Field(
        description="Done without asking from this confidence on; 0: only when asked."
    )


class Rule(BaseModel):
    """The rule as it stood when it fired."""

    rule_id: str
    title: str
    description: str
    severity: str
    confidence: float
    rule_hash: str
    tags: list[str]
    author: str
    references: list[str]
    builtin: bool
    actions: list[RuleAction]
    group_by: list[str]


class ProcessNode(BaseModel):
    """A process of the tree."""

    process_uid: str
    parent_process_uid: str
    pid: int
    ppid: int
    exe: str
    cmdline: str
    user: str
    start_unix_ns: int
    exit_unix_ns: int = Field(description="0: still running as far as known.")


class Destination(BaseModel):
    """Where a process of the tree connected to."""

    ip: str
    port: int
    proto: str
    process_uid: str
    first_unix_ns: int
    last_unix_ns: int
    count: int


class AuditEntry(BaseModel):
    """Something an analyst did."""

    at_unix_ns: int
    principal: str
    verb: str
    detail: dict[str, Any]


class AlertDetail(AlertSummary):
    """An alert with its evidence."""

    rule: Rule
    evidence: list[Evidence]
    process_tree: list[ProcessNode] = Field(description="From the matching process up to its oldest known ancestor.")
    destinations: list[Destination] = Field(description="Where that tree recently connected to.")
    history: list[AuditEntry] = Field(description="What analysts did with it, earliest first.")


class Host(BaseModel):
    """A machine and its agent."""

    host_id: str
    hostname: str
    os: str
    os_version: str
    kernel_version: str
    agent_version: str
    collector: str = Field(description="What sees its events: `ebpf`, `etw`, …; empty: nothing does.")
    boot_id: str
    connection: str = Field(description="`connected` or `disconnected`.")
    can_respond: bool = Field(description="Whether actions can be carried out there.")
    first_seen_unix_ns: int
    last_seen_unix_ns: int
    spool_pending_events: int
    ring_dropped_total: int
    attach_failures: list[str]
    blind_spots: list[str]
    open_alerts: int


class HealthAnswer(BaseModel):
    """Whether the service does its work. Says why not in its log and on its metrics page only."""

    status: Literal["ok", "degraded"]


class Problem(BaseModel):
    """Why a request was refused (RFC 9457, `application/problem+json`)."""

    type: str
    title: str
    status: int
    detail: str
    errors: list["FieldProblem"] = Field(default_factory=list)


class FieldProblem(BaseModel):
    """What is wrong with one field."""

    field: str
    detail: str
